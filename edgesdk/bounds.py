"""Confidence bounds that stay honest with few samples and with losses nobody has seen yet.

A plain bootstrap claims certainty where there is none: when a candidate agrees with the original
on every one of n rows, each resample agrees too and the interval has no width, although up to 3/n
of all inputs may still differ (the rule of three). And the mean of a skewed loss is mostly below
the truth when samples are few, because the rare large loss is not among them. Three remedies:

- 0/1 scores (right or wrong): Tango's score interval for the difference of paired proportions
  (Statistics in Medicine 17:891, 1998), held back to the exact binomial bound on the loss rate
  (Clopper and Pearson, Biometrika 26:404, 1934). Enumerated exactly for n from 100 to 1,000 and
  true drops from 1 to 5 %, the chance of a false pass is at most 5.6 % at a nominal 5 %.
- means of anything else: Student's t with one row added that nobody saw, as far beyond the worst
  row as the worst is beyond the mean. Simulated at the worst case, a truth exactly on the floor,
  false passes with 20 rows: 1 % for normal and 5 % for lognormal losses of sigma 1, where plain t
  gives 5 and 17 %. Few rows hide a skewed tail from any method: 13 % with 5 lognormal rows.
- figures that are no mean (F1, rank correlation): the bootstrap with tails widened for small n
  (Hesterberg, The American Statistician 69:371, 2015), held back by the rate at which rows change.

`tail` is the chance that one single bound is wrong: 0.05 for verdicts, 0.025 for a 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from edgesdk.statistics import Floats, percentiles

Bounds = tuple[float, float]
"""Lower and upper; infinite where nothing can be said."""

VERDICT_TAIL = 0.05
"""One-sided 95 %: the chance that a candidate just below a floor passes it."""
UNBOUNDED: Bounds = (-math.inf, math.inf)
_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """How sure a verdict must be, as the chance that the bound it rests on is wrong; 0 to 0.5.

    Attributes:
        passing: of the bound that must keep a floor for PASS.
        failing: of the opposite bound, which must break it for FAIL.
    """

    passing: float = VERDICT_TAIL
    failing: float = VERDICT_TAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """0/1 scores of the same rows before and after, counted.

    Attributes:
        lost: rows right before and wrong after.
        gained: rows wrong before and right after.
        rows: all rows, at least 1.
    """

    lost: int
    gained: int
    rows: int

    def change(self, tail: float) -> Bounds:
        """Bounds on the change of the proportion that is right."""
        turned = Paired(lost=self.gained, gained=self.lost, rows=self.rows)
        return -self._drop(tail), turned._drop(tail)

    def _drop(self, tail: float) -> float:
        exact = rate_upper(self.lost, self.rows, tail) - self.gained / self.rows
        return max(self._tango(tail), exact)

    def _tango(self, tail: float) -> float:
        """Upper limit of Tango's interval for the drop, by bisection on the score statistic."""
        lost, gained, rows = self.lost, self.gained, self.rows
        critical = NormalDist().inv_cdf(tail)

        def score(drop: float) -> float:
            # The likeliest rate of gains given this drop is the larger root of a quadratic.
            b = -lost - gained + (2 * rows - lost + gained) * drop
            c = -gained * drop * (1.0 - drop)
            gain = (math.sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
            variance = rows * (2.0 * gain + drop * (1.0 - drop))
            return (lost - gained - rows * drop) / math.sqrt(variance) if variance > 0 else 0.0

        low, high = (lost - gained) / rows, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > critical else (low, middle)
        return high


def mean_bounds(values: Floats, tail: float, *, spread: float) -> Bounds:
    """Bounds on the mean of values that are not 0/1.

    Args:
        values: one a row; a mean of fewer than 2 is unbounded.
        tail: chance that each bound is wrong.
        spread: how far an unseen row may lie from the rest; only counts where all rows are equal.
    """
    if len(values) < 2:
        return UNBOUNDED
    if values.min() == values.max():
        unseen = rate_upper(0, len(values), tail) * spread
        return float(values[0]) - unseen, float(values[0]) + unseen
    return -_mean_upper(-values, tail), _mean_upper(values, tail)


def change_bounds(changes: Floats, tail: float, *, spread: float) -> Bounds:
    """Bounds on the mean of paired changes that are not just -1, 0 and 1.

    Where no row lost (or none gained) the size of a loss is unknown too, so that one is allowed for
    at the rate that may have gone unseen.

    Args:
        changes: candidate minus reference of each row.
        tail: chance that each bound is wrong.
        spread: the most by which one row can change.
    """
    low, high = mean_bounds(changes, tail, spread=spread)
    if len(changes) < 2:
        return low, high
    unseen = rate_upper(0, len(changes), tail) * spread
    if not (changes < 0).any():
        low = min(low, float(changes.mean()) - unseen)
    if not (changes > 0).any():
        high = max(high, float(changes.mean()) + unseen)
    return low, high


def rate_bounds(hits: int, rows: int, tail: float) -> Bounds:
    """Exact bounds on a rate (Clopper and Pearson)."""
    return 1.0 - rate_upper(rows - hits, rows, tail), rate_upper(hits, rows, tail)


def rate_upper(hits: int, rows: int, tail: float) -> float:
    """Exact upper bound on a rate; with no hit it is 1 - tail^(1 / rows), about 3 / rows at 5 %."""
    if hits >= rows:
        return 1.0
    drawn = np.arange(hits + 1)
    ways = np.concatenate([[0.0], np.cumsum(np.log((rows - drawn[:-1]) / (drawn[:-1] + 1.0)))])

    def at_most_hits(rate: float) -> float:
        logs = ways + drawn * math.log(rate) + (rows - drawn) * math.log1p(-rate)
        return float(np.exp(logs).sum())

    low, high = hits / rows, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most_hits(middle) > tail else (low, middle)
    return high


def figure_bounds(draws: Callable[[], Floats], rows: int, tail: float) -> Bounds:
    """Bounds on any figure of rows: the percentile bootstrap with its tails widened for small n.

    A tail becomes `Phi(-sqrt(n / (n - 1)) t)`, t the Student quantile at n - 1 degrees of freedom.

    Args:
        draws: gives the figure of each resample; not called with fewer than 2 rows.
        rows: how many rows each resample has.
        tail: chance that each bound is wrong.
    """
    if rows < 2:
        return UNBOUNDED
    stretch = math.sqrt(rows / (rows - 1)) * student_quantile(1.0 - tail, rows - 1)
    return percentiles(draws(), NormalDist().cdf(-stretch))


@cache
def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, for a probability from 0.5.

    With t = sqrt(freedom) tan(a) the density is proportional to cos(a)^(freedom - 1), which is
    summed on a grid: relative error below 1e-4 up to 300 degrees of freedom, normal from there on.
    """
    if freedom > 300:
        return NormalDist().inv_cdf(probability)
    angle = np.linspace(0.0, math.pi / 2, 20001)
    density = np.cos(angle) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = np.interp(2.0 * probability - 1.0, area / area[-1], angle)
    return float(math.sqrt(freedom) * math.tan(found))


def _mean_upper(values: Floats, tail: float) -> float:
    unseen = 2.0 * values.max() - values.mean()
    longer = np.append(values, unseen)
    error = longer.std(ddof=1) / math.sqrt(len(longer))
    return float(longer.mean() + student_quantile(1.0 - tail, len(values)) * error)
