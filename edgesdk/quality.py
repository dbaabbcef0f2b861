"""The verdict on every quality floor, from the record of a comparison. Pure.

A floor is kept (`PASS`) when a one-sided 95 % confidence bound keeps it, broken (`FAIL`) when the
opposite bound breaks it, and `UNDECIDED` between. The verdict of a candidate is its worst floor on
its worst output, never an average. `bounds.py` says how the bounds are made, and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from edgesdk.bounds import Tails
from edgesdk.budget import Floor
from edgesdk.closeness import OutputRecord
from edgesdk.comparison import Comparison, Record
from edgesdk.errors import SamplesError
from edgesdk.evidence import Evidence
from edgesdk.figures import (
    Figure,
    agreement_figure,
    change_figure,
    cosine_figure,
    decibel_figure,
    level_figure,
)
from edgesdk.floors import (
    FloorResult,
    Verdict,
    broken_outputs,
    check_floor,
    default_floors,
    finite_or_none,
)
from edgesdk.metrics import Metric
from edgesdk.statistics import Floats

__all__ = [
    "Closeness",
    "Comparison",
    "FloorResult",
    "Quality",
    "Record",
    "Score",
    "Verdict",
    "judge",
]

INTERVAL_TAIL = 0.025
"""Two-sided 95 % for the intervals that are shown."""

_FEW_ROWS = 10
_WORST_FIRST = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """One output against the float original's. Means over rows with two-sided 95 % intervals.

    Attributes:
        rows: samples.
        pooled: few values a sample, so cosine and SQNR are of all rows as one vector.
        cosine: None for an output that is not float; so are the decibels and `max_error`.
        cosine_min: of the worst row.
        sqnr_db: signal to quantization noise; 200 stands for no error.
        max_error: largest absolute error of all values of all rows.
        agreement: share of equal largest entries along the last axis (None where that has length
            1); for an output that is not float, share of equal values.
        bad_values: NaN or infinite values where the original has none; any is a FAIL.
        problem: why some row could not be compared, or None; any is a FAIL.
        equal: every row equals the original within the rounding of float32.
    """

    output: str
    rows: int
    pooled: bool
    cosine: float | None
    cosine_low: float | None
    cosine_high: float | None
    cosine_min: float | None
    sqnr_db: float | None
    sqnr_min_db: float | None
    max_error: float | None
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    bad_values: int
    problem: str | None
    equal: bool

    @property
    def loss(self) -> float:
        """For ordering: 1 - cosine, or 1 - agreement where there is no cosine; 1 when broken."""
        if self.problem or self.bad_values:
            return 1.0
        close = self.agreement if self.cosine is None else self.cosine
        return 1.0 if close is None else 1.0 - close


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A task metric of the original and the candidate on the same rows.

    Attributes:
        change: candidate - reference, with its paired two-sided 95 % interval `low`, `high`; a
            bound is None where the rows allow none.
    """

    metric: str
    higher_is_better: bool
    reference: float | None
    candidate: float | None
    change: float | None
    low: float | None
    high: float | None
    rows: int

    @property
    def loss(self) -> float:
        """For ordering: how much worse, as a share of the original's value; below 0 is better."""
        if self.change is None or self.reference is None:
            return 1.0
        worse = -self.change if self.higher_is_better else self.change
        return worse / abs(self.reference) if self.reference else worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """All about the quality of one candidate.

    Attributes:
        verdict: of the worst floor; FAIL for NaN, infinity or another shape, whatever the floors.
        reason: of that verdict, in a sentence.
        evidence: `measured`, or `unknown` where the samples were made up.
    """

    rows: int
    verdict: Verdict
    reason: str
    evidence: Evidence
    closeness: tuple[Closeness, ...]
    scores: tuple[Score, ...]
    floors: tuple[FloorResult, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        floors = [{**item, "verdict": Verdict(item["verdict"])} for item in data["floors"]]
        return cls(
            rows=data["rows"],
            verdict=Verdict(data["verdict"]),
            reason=data["reason"],
            evidence=Evidence(data["evidence"]),
            closeness=tuple(Closeness(**item) for item in data["closeness"]),
            scores=tuple(Score(**item) for item in data["scores"]),
            floors=tuple(FloorResult(**item) for item in floors),
            notes=tuple(data["notes"]),
        )


def judge(
    record: Record,
    floors: Sequence[Floor],
    metrics: Sequence[Metric],
    *,
    synthetic: bool = False,
    tails: Tails | None = None,
) -> Quality:
    """The verdict on every floor; the worst is the candidate's.

    Args:
        record: of a comparison on evaluation rows.
        floors: the user's; when empty, `default_floors`.
        metrics: those the comparison scored.
        synthetic: the samples were made up; the verdict is then about those only.
        tails: how sure it must be, for one of several looks at growing parts of the rows; by default
            as for a single one.

    Raises:
        BudgetError: a floor names an output or metric that is not there, or has the wrong sign.
        SamplesError: the record is of no sample at all.
    """
    if not record.rows:
        raise SamplesError("no sample was compared; the evaluation set is empty")
    floors = tuple(floors) or default_floors(record, metrics)
    changes = {
        metric.name: change_figure(metric, record.metrics[metric.name]) for metric in metrics
    }
    sure = tails or Tails()
    results = [r for floor in floors for r in check_floor(floor, record, metrics, changes, sure)]
    results += broken_outputs(record)
    results.sort(key=lambda result: _WORST_FIRST.index(result.verdict))
    worst = results[0]
    return Quality(
        rows=record.rows,
        verdict=worst.verdict,
        reason=worst.reason,
        evidence=Evidence.UNKNOWN if synthetic else Evidence.MEASURED,
        closeness=tuple(_closeness(name, output) for name, output in record.outputs.items()),
        scores=tuple(_score(metric, record, changes[metric.name]) for metric in metrics),
        floors=tuple(results),
        notes=tuple(_notes(record, synthetic=synthetic)),
    )


def _notes(record: Record, *, synthetic: bool) -> list[str]:
    notes = []
    if synthetic:
        notes.append(
            "SYNTHETIC INPUTS: the verdict holds for made-up inputs only; quality on real data is "
            "unknown"
        )
    if record.rows < _FEW_ROWS:
        notes.append(
            f"only {record.rows} rows: bounds rest on the spread among them, and a rare large "
            f"error may be missed; {_FEW_ROWS} or more are better"
        )
    return notes


def _closeness(name: str, output: OutputRecord) -> Closeness:
    rows = len(output.table)
    near = cosine_figure(output) if output.is_float else None
    clean = decibel_figure(output) if output.is_float else None
    same = agreement_figure(output)
    return Closeness(
        output=name,
        rows=rows,
        pooled=output.pooled,
        cosine=finite_or_none(near.value) if near else None,
        cosine_low=_interval(near)[0],
        cosine_high=_interval(near)[1],
        cosine_min=finite_or_none(float(_least(output.cosines()))) if near else None,
        sqnr_db=finite_or_none(clean.value) if clean else None,
        sqnr_min_db=finite_or_none(_least(output.decibels())) if clean else None,
        max_error=finite_or_none(-_least(-output.column("max_error"))) if output.is_float else None,
        agreement=finite_or_none(same.value) if same else None,
        agreement_low=_interval(same)[0],
        agreement_high=_interval(same)[1],
        bad_values=output.bad_values,
        problem=output.problem,
        equal=output.is_equal(),
    )


def _score(metric: Metric, record: Record, change: Figure) -> Score:
    scores = record.metrics[metric.name]
    low, high = _interval(change)
    return Score(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        reference=finite_or_none(level_figure(metric, scores.reference).value),
        candidate=finite_or_none(level_figure(metric, scores.candidate).value),
        change=finite_or_none(change.value),
        low=low,
        high=high,
        rows=change.rows,
    )


def _interval(figure: Figure | None) -> tuple[float | None, float | None]:
    if figure is None or math.isnan(figure.value):
        return None, None
    low, high = figure.bounds(INTERVAL_TAIL)
    return finite_or_none(low), finite_or_none(high)


def _least(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(values.min()) if values.size else math.nan
