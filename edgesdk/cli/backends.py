"""`edgesdk backends`: the engines and whether they can be used here."""

from __future__ import annotations

from rich.table import Table

from edgesdk.cli.options import Json
from edgesdk.cli.output import emit, reported_errors


def backends(as_json: Json = False) -> None:
    """List the registered backends, their versions, and how to install what is missing."""
    from edgesdk.backend import backend_names, load_backend

    with reported_errors(as_json=as_json):
        rows = []
        for name in backend_names():
            backend = load_backend(name)
            problem = backend.unavailable()
            rows.append(
                {
                    "name": name,
                    "usable": problem is None,
                    "version": None if problem else backend.version(),
                    "executions": sorted(backend.executions),
                    "problem": problem,
                }
            )
        table = Table("backend", "version", "executes in", "state")
        for row in rows:
            state = "[green]usable[/green]" if row["usable"] else f"[red]{row['problem']}[/red]"
            executions = row["executions"]
            table.add_row(
                str(row["name"]),
                str(row["version"] or "-"),
                ", ".join(executions if isinstance(executions, list) else []),
                state,
            )
        emit(rows, table, as_json=as_json)
