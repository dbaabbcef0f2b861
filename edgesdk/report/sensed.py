"""What sensors of the device told while candidates ran."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from edgesdk.measure.sensing import Sensed
from edgesdk.report import words
from edgesdk.report.document import DeployReport
from edgesdk.report.markup import Markup, el

TITLE = "Power and heat"
NOTE = (
    "Means while nothing of ours ran and while the candidate ran without pause, apart from the timed "
    "runs. The energy of a run holds what the device takes at rest."
)
_COLUMNS = ("sensor", "at rest", "running", "mJ a run", "readings")


def sensed_on_page(report: DeployReport) -> tuple[str, Markup | None, str]:
    """Title, table and note of the section; no table where no sensor told anything."""
    rows = [row for row in words.in_order(report.rows) if row.sensed]
    if not rows:
        return "", None, ""
    head = el("tr", *(el("th", title) for title in ("candidate", *_COLUMNS)))
    lines = [
        el("tr", el("td", el("code", row.name)), *(el("td", cell) for cell in line))
        for row in rows
        for line in _lines(row.sensed)
    ]
    table = el("table", el("thead", head), el("tbody", *lines))
    return TITLE, el("div", table, class_="scroll"), NOTE


def sensed_in_terminal(sensed: Sequence[Sensed]) -> Table:
    """The sensors beside one measurement."""
    table = Table(
        title=f"\n{TITLE}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title == "sensor" else "right", overflow="fold")
    for line in _lines(sensed):
        table.add_row(*(Text(words.plain(cell)) for cell in line))
    return table


def _lines(sensed: Iterable[Sensed]) -> list[tuple[str, ...]]:
    return [
        (
            f"{item.name} ({item.kind})",
            _figure(item.idle, item.unit),
            _figure(item.loaded, item.unit),
            words.millijoules(item.run_mj),
            str(item.readings),
        )
        for item in sensed
    ]


def _figure(value: float | None, unit: str) -> str:
    return words.ABSENT if value is None else f"{value:,.1f} {unit}"
