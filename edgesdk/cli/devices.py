"""`edgesdk devices list | check | probe`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from edgesdk.cli.options import Backends, Json
from edgesdk.cli.output import emit, reported_errors
from edgesdk.cli.probe import probe_device

app = typer.Typer(help="Where candidates can be run: list, check, probe one.", no_args_is_help=True)


@app.command("list")
def list_devices(as_json: Json = False) -> None:
    """List the devices that `--device` takes."""
    from edgesdk.device.find import known_devices

    with reported_errors(as_json=as_json):
        found = known_devices()
        table = Table("device", "what it is", "its figures are")
        for item in found:
            table.add_row(escape(item.name), item.title, item.figures)
        emit([item.to_json() for item in found], table, as_json=as_json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A device, as emulated:cortex-a76.")],
    backends: Backends = None,
    as_json: Json = False,
) -> None:
    """Make a device ready, and say what it is and which engines run there.

    Exits 3 when it cannot be made ready, or no engine runs there.
    """
    from edgesdk.device.find import check_device

    with reported_errors(as_json=as_json):
        found = check_device(name, backends or ())
        table = Table("", "", show_header=False)
        for label, value in found.rows():
            table.add_row(label, value)
        emit(found.to_json(), table, as_json=as_json)
        if not found.usable:
            raise typer.Exit(3)


app.command("probe")(probe_device)
