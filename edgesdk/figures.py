"""The figures that floors are about, each with its bounds, from the rows of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from edgesdk.bounds import (
    Bounds,
    Paired,
    change_bounds,
    figure_bounds,
    mean_bounds,
    rate_bounds,
    rate_upper,
)
from edgesdk.closeness import OutputRecord, cosine, decibels
from edgesdk.comparison import MetricRecord
from edgesdk.metrics import Metric
from edgesdk.statistics import Floats, Indices, resampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of some rows.

    Attributes:
        value: NaN where these rows have none.
        rows: how many rows it is of.
        bounds: from the chance that one bound is wrong to both bounds.
        unseen: True when no row shows any harm, so that the bound is that of an event not seen yet
            and narrows with 1 / rows rather than with the square root.
    """

    value: float
    rows: int
    bounds: Callable[[float], Bounds]
    unseen: bool = False


def cosine_figure(output: OutputRecord) -> Figure:
    """Mean cosine over rows; of few values a row, the cosine of all rows as one vector."""
    if not output.pooled:
        return _level(output.cosines(), spread=1.0)
    sums = output.table[:, :3]
    sums = sums[np.isfinite(sums).all(axis=1)]

    def pooled(rows: Indices) -> float:
        return float(cosine(*(np.array([total]) for total in sums[rows].sum(axis=0)))[0])

    return _figure(pooled, len(sums))


def decibel_figure(output: OutputRecord) -> Figure:
    """Mean SQNR in dB over rows; of few values a row, the SQNR of all rows as one vector."""
    if not output.pooled:
        return _level(output.decibels(), spread=0.0)
    sums = np.stack([output.column("reference_sq"), output.column("error_sq")], axis=1)
    sums = sums[np.isfinite(sums).all(axis=1)]

    def pooled(rows: Indices) -> float:
        return float(decibels(*(np.array([total]) for total in sums[rows].sum(axis=0)))[0])

    return _figure(pooled, len(sums))


def agreement_figure(output: OutputRecord) -> Figure | None:
    """Mean share of equal places; None for an output that has no classes."""
    shares = output.column("agreement")
    return _level(shares, spread=1.0) if np.isfinite(shares).any() else None


def level_figure(metric: Metric, scores: Floats) -> Figure:
    """A metric of one side."""
    scores = scores[np.isfinite(scores[:, 0])]
    if metric.averaged:
        return _level(scores[:, 0], spread=_spread(scores[:, 0]))
    return _figure(lambda rows: metric.aggregate(scores, rows), len(scores))


def change_figure(metric: Metric, record: MetricRecord) -> Figure:
    """Candidate minus reference, on the same rows."""
    both = np.isfinite(record.reference[:, 0]) & np.isfinite(record.candidate[:, 0])
    before, after = record.reference[both], record.candidate[both]
    if not metric.averaged:
        return _paired_figure(metric, before, after)
    changes = after[:, 0] - before[:, 0]
    lost, gained = int((changes < 0).sum()), int((changes > 0).sum())
    unseen = (lost if metric.higher_is_better else gained) == 0
    scores = np.concatenate([before[:, 0], after[:, 0]])
    value = float(changes.mean()) if len(changes) else float("nan")
    if len(changes) and _is_binary(scores):
        paired = Paired(lost=lost, gained=gained, rows=len(changes))
        return Figure(value=value, rows=len(changes), bounds=paired.change, unseen=unseen)
    spread = _spread(scores)
    return Figure(
        value=value,
        rows=len(changes),
        bounds=lambda tail: change_bounds(changes, tail, spread=spread),
        unseen=unseen,
    )


def _paired_figure(metric: Metric, before: Floats, after: Floats) -> Figure:
    """The change of a metric that is no mean, held back by how often rows change at all."""
    count = len(before)

    def change(rows: Indices) -> float:
        return metric.aggregate(after, rows) - metric.aggregate(before, rows)

    drawn = _figure(change, count)
    changed = int((~np.isclose(before, after, equal_nan=True)).any(axis=1).sum())

    def bounds(tail: float) -> Bounds:
        low, high = drawn.bounds(tail)
        slack = rate_upper(changed, count, tail) - changed / count
        return min(low, drawn.value - slack), max(high, drawn.value + slack)

    return Figure(value=drawn.value, rows=count, bounds=bounds, unseen=changed == 0)


def _figure(statistic: Callable[[Indices], float], count: int) -> Figure:
    value = statistic(np.arange(count)) if count else float("nan")
    draws = cache(lambda: resampled(statistic, count))  # seconds for some statistics
    return Figure(value=value, rows=count, bounds=lambda tail: figure_bounds(draws, count, tail))


def _level(values: Floats, *, spread: float) -> Figure:
    """The mean of what every row has of its own."""
    values = values[np.isfinite(values)]
    count = len(values)
    value = float(values.mean()) if count else float("nan")
    if count and spread == 1.0 and _is_binary(values):
        hits = int(values.sum())
        return Figure(
            value=value,
            rows=count,
            bounds=lambda tail: rate_bounds(hits, count, tail),
            unseen=hits == count,
        )
    return Figure(
        value=value, rows=count, bounds=lambda tail: mean_bounds(values, tail, spread=spread)
    )


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _spread(scores: Floats) -> float:
    """The most a single score can change by: 1 for shares, else the range that was seen."""
    if not scores.size or (scores.min() >= 0.0 and scores.max() <= 1.0):
        return 1.0
    return float(scores.max() - scores.min())
