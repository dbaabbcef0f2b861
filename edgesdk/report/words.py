"""Figures and states as people read them: the same words in every report."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgesdk.backend import NodeTime
from edgesdk.evidence import Evidence
from edgesdk.measure.result import Interval
from edgesdk.report.document import DeployReport, MetricChange, Row

ABSENT = "-"

STATUS_WORDS = {
    "chosen": "chosen",
    "passed": "good",
    "not_better": "not better",
    "over_budget": "over budget",
    "undecided": "undecided",
    "failed": "failed",
    "noisy": "too noisy",
    "reference": "reference",
    "error": "error",
    "no_time": "no time",
}
"""`edgesdk.decide.Status` in two words at most, best first."""

EVIDENCE_WORDS = {
    Evidence.MEASURED: "measured on that hardware",
    Evidence.EMULATED: "the right instructions on the wrong clock",
    Evidence.SIMULATED: "by the vendor's simulator",
    Evidence.ESTIMATED: "by a cost model, or measured on hardware that only resembles the target",
    Evidence.UNKNOWN: "nobody looked, or the input was not real",
}


def plain(text: str) -> str:
    """Text without characters that steer a terminal or turn a line around; line feeds stay."""
    return "".join(char if char == "\n" or char.isprintable() else " " for char in text)


def milliseconds(value: float | None) -> str:
    """Three digits that matter: `0.0431`, `1.44`, `214`."""
    return ABSENT if value is None else _digits(value)


def _digits(value: float) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else ABSENT
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}"


def pace(report: DeployReport) -> str:
    """What `Row.speedup` is the ratio of."""
    return {"instructions": "fewer instructions", "sizes": "smaller", "times": "speed"}[
        report.tells
    ]


def millions(value: float | None) -> str:
    """Instructions of a run, in millions."""
    return ABSENT if value is None else _digits(value / 1e6)


def millijoules(value: float | None) -> str:
    """Energy of a run."""
    return ABSENT if value is None else _digits(value)


def kibibytes(value: float | None) -> str:
    """Memory of small devices."""
    return ABSENT if value is None else f"{value / 1024:,.0f} KiB"


def predicted(row: Row) -> str:
    """A predicted time, and how far it was off: `1.44 (+8 %)`."""
    if row.predicted_ms is None:
        return ABSENT
    error = row.prediction_error
    return _digits(row.predicted_ms) + (f" ({error:+.0%})" if error is not None else "")


def megabytes(value: float | None) -> str:
    """Bytes as decimal megabytes, like file managers and stores count."""
    return ABSENT if value is None else f"{_digits(value / 1e6)} MB"


def mebibytes(value: float | None) -> str:
    """Memory, as operating systems count."""
    return ABSENT if value is None else f"{value:,.0f} MiB"


def times(value: Interval | None, *, bounds: bool = True) -> str:
    """A ratio: `2.39x [2.31, 2.46]`."""
    if value is None:
        return ABSENT
    head = f"{value.value:.2f}x"
    if not bounds or value.low == value.high:
        return head
    low = f"{value.low:.2f}" if math.isfinite(value.low) else "?"
    high = f"{value.high:.2f}" if math.isfinite(value.high) else "?"
    return f"{head} [{low}, {high}]"


def cosine(value: float | None) -> str:
    """Nines are what matters: `0.99913`, and 1 only where it is 1."""
    if value is None:
        return ABSENT
    return f"{value:.5f}" if value < 0.999995 or value >= 1.0 else "0.99999+"


def share(value: float | None) -> str:
    """A part of a whole in percent, as small as it may be: `none`, `0.0031 %`, `16 %`."""
    if value is None:
        return ABSENT
    percent = value * 100
    if percent == 0:
        return "none"
    if percent < 0.0001:
        return "< 0.0001 %"
    return f"{percent:,.0f} %" if percent >= 10 else f"{percent:.2g} %"


def metric(item: MetricChange) -> str:
    """`0.892 (-0.003 [-0.008, +0.001])`."""
    change = item.change
    bounds = (
        f" [{change.low:+.4f}, {change.high:+.4f}]"
        if math.isfinite(change.low) and math.isfinite(change.high) and change.low != change.high
        else ""
    )
    return f"{item.value:.4f} ({change.value:+.4f}{bounds})"


def rows_seen(row: Row) -> str:
    """How many evaluation rows a check looked at: `1,251`."""
    return ABSENT if row.rows is None else f"{row.rows:,}"


def some_stopped_early(report: DeployReport) -> bool:
    """Whether any check looked at some of the evaluation rows only."""
    total = report.evaluation_rows or 0
    return any(row.rows is not None and row.rows < total for row in report.rows)


def metric_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """All task metrics that any row has, in order of appearance."""
    return tuple(dict.fromkeys(item.name for row in rows for item in row.metrics))


def metric_of(row: Row, name: str) -> MetricChange | None:
    """A row's metric of that name."""
    return next((item for item in row.metrics if item.name == name), None)


def op_totals(nodes: Iterable[NodeTime]) -> dict[str, float]:
    """Milliseconds a run by operation, the largest first."""
    totals: dict[str, float] = {}
    for node in nodes:
        totals[node.op] = totals.get(node.op, 0.0) + node.ms
    return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The winner first, then by status from best to worst, the fastest first within each."""
    ranks = {status: rank for rank, status in enumerate(STATUS_WORDS)}
    return sorted(
        rows,
        key=lambda row: (
            ranks.get(row.status, len(ranks)),
            -(row.speedup.value if row.speedup else 0.0),
            row.name,
        ),
    )
