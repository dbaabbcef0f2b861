"""The command line: arguments in, exit code out; no logic of its own."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `edgesdk` command."""
    from edgesdk.cli.app import run

    run()
