"""The `edgesdk` command: one small module a subcommand."""

from __future__ import annotations

import typer

from edgesdk import __version__
from edgesdk.cli import (
    backends,
    compare,
    compress,
    deploy,
    devices,
    doctor,
    init,
    inspect,
    install,
    plan,
    probe,
    profile,
    profiles,
    validate,
)
from edgesdk.cli import (
    run as run_command,
)

app = typer.Typer(
    name="edgesdk",
    help="Plan, convert, prove, measure and bundle ONNX models for edge devices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.command("inspect")(inspect.inspect)
app.command("plan")(plan.plan)
app.command("deploy")(deploy.deploy)
app.command("compress")(compress.compress)
app.command("compare")(compare.compare)
app.command("validate")(validate.validate)
app.command("install")(install.install)
app.command("profile")(profile.profile)
app.command("run")(run_command.run)
app.command("probe")(probe.probe)
app.command("backends")(backends.backends)
app.add_typer(profiles.app, name="profiles")
app.add_typer(devices.app, name="devices")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgesdk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    del version


def run() -> None:
    """Run the command line."""
    app()
