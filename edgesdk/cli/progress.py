"""The live view of a long command: what runs now, what is done, on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from edgesdk.cli.output import progress_console
from edgesdk.events import Event, Listener, nobody

_EVERY_S = 30.0
"""Between two lines of progress in a log."""
_MARKS = {"done": ("✓", "green"), "failed": ("✗", "red"), "note": ("·", "cyan")}


@contextmanager
def live_view(*, quiet: bool = False) -> Iterator[Listener]:
    """A listener that shows events as they come: a bar on a terminal, plain lines in a log."""
    if quiet:
        yield nobody
        return
    console = progress_console()
    bar = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("starting", total=None)
        started = time.monotonic()
        last = [started]

        def listen(event: Event) -> None:
            if event.total:
                bar.update(task, completed=event.done, total=event.total)
            if event.state == "progress":
                bar.update(task, description=f"{event.stage} {event.subject} {event.message}")
                if not console.is_terminal and time.monotonic() - last[0] > _EVERY_S:
                    _print_line(console, event, time.monotonic() - started)
                    last[0] = time.monotonic()
            elif event.state == "begin":
                bar.update(task, description=f"{event.stage} {event.subject}".strip())
            else:
                _print_line(console, event, time.monotonic() - started)

        yield listen


def _print_line(console: Console, event: Event, seconds: float) -> None:
    mark, style = _MARKS.get(event.state, _MARKS["note"])
    line = Text(f"{seconds:6.1f}s ")
    line.append(f"{mark} ", style=style)
    line.append(f"{event.stage:9}", style="dim")
    if event.subject:
        line.append(f"{event.subject}  ", style="bold")
    line.append(event.message + ("  (cached)" if event.cached else ""))
    console.print(line, soft_wrap=True)
