"""`edgesdk probe`: how fast this machine is, as a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesdk.cli.options import Backends, Json, Threads
from edgesdk.cli.output import emit, reported_errors
from edgesdk.cli.progress import live_view


def probe(
    out: Annotated[Path, typer.Option("--out", "-o", help="The profile to write, NAME.toml.")],
    backends: Backends = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="How long it may take.")
    ] = 300.0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the engines on this machine by micro-benchmarks and write a profile with their speeds.

    With such a profile, plan and deploy predict latency and memory. Leave the machine alone meanwhile.
    """
    from edgesdk.probe.run import probe_machine

    with reported_errors(as_json=as_json), live_view() as listen:
        found = probe_machine(
            out, backends=tuple(backends or ()), seconds=seconds, threads=threads, listen=listen
        )
        lines = [
            f"{found.path}: {found.measured} points in {len(found.profile.speeds)} series, "
            f"{found.seconds:.0f} s",
            *(f"! {failure}" for failure in found.failures),
        ]
        emit(found.to_json(), "\n".join(lines), as_json=as_json)
