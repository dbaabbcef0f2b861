"""`edgesdk compare`: models and bundles beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesdk.cli.options import Device, Json, Metrics, Threads
from edgesdk.cli.output import emit, reported_errors
from edgesdk.cli.progress import live_view


def compare(
    targets: Annotated[
        list[Path],
        typer.Argument(
            help="ONNX files and bundles; the first is what the others are compared with.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        str,
        typer.Option(
            "--samples",
            "-s",
            help="Real inputs: an .npz file, a folder of .npz files, or module:function.",
        ),
    ],
    metrics: Metrics = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Engine for ONNX files; a bundle has its own.")
    ] = "onnxruntime",
    threads: Threads = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show parameters, size, MACs, latency, memory and quality of models beside each other.

    Times are taken in turns with the first. Exits 1 when one of them does not run.
    """
    from edgesdk.comparing import compare_targets
    from edgesdk.report.comparing import BesideView

    with reported_errors(as_json=as_json), live_view(quiet=as_json) as listen:
        found = compare_targets(
            targets,
            samples=samples,
            metrics=metrics or (),
            backend=backend,
            threads=threads,
            device=device or "local",
            listen=listen,
        )
    emit(found.to_json(), BesideView(found), as_json=as_json)
    if any(entry.problem for entry in found.entries):
        raise typer.Exit(1)
