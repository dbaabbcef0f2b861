"""Confidence intervals by the bootstrap. Numpy only, seeded, so the same data gives the same verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_SEED = 20261121

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def bootstrap(
    statistic: Callable[[Indices], float], count: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic`, which takes the row numbers of one resample.

    Paired comparisons pass a statistic that reads both sides at the same rows. A resample whose
    statistic is not finite is left out (a correlation of one repeated row has none).

    Args:
        statistic: from row numbers (with repetitions, length `count`) to a figure.
        count: how many rows there are; with fewer than 2 the interval is unbounded.
        confidence: two-sided level, 0 to 1.
    """
    if count < 2:
        return (-np.inf, np.inf)
    rng = np.random.default_rng(_SEED)
    draws = np.array([statistic(rng.integers(0, count, count)) for _ in range(_RESAMPLES)])
    draws = draws[np.isfinite(draws)]
    if draws.size == 0:
        return (-np.inf, np.inf)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


def median_interval(values: Floats, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of `values` and the bootstrap interval of it: value, low, high."""
    low, high = bootstrap(
        lambda rows: float(np.median(values[rows])), len(values), confidence=confidence
    )
    return float(np.median(values)), low, high
