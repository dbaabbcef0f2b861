"""`edgesdk profiles list | show | check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgesdk.cli.options import Json
from edgesdk.cli.output import emit, reported_errors

app = typer.Typer(help="Device profiles: list them, show one, check a file.", no_args_is_help=True)


@app.command("list")
def list_profiles(as_json: Json = False) -> None:
    """List the installed device profiles."""
    from edgesdk.profile import load_profile, profile_names

    with reported_errors(as_json=as_json):
        found = [load_profile(name) for name in profile_names()]
        table = Table("profile", "device", "architecture", "backends")
        for item in found:
            table.add_row(item.name, item.title, item.arch, ", ".join(item.backends))
        document = [
            {
                "name": item.name,
                "title": item.title,
                "arch": item.arch,
                "backends": list(item.backends),
            }
            for item in found
        ]
        emit(document, table, as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An installed name or a .toml file.")],
    as_json: Json = False,
) -> None:
    """Show a profile with everything it inherits, and where each figure comes from."""
    from edgesdk.profile import load_profile
    from edgesdk.report.profile import profile_view

    with reported_errors(as_json=as_json):
        found = load_profile(name)
        emit(found.to_json(), profile_view(found), as_json=as_json)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A profile of your own.")], as_json: Json = False
) -> None:
    """Check a profile file; says which key is wrong, its value and the legal ones."""
    from edgesdk.profile import load_profile

    with reported_errors(as_json=as_json):
        found = load_profile(str(file))
        emit({"ok": True, "name": found.name}, f"{file}: ok ({found.name})", as_json=as_json)
