"""The table of candidates, each cell with the value that it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgesdk.report import words
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.markup import Markup, el


@dataclass(frozen=True, slots=True)
class _Column:
    """`key` gives the number to sort by, or is None to sort by the text."""

    title: str
    cell: Callable[[Row], object]
    key: Callable[[Row], float | None] | None = None
    is_figure: bool = True


def candidate_table(report: DeployReport, numbers: Mapping[str, int]) -> Markup:
    """All rows, the winner first."""
    columns = _columns(report, numbers)
    head = el(
        "tr",
        *(el("th", el("button", c.title, type="button"), class_=_kind(c)) for c in columns),
    )
    rows = [
        el(
            "tr",
            *(_cell(column, row) for column in columns),
            class_="chosen" if row.name == report.chosen else None,
        )
        for row in words.in_order(report.rows)
    ]
    table = el("table", el("thead", head), el("tbody", *rows), class_="candidates")
    return el("div", table, class_="scroll")


def _columns(report: DeployReport, numbers: Mapping[str, int]) -> list[_Column]:
    fastest = max((row.speedup.value for row in report.rows if row.speedup), default=1.0)
    return [
        _Column("#", lambda row: numbers[row.name], lambda row: float(numbers[row.name])),
        _Column("candidate", lambda row: _name(row, report)),
        _Column("result", _badge, _rank, is_figure=False),
        _Column(words.pace(report), lambda row: _speed(row, fastest), _value),
        *_figures(report),
        *_rows_seen(report),
        _Column("cosine", lambda row: words.cosine(row.cosine), lambda row: row.cosine),
        *(_metric(name) for name in words.metric_names(report.rows)),
        _Column(
            {"instructions": "counts are", "sizes": "outputs are", "times": "times are"}[
                report.tells
            ],
            lambda row: row.evidence if row.has_figures else words.ABSENT,
        ),
    ]


def _figures(report: DeployReport) -> list[_Column]:
    match report.tells:
        case "instructions":
            return _counts()
        case "sizes":
            return [_size(), *_stated(report)]
        case _:
            return _times(report)


def _stated(report: DeployReport) -> list[_Column]:
    """What compilers state, where any does."""
    columns = [
        _Column(
            "estimated ms",
            lambda row: words.milliseconds(row.estimate_ms),
            lambda row: row.estimate_ms,
        ),
        _Column(
            "working memory",
            lambda row: words.kibibytes(row.working_bytes),
            lambda row: row.working_bytes,
        ),
    ]
    return [c for c in columns if c.key and any(c.key(row) is not None for row in report.rows)]


def _counts() -> list[_Column]:
    return [
        _Column(
            "million instructions",
            lambda row: words.millions(row.instructions),
            lambda row: row.instructions,
        ),
        _size(),
    ]


def _times(report: DeployReport) -> list[_Column]:
    return [
        _Column("p50 ms", lambda row: words.milliseconds(row.p50_ms), lambda row: row.p50_ms),
        *_foreseen(report),
        _Column("p95 ms", lambda row: words.milliseconds(row.p95_ms), lambda row: row.p95_ms),
        _size(),
        _Column("peak", lambda row: words.mebibytes(row.peak_mib), lambda row: row.peak_mib),
        _Column("load ms", lambda row: words.milliseconds(row.load_ms), lambda row: row.load_ms),
        *_energy(report),
    ]


def _energy(report: DeployReport) -> list[_Column]:
    """What a run takes, where the device tells."""
    if all(row.run_mj is None for row in report.rows):
        return []
    return [_Column("mJ a run", lambda row: words.millijoules(row.run_mj), lambda row: row.run_mj)]


def _size() -> _Column:
    return _Column("size", lambda row: words.megabytes(row.size_bytes), lambda row: row.size_bytes)


def _foreseen(report: DeployReport) -> list[_Column]:
    """What the cost model expected, where it was asked."""
    if all(row.predicted_ms is None for row in report.rows):
        return []
    return [_Column("predicted ms", words.predicted, lambda row: row.predicted_ms)]


def _rows_seen(report: DeployReport) -> list[_Column]:
    """How many rows the figures of quality are of, where that differs."""
    if not words.some_stopped_early(report):
        return []
    return [_Column("rows", words.rows_seen, lambda row: row.rows)]


def _name(row: Row, report: DeployReport) -> Markup:
    """The name, and under it why it was chosen or lost."""
    is_base = row.name == report.baseline and row.name != "original"
    return el(
        "div",
        el("code", row.name),
        el("span", " (what all are compared with)", class_="note") if is_base else None,
        el("div", row.reason, class_="why") if row.reason else None,
        el("div", row.why, class_="why", title="\n".join(row.kept)) if row.kept else None,
        *(el("div", remark, class_="why") for remark in row.remarks),
    )


def _badge(row: Row) -> Markup:
    word = words.STATUS_WORDS.get(row.status, row.status)
    return el("span", word, class_=f"badge s-{row.status}")


def _rank(row: Row) -> float:
    order = list(words.STATUS_WORDS)
    return float(order.index(row.status)) if row.status in order else float(len(order))


def _speed(row: Row, fastest: float) -> object:
    if row.speedup is None:
        return words.ABSENT
    share = max(0.0, min(row.speedup.value / fastest, 1.0)) * 100
    head, _, bounds = words.times(row.speedup).partition(" ")
    return el(
        "div",
        el("b", head),
        el("span", f" {bounds}", class_="note") if bounds else None,
        el("i", style=f"width:{share:.0f}%"),
        class_=f"speed s-{row.status}",
    )


def _value(row: Row) -> float | None:
    return row.speedup.value if row.speedup else None


def _metric(name: str) -> _Column:
    def cell(row: Row) -> object:
        found = words.metric_of(row, name)
        if found is None:
            return words.ABSENT
        value, _, change = words.metric(found).partition(" ")
        return el("div", value, el("span", f" {change[1:-1]}", class_="note"), class_="metric")

    def key(row: Row) -> float | None:
        found = words.metric_of(row, name)
        return found.value if found else None

    return _Column(name, cell, key)


def _kind(column: _Column) -> str | None:
    return "figure" if column.key and column.is_figure else None


def _cell(column: _Column, row: Row) -> Markup:
    value = column.key(row) if column.key else None
    key = None if column.key is None else ("" if value is None else repr(float(value)))
    return el("td", column.cell(row), data_key=key, class_=_kind(column))
