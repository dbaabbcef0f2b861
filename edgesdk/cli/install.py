"""`edgesdk install`: make a bundle ready on the device that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from edgesdk.cli.options import Json, Threads
from edgesdk.cli.output import emit, reported_errors


def install(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, where the app loads it from.")],
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Build on this machine what a bundle's engines need here, then run its golden samples.

    To be run on the device, once for each bundle and again after an update of its engine or driver.
    Exits 1 when an output is off.
    """
    from edgesdk.installing import install_bundle

    with reported_errors(as_json=as_json):
        found = install_bundle(bundle, threads=threads)
        table = Table("what", "result")
        for component, notes in found.built.items():
            table.add_row(component, "; ".join(notes))
        if not found.built:
            table.add_row("engines", "nothing has to be built here")
        mark = "[green]pass[/green]" if found.works else "[red]FAIL[/red]"
        table.add_row("golden samples", f"{mark} {found.detail}")
        emit(found.to_json(), Group(table), as_json=as_json)
        if not found.works:
            raise typer.Exit(1)
