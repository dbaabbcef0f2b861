"""The final view of a deploy in a terminal: headline, table, why the others lost, warnings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgesdk.report import elsewhere, removed, words
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.fallback import fallback_in_terminal

WIDE = 110
"""Columns from which memory, load time and intervals have room."""

_STYLES = {
    "chosen": "bold green",
    "passed": "cyan",
    "not_better": "dim",
    "over_budget": "yellow",
    "undecided": "yellow",
    "failed": "red",
    "noisy": "magenta",
    "reference": "dim",
    "error": "red",
    "no_time": "dim",
}


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[Row], str]
    wide_only: bool = False


def render_terminal(report: DeployReport) -> RenderableType:
    """The view; it fits itself to the width of the console that prints it."""
    return _View(report)


class _View:
    def __init__(self, report: DeployReport) -> None:
        self._report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self._report
        yield _headline(report)
        wide = options.max_width >= WIDE
        yield _table(report, wide=wide)
        yield from fallback_in_terminal(report)
        yield from _reasons(report)
        yield from _removed(report)
        yield from _elsewhere(report, wide=wide)
        if report.warnings:
            yield Text("\nTo know", style="bold")
            for warning in report.warnings:
                yield _item("!", warning, "yellow")
        if report.bundle:
            yield Text.assemble(("\nbundle  ", "bold"), words.plain(report.bundle))


def _headline(report: DeployReport) -> RenderableType:
    style = "bold green" if report.chosen else "bold red"
    head = words.plain(report.chosen or "nothing meets the budget")
    lines = [
        Text(words.plain(report.title), style="bold"),
        Text.assemble((head, style), "  ", words.plain(report.headline)),
    ]
    asked = [*report.budget, *report.floors]
    if asked:
        lines.append(Text(words.plain("asked for: " + ", ".join(asked)), style="dim"))
    return Group(*lines, Text(""))


def _columns(report: DeployReport, *, wide: bool) -> list[_Column]:
    pace = _Column(
        words.pace(report).replace(" ", "\n"), lambda row: words.times(row.speedup, bounds=False)
    )
    size = _Column("size", lambda row: words.megabytes(row.size_bytes))
    cosine = _Column("cosine", lambda row: words.cosine(row.cosine))
    if report.tells == "instructions":
        counted = _Column("million\nper run", lambda row: words.millions(row.instructions))
        columns = [pace, counted, size, cosine]
    elif report.tells == "sizes":
        columns = [pace, size, *_stated(report), cosine]
    else:
        columns = [
            pace,
            _Column("95 % interval", _interval, wide_only=True),
            _Column("p50 ms", lambda row: words.milliseconds(row.p50_ms), wide_only=True),
            _Column("p95 ms", lambda row: words.milliseconds(row.p95_ms)),
            size,
            _Column("peak", lambda row: words.mebibytes(row.peak_mib), wide_only=True),
            _Column("load ms", lambda row: words.milliseconds(row.load_ms), wide_only=True),
            cosine,
        ]
    if any(row.run_mj is not None for row in report.rows):
        columns.insert(-1, _Column("mJ\na run", lambda row: words.millijoules(row.run_mj)))
    if any(row.predicted_ms is not None for row in report.rows):
        columns.insert(3, _Column("predicted", words.predicted, wide_only=True))
    if words.some_stopped_early(report):
        columns.insert(-1, _Column("rows", words.rows_seen))
    metrics = words.metric_names(report.rows)
    columns += [_metric_column(name) for name in (metrics if wide else metrics[:1])]
    return [column for column in columns if wide or not column.wide_only]


def _stated(report: DeployReport) -> list[_Column]:
    """What compilers state, where any does."""
    found = []
    if any(row.estimate_ms is not None for row in report.rows):
        found.append(_Column("estimated\nms", lambda row: words.milliseconds(row.estimate_ms)))
    if any(row.working_bytes is not None for row in report.rows):
        found.append(_Column("working\nmemory", lambda row: words.kibibytes(row.working_bytes)))
    return found


def _metric_column(name: str) -> _Column:
    def cell(row: Row) -> str:
        found = words.metric_of(row, name)
        return f"{found.value:.4f}" if found else words.ABSENT

    return _Column(words.plain(name).replace(" ", "\n"), cell)


def _interval(row: Row) -> str:
    return words.times(row.speedup).partition("[")[2].rstrip("]") or words.ABSENT


def _table(report: DeployReport, *, wide: bool) -> Table:
    columns = _columns(report, wide=wide)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", min_width=len("0.9999"))
    for row in words.in_order(report.rows):
        style = _STYLES.get(row.status, "")
        table.add_row(
            Text(_broken(words.plain(row.name), 30 if wide else 22), style=style),
            Text(words.STATUS_WORDS.get(row.status, row.status), style=style),
            *(Text(column.cell(row), no_wrap=True) for column in columns),
            style="bold" if row.name == report.chosen else "",
        )
    table.caption = _caption(report)
    table.caption_justify = "left"
    return table


def _broken(name: str, width: int) -> str:
    """A name over several lines, parted where its parts are."""
    lines = [""]
    for part in re.split(r"(?<=[-/+=])", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _caption(report: DeployReport) -> str:
    kinds = dict.fromkeys(str(row.evidence) for row in report.rows if row.has_figures)
    said = ", ".join(kinds) or "not measured"
    figures = "outputs" if report.tells == "sizes" else report.tells
    return (
        f"{figures} {said}; {words.pace(report)} against {words.plain(report.baseline)}; "
        "cosine is the worst output's"
    )


def _reasons(report: DeployReport) -> RenderResult:
    lost = [row for row in words.in_order(report.rows) if row.name != report.chosen and row.reason]
    if lost:
        yield Text(
            "\nWhy the others lost" if report.chosen else "\nWhy none was chosen", style="bold"
        )
        for row in lost:
            yield _item(row.name, row.reason, _STYLES.get(row.status, ""))
    if report.rejected:
        yield Text("\nNot tried", style="bold")
        for item in report.rejected:
            yield _item(item.name, item.reason, "dim")


def _removed(report: DeployReport) -> RenderResult:
    found = removed.lines(report)
    if found:
        yield Text(f"\n{removed.TITLE}", style="bold")
    for name, text in found:
        yield _item(name, text, "")


def _elsewhere(report: DeployReport, *, wide: bool) -> RenderResult:
    lines, said = elsewhere.lines(report), elsewhere.remarks(report)
    if lines or said:
        yield Text(f"\n{elsewhere.TITLE}", style="bold")
    if lines:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        for title in elsewhere.COLUMNS:
            is_name = title in elsewhere.COLUMNS[:2]
            head = title.replace(" ", "\n", 1)
            table.add_column(head, overflow="fold", justify="left" if is_name else "right")
        for line in lines:
            name, *rest = map(words.plain, line.cells)
            table.add_row(Text(_broken(name, 30 if wide else 22)), *map(Text, rest))
        table.caption, table.caption_justify = elsewhere.note(report), "left"
        yield Padding(table, (0, 0, 0, 2))
    for name, text in said:
        yield _item(name, text, "yellow")


def _item(name: str, text: str, style: str) -> RenderableType:
    """`name  text`, later lines indented under it."""
    return Padding(Text.assemble((words.plain(name), style), "  ", words.plain(text)), (0, 0, 0, 2))
