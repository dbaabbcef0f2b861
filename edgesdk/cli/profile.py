"""`edgesdk profile`: where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesdk.cli.options import Device, Json, Samples, Threads
from edgesdk.cli.output import emit, reported_errors


def profile(
    target: Annotated[Path, typer.Argument(help="A bundle (folder or zip) or an ONNX file.")],
    samples: Samples = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Engine for an ONNX file; a bundle has its own.")
    ] = "onnxruntime",
    execution: Annotated[
        str, typer.Option("--execution", help="fp32, bf16 or fp16, for an ONNX file.")
    ] = "fp32",
    threads: Threads = None,
    device: Device = None,
    device_profile: Annotated[
        str | None,
        typer.Option("--profile", help="Profile of the device: its sensors of power are read."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Operations to list.")] = 15,
    as_json: Json = False,
) -> None:
    """Profile a bundle or model: cold and warm times, memory, per operation and unit."""
    from edgesdk.profiling import profile_target
    from edgesdk.report.profile import profiling_view

    with reported_errors(as_json=as_json):
        found = profile_target(
            target,
            samples=samples,
            backend=backend,
            execution=execution,
            threads=threads,
            device=device or "local",
            profile=device_profile,
        )
        emit(found.to_json(), profiling_view(found, top=top), as_json=as_json)
