"""`edgesdk probe` and `edgesdk devices probe`: how fast a device is, as a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesdk.cli.options import Backends, Device, Json, Threads
from edgesdk.cli.output import emit, reported_errors
from edgesdk.cli.progress import live_view

Out = Annotated[Path, typer.Option("--out", "-o", help="The profile to write, NAME.toml.")]
Seconds = Annotated[float, typer.Option("--seconds", min=1.0, help="How long it may take.")]


def probe(
    out: Out,
    backends: Backends = None,
    seconds: Seconds = 300.0,
    threads: Threads = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure the engines on a device by micro-benchmarks and write a profile with their speeds.

    With such a profile, plan and deploy predict latency and memory. Leave the device alone meanwhile.
    """
    _probe(out, backends, seconds, threads, device or "local", as_json=as_json)


def probe_device(
    name: Annotated[str, typer.Argument(help="A device, as ssh://user@host.")],
    out: Out,
    backends: Backends = None,
    seconds: Seconds = 300.0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure a device's engines and write a profile with their speeds, as `edgesdk probe` does."""
    _probe(out, backends, seconds, threads, name, as_json=as_json)


def _probe(
    out: Path,
    backends: list[str] | None,
    seconds: float,
    threads: int | None,
    device: str,
    *,
    as_json: bool,
) -> None:
    from edgesdk.probe.run import probe_machine

    with reported_errors(as_json=as_json), live_view() as listen:
        found = probe_machine(
            out,
            backends=tuple(backends or ()),
            seconds=seconds,
            threads=threads,
            device=device,
            listen=listen,
        )
        lines = [
            f"{found.path}: {found.measured} points in {len(found.profile.speeds)} series, "
            f"{found.seconds:.0f} s",
            *(f"! {failure}" for failure in found.failures),
        ]
        emit(found.to_json(), "\n".join(lines), as_json=as_json)
