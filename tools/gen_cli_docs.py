"""The command reference, written from the program itself: `python tools/gen_cli_docs.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

_INTRODUCTION = """# Commands

<!-- Written by tools/gen_cli_docs.py from the program; a change here is lost. Run `make docs`. -->

Every command with `--json` prints one JSON document on standard output and nothing else there;
progress goes to standard error. Exit codes: 0 done, 1 budget or gate not met, 2 wrong usage or
input, 3 the environment or the device failed.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    import typer.main

    from edgesdk.cli.app import app

    root: Any = typer.main.get_command(app)  # a click group; click has no types of its own here
    pages = [_INTRODUCTION]
    pages += [_page(name, command) for name, command in _commands("edgesdk", root)]
    return "\n".join(pages)


def _commands(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _commands(full, command)
        elif not command.hidden:
            yield full, command


def _page(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(
        [name, *(_argument(p) for p in arguments), *(["[OPTIONS]"] if options else [])]
    )
    lines = [f"## `{name}`", "", _plain(command.help), "", "```", usage, "```", ""]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{p.name.upper()}` | {_cell(p)} |" for p in arguments]
        lines += [""]
    if options:
        lines += ["| option | meaning |", "|---|---|"]
        lines += [f"| {_names(p)} | {_cell(p)} |" for p in options]
        lines += [""]
    return "\n".join(lines)


def _argument(parameter: Any) -> str:
    name = parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _names(parameter: Any) -> str:
    on, off = sorted(parameter.opts, key=len), sorted(parameter.secondary_opts, key=len)
    return ", ".join(f"`{name}`" for name in (*on, *off))


def _cell(parameter: Any) -> str:
    text = _plain(getattr(parameter, "help", None)).replace("|", "\\|")
    if parameter.param_type_name == "option" and parameter.required:
        text += " Required."
    default = parameter.default
    if isinstance(default, (int, float, str)) and not isinstance(default, bool):
        text += f" Default: `{default}`."
    return text


def _plain(text: str | None) -> str:
    """Paragraphs without the line breaks of the source, up to a form feed, as on the terminal."""
    shown = (text or "").partition("\f")[0]
    return "\n\n".join(" ".join(part.split()) for part in shown.split("\n\n")).strip()


def main() -> int:
    """Write the page."""
    REFERENCE.write_text(reference(), encoding="utf-8")
    print(REFERENCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
