"""`edgesdk run`: inputs through a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgesdk.cli.options import Json, Threads
from edgesdk.cli.output import emit, reported_errors


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder or a zip of it.")],
    inputs: Annotated[
        Path, typer.Option("--input", "-i", help="An .npz whose arrays are named as the inputs.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the outputs to this .npz.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run a bundle once on the inputs of an .npz file."""
    from edgesdk.arrays import load_arrays, save_arrays
    from edgesdk.runtime import load

    with reported_errors(as_json=as_json):
        feed = load_arrays(inputs)
        with load(bundle, threads=threads) as session:
            outputs = session.run(feed)
        if out is not None:
            save_arrays(out, outputs)
        table = Table("output", "dtype", "shape", "first values")
        document = {}
        for name, array in outputs.items():
            first = array.reshape(-1)[:4].tolist()
            table.add_row(name, str(array.dtype), str(list(array.shape)), str(first))
            document[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "first": first}
        emit({"outputs": document, "file": str(out) if out else None}, table, as_json=as_json)
