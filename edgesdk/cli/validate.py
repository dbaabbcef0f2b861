"""`edgesdk validate`: is a bundle whole, and does it still do its job?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from edgesdk.cli.options import Device, Floors, Json, MaxFallback, Metrics, Samples, Threads
from edgesdk.cli.output import emit, reported_errors


def validate(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder or a zip of it.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="The float original, to compare with on --samples."),
    ] = None,
    samples: Samples = None,
    metrics: Metrics = None,
    floors: Floors = None,
    max_fallback: MaxFallback = None,
    threads: Threads = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Check a bundle: every hash, then its golden samples, then (with --model and --samples) quality.

    Exits 1 when an output, a floor or --max-fallback is not kept, 2 when the bundle is damaged.
    """
    from edgesdk.budget import parse_max_fallback
    from edgesdk.validation import validate_bundle

    with reported_errors(as_json=as_json):
        result = validate_bundle(
            bundle,
            model=model,
            samples=samples,
            metrics=tuple(metrics or ()),
            floors=tuple(floors or ()),
            max_fallback=None if max_fallback is None else parse_max_fallback(max_fallback),
            threads=threads,
            device=device or "local",
        )
        table = Table("check", "result", "detail")
        for item in result.checks:
            mark = "[green]pass[/green]" if item.passed else "[red]FAIL[/red]"
            table.add_row(item.name, mark, item.detail)
        emit(result.to_json(), Group(table, result.headline), as_json=as_json)
        if not result.passed:
            raise typer.Exit(1)
