"""From what values a tensor takes to the range that its quantizer covers; what lies outside is clipped.

Every range includes zero, which quantizers represent exactly. `minmax` loses nothing to clipping,
the others give up rare large values for finer steps everywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress.histogram import Counts, Floats, Histogram

if TYPE_CHECKING:
    from edgesdk.recipe import Ranges

Range = tuple[float, float]

COVERED = 0.99999
"""Share of the values that `percentile` keeps; half of the rest is clipped at either end. As
onnxruntime's calibrator has it: 10 values in a million."""

_EQUAL_BINS = 2048
_STRIDE = 16
"""Of the KL search: bins of equal width between 0 and the largest magnitude, and bins from one
threshold to the next; both as in Migacz (2017)."""
_VALUES_A_BIN = 64
"""On average at least, else there are fewer bins: the divergence of noise favours too small ranges."""

_POINTS, _REFINED = 48, 2
_TOGETHER = 4
"""Bins that the search for the least error takes as one: 1/32 of their values wide."""


def choose_range(histogram: Histogram, how: Ranges, *, bits: int, symmetric: bool) -> Range:
    """The range of a quantizer of this many bits, as a recipe names its choice."""
    if not histogram.count:
        return 0.0, 0.0
    match how:
        case "minmax":
            return minmax(histogram)
        case "percentile":
            return percentile(histogram)
        case "entropy":
            return entropy(histogram, bits=bits)
        case "mse":
            return least_error(histogram, bits=bits, symmetric=symmetric)


def minmax(histogram: Histogram) -> Range:
    """The least and the greatest finite value, exactly."""
    return min(histogram.lowest, 0.0), max(histogram.highest, 0.0)


def percentile(histogram: Histogram, covered: float = COVERED) -> Range:
    """The range that holds this share of the values, as much being left out below as above.

    Args:
        histogram: of at least one value.
        covered: 0 < covered <= 1. Within a bin, values are taken as evenly spread.
    """
    low, high = histogram.intervals()
    cut = (1.0 - covered) / 2.0
    ends = [_quantile(low, high, histogram.counts, share) for share in (cut, 1.0 - cut)]
    return min(ends[0], 0.0), max(ends[1], 0.0)


def entropy(histogram: Histogram, *, bits: int) -> Range:
    """The symmetric range that loses least information, cut to the values seen.

    Of all thresholds, the one whose quantized distribution of magnitudes has the smallest
    Kullback-Leibler divergence from the original one: Migacz, "8-bit inference with TensorRT",
    GTC 2017. Zeros, which any range represents exactly, are left out. Where the values are too few
    for more bins than levels, or the levels too many (16 bits), the range is that of `minmax`.
    """
    low, high = minmax(histogram)
    top, levels = max(-low, high), 2 ** (bits - 1)
    count = sum(int(counts.sum()) for _, _, counts in _sides(histogram))
    bins = min(_EQUAL_BINS, count // _VALUES_A_BIN)
    if bins <= levels:
        return low, high
    density = _magnitudes(histogram, top, bins)
    stops = [bins, *reversed(range(levels, bins, _STRIDE))]  # ties go to the widest
    best = min(stops, key=lambda stop: _divergence(density, stop, levels))
    threshold = top * best / bins
    return max(low, -threshold), min(high, threshold)


def least_error(histogram: Histogram, *, bits: int, symmetric: bool) -> Range:
    """The range with the least expected squared error of clipping and rounding together.

    The criterion of Choukroun et al., "Low-bit quantization of neural networks for efficient
    inference" (2019), and of Nagel et al., "A white paper on neural network quantization" (2021),
    section 3.1; computed for values that are spread evenly within each bin. Both ends are searched
    between the extremes and the median magnitude, on a grid first and then around its best point.

    Args:
        histogram: of at least one value.
        bits: of the quantizer.
        symmetric: equal ends and zero point 0, which uses one level less.
    """
    low, high = minmax(histogram)
    typical = _typical(histogram)
    if not 0.0 < typical < max(-low, high):
        return low, high
    error = _Error(histogram, bits=bits, symmetric=symmetric)
    extremes = (max(-low, high),) if symmetric else (-low, high)
    grids = [_grid(extreme, typical) for extreme in extremes]
    best = _best(error, grids)
    for _ in range(_REFINED):
        grids = [_around(value, grid) for value, grid in zip(best, grids, strict=True)]
        best = _best(error, grids)
    return -best[0], best[-1]


def squared_error(
    histogram: Histogram, low: float, high: float, *, bits: int, symmetric: bool
) -> float:
    """Expected squared error, a value, of quantizing to the range from `low` to `high`.

    Args:
        histogram: of at least one value.
        low: at most 0.
        high: at least 0, and above `low`.
        bits: of the quantizer.
        symmetric: as in `least_error`.
    """
    error = _Error(histogram, bits=bits, symmetric=symmetric)
    return float(error(low, np.array([high]))[0])


class _Error:
    """Mean squared error of ranges, from the antiderivative of the error at a point.

    Rounding to a lattice with step s makes the error r^2, where r is the distance to the nearest
    multiple of s; its integral from 0 to n s + r is n s^3 / 12 + r^3 / 3. Beyond an end e of the
    range the error at t is (t - e)^2.
    """

    def __init__(self, histogram: Histogram, *, bits: int, symmetric: bool) -> None:
        self._low, self._high, counts = _coarser(histogram)
        self._width = self._high - self._low
        self._share = counts / histogram.count
        self._steps = 2**bits - (2 if symmetric else 1)

    def __call__(self, low: float | Floats, highs: Floats) -> Floats:
        """The errors of the ranges from `low` (one, or one for each) to each of `highs`."""
        step = np.maximum(highs - low, np.finfo(np.float64).tiny)[:, None] / self._steps
        zero = np.round(-np.reshape(low, (-1, 1)) / step)
        ends = -zero * step, (self._steps - zero) * step
        whole = self._integral(self._high, step, *ends) - self._integral(self._low, step, *ends)
        inside = np.clip(self._low, *ends)
        at_point = (self._low - np.round(inside / step) * step) ** 2
        spread = self._width > 0
        mean = np.where(spread, whole / np.where(spread, self._width, 1.0), at_point)
        return np.asarray(mean @ self._share)

    @staticmethod
    def _integral(at: Floats, step: Floats, low: Floats, high: Floats) -> Floats:
        inside = np.clip(at, low, high)
        full = np.round(inside / step)
        rest = inside - full * step
        over = at - inside
        # Products: numpy's power of an array is 20 times slower.
        periods = full * (step * step * step / 12.0)
        return np.asarray(periods + (rest * rest * rest + over * over * over) / 3.0)


def _coarser(histogram: Histogram) -> tuple[Floats, Floats, Counts]:
    """Lower ends, upper ends and counts of bins, four put together where they touch."""
    low, high = histogram.intervals()
    first = np.flatnonzero(np.diff(histogram.bins // _TOGETHER, prepend=-1))
    last = np.append(first[1:], len(low)) - 1
    return low[first], high[last], np.add.reduceat(histogram.counts, first)


def _best(error: _Error, grids: list[Floats]) -> tuple[float, ...]:
    """The magnitudes of the ends with the least error: one of both, or the lower and the upper one."""
    highs = grids[-1]
    if len(grids) == 1:
        return (float(highs[np.argmin(error(-highs, highs))]),)
    found = []
    for low in grids[0]:
        errors = error(-float(low), highs)
        place = int(np.argmin(errors))
        found.append((float(errors[place]), float(low), float(highs[place])))
    return min(found, key=lambda entry: entry[0])[1:]


def _grid(most: float, least: float) -> Floats:
    """Magnitudes from the largest worth trying down, a quarter of an octave apart where that fits."""
    if most <= least:
        return np.array([most])
    return np.geomspace(most, least, min(_POINTS, 2 + int(4 * np.log2(most / least))))


def _around(value: float, grid: Floats) -> Floats:
    """Magnitudes between the neighbours of a value in its grid."""
    if len(grid) < 2:
        return grid
    ratio = (grid.max() / grid.min()) ** (1.0 / (len(grid) - 1))
    return np.asarray(np.minimum(value * ratio ** np.linspace(1.0, -1.0, 9), grid.max()))


def _typical(histogram: Histogram) -> float:
    """The median magnitude of the values that are not zero; 0 when all are."""
    sides = [side for side in _sides(histogram) if side[2].size]
    if not sides:
        return 0.0
    low, high, counts = (np.concatenate(part) for part in zip(*sides, strict=True))
    order = np.argsort(low)
    return _quantile(low[order], high[order], counts[order], 0.5)


def _sides(histogram: Histogram) -> tuple[tuple[Floats, Floats, Counts], ...]:
    """Magnitudes of negative and of positive values: ascending bins, without the one around zero."""
    low, high = histogram.intervals()
    negative, positive = high < 0, low > 0
    return (
        (-high[negative][::-1], -low[negative][::-1], histogram.counts[negative][::-1]),
        (low[positive], high[positive], histogram.counts[positive]),
    )


def _quantile(low: Floats, high: Floats, counts: Counts, share: float) -> float:
    """The value below which this share lies; bins ascend by their lower ends."""
    reached = np.cumsum(counts)
    wanted = share * float(reached[-1])
    place = min(int(np.searchsorted(reached, wanted)), len(reached) - 1)
    inside = (wanted - float(reached[place] - counts[place])) / float(counts[place])
    return float(low[place] + np.clip(inside, 0.0, 1.0) * (high[place] - low[place]))


def _magnitudes(histogram: Histogram, top: float, bins: int) -> Floats:
    """Counts of |value| in bins of equal width from 0 to `top`, zeros left out."""
    grid = np.linspace(0.0, top, bins + 1)
    density = np.zeros(bins)
    for low, high, counts in _sides(histogram):
        if counts.size:
            ends = np.stack((low, high), axis=1).reshape(-1)
            reached = np.cumsum(np.stack((np.zeros_like(counts), counts), axis=1))
            density += np.diff(np.interp(grid, ends, reached.astype(np.float64), left=0.0))
    return density


def _divergence(density: Floats, stop: int, levels: int) -> float:
    """Kullback-Leibler divergence of what `levels` levels make of the first `stop` bins."""
    kept = density[:stop]
    original = kept.copy()
    original[-1] += density[stop:].sum()
    there = original > 0
    group = np.arange(stop) * levels // stop
    mass = np.bincount(group, weights=kept, minlength=levels)
    held = np.bincount(group, weights=there, minlength=levels)
    quantized = np.where(there, (mass / np.maximum(held, 1.0))[group], 0.0)
    p = original[there] / original.sum()
    q = np.maximum(quantized[there] / max(float(quantized.sum()), 1e-30), 1e-12)
    return float((p * np.log(p / q)).sum())
