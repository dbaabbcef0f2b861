"""`edgesdk doctor`: can this machine do the job?"""

from __future__ import annotations

import typer
from rich.table import Table

from edgesdk.cli.options import Json
from edgesdk.cli.output import emit, reported_errors


def doctor(as_json: Json = False) -> None:
    """Check this machine: engines, CPU features, memory, cache; says what to do about each gap.

    Exits 3 when no engine is usable.
    """
    from edgesdk.doctor import diagnose

    with reported_errors(as_json=as_json):
        findings = diagnose()
        table = Table("", "what", "found", "what to do")
        marks = {"ok": "[green]ok[/green]", "warn": "[yellow]![/yellow]", "bad": "[red]x[/red]"}
        for item in findings:
            table.add_row(marks[item.state], item.what, item.found, item.remedy)
        emit([item.to_json() for item in findings], table, as_json=as_json)
        if any(item.state == "bad" for item in findings):
            raise typer.Exit(3)
