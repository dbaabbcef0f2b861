"""What values a tensor takes: counts in bins that are fixed in advance, so that parts merge exactly.

A bin is what all numbers share that are equal in sign, exponent and the first 7 bits of the
mantissa: the upper half of a float32, which is a bfloat16. So a bin is at most 1/128 as wide as the
values in it, whatever their size, and no pass is needed to find the range first. Counts are
integers: histograms of parts add up to the histogram of the whole, in any order, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_MANTISSA_BITS = 7
_LEAST, _MOST = -32, 32
"""Powers of two between which values have bins of their own. What is smaller counts as zero; what is
larger (4e9: masks, overflow) is counted together, with its exact extreme."""

_EXPONENT_BIAS = 127
_FIRST = (_EXPONENT_BIAS + _LEAST) << _MANTISSA_BITS
_LAST = (_EXPONENT_BIAS + _MOST) << _MANTISSA_BITS
_SIDE = _LAST - _FIRST
_ZERO = _SIDE + 1
_SIGN = 1 << 15
_KEYS = 1 << 16
_PIECE = 1 << 18
"""Values counted at once: bounds the memory beside the tensor itself to 3 MB."""

BINS = 2 * _SIDE + 3
"""Below -2^32, negative, zero, positive, above 2^32; in ascending order of values."""

_FAR = 1024.0
_GAP = 64.0


def _edges() -> Floats:
    keys = np.arange(_SIDE + 1)
    powers = np.exp2((keys >> _MANTISSA_BITS) + _LEAST)
    magnitudes = powers * (1 + (keys & (1 << _MANTISSA_BITS) - 1) / (1 << _MANTISSA_BITS))
    return np.concatenate(([-np.inf], -magnitudes[::-1], magnitudes, [np.inf]))


EDGES = _edges()
"""Bin `i` holds the values from `EDGES[i]` to `EDGES[i + 1]`; the edge nearer to zero is included."""


def _bin_of() -> Counts:
    """The bin of every finite float32, by its upper 16 bits."""
    keys = np.arange(_KEYS)
    place = np.clip((keys & (_SIGN - 1)) - (_FIRST - 1), 0, _SIDE + 1)
    return np.asarray(np.where(keys < _SIGN, _ZERO + place, _ZERO - place), np.int64)


_BIN_OF = _bin_of()


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """The values of one tensor over all rows.

    Attributes:
        bins: numbers of the bins that hold anything, ascending, int64[n].
        counts: values in each of them, int64[n], positive.
        lowest: the least finite value; infinity when there is none.
        highest: the greatest finite value; minus infinity when there is none.
        nan: values that are no number.
        below: values that are minus infinity.
        above: values that are plus infinity.
    """

    bins: Counts
    counts: Counts
    lowest: float = np.inf
    highest: float = -np.inf
    nan: int = 0
    below: int = 0
    above: int = 0

    @property
    def count(self) -> int:
        """How many finite values there are."""
        return int(self.counts.sum())

    @property
    def strange(self) -> int:
        """How many values are no number or infinite; they are in no bin and in no range."""
        return self.nan + self.below + self.above

    def intervals(self) -> tuple[Floats, Floats]:
        """Lower and upper end of each bin that holds anything, cut to the values seen."""
        ends = (EDGES[self.bins], EDGES[self.bins + 1])
        low, high = (np.clip(end, self.lowest, self.highest) for end in ends)
        return low, high

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self._scalars() == other._scalars() and all(
            np.array_equal(mine, theirs)
            for mine, theirs in ((self.bins, other.bins), (self.counts, other.counts))
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    def _scalars(self) -> tuple[float, ...]:
        return self.lowest, self.highest, self.nan, self.below, self.above


class Tally:
    """A histogram under construction: 131 kB, however many values it is given."""

    def __init__(self, start: Histogram | None = None) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._lowest, self._highest = np.inf, -np.inf
        self._nan = self._below = self._above = 0
        if start is not None:
            self.merge(start)

    def add(self, values: Array) -> None:
        """Count the values of an array of any shape and float type."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        for start in range(0, flat.size, _PIECE):
            self._add(flat[start : start + _PIECE])

    def merge(self, part: Histogram) -> None:
        """Add what another tally has counted."""
        self._counts[part.bins] += part.counts
        self._lowest = min(self._lowest, part.lowest)
        self._highest = max(self._highest, part.highest)
        self._nan += part.nan
        self._below += part.below
        self._above += part.above

    def histogram(self) -> Histogram:
        """What was counted so far."""
        bins = np.flatnonzero(self._counts).astype(np.int64)
        return Histogram(
            bins=bins,
            counts=self._counts[bins],
            lowest=self._lowest,
            highest=self._highest,
            nan=self._nan,
            below=self._below,
            above=self._above,
        )

    def _add(self, piece: NDArray[np.float32]) -> None:
        lowest, highest = float(piece.min()), float(piece.max())
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            piece = self._without_strange(piece)
            if not piece.size:
                return
            lowest, highest = float(piece.min()), float(piece.max())
        self._lowest = min(self._lowest, lowest)
        self._highest = max(self._highest, highest)
        keys = piece.view(np.uint32) >> 16
        if piece.size < _KEYS:
            self._counts += np.bincount(_BIN_OF[keys], minlength=BINS)
        else:  # Looking up each key once is faster; the weights are integers below 2^53.
            held = np.bincount(keys, minlength=_KEYS)
            self._counts += np.bincount(_BIN_OF, weights=held, minlength=BINS).astype(np.int64)

    def _without_strange(self, piece: NDArray[np.float32]) -> NDArray[np.float32]:
        self._nan += int(np.isnan(piece).sum())
        self._below += int(np.isneginf(piece).sum())
        self._above += int(np.isposinf(piece).sum())
        return piece[np.isfinite(piece)]


def merged(first: Histogram, second: Histogram) -> Histogram:
    """The histogram of both parts together; exact, so the order does not matter."""
    tally = Tally(first)
    tally.merge(second)
    return tally.histogram()


def is_masked(histogram: Histogram) -> bool:
    """True when some values stand for "not there": far out (beyond 1024), and far from all others.

    Attention masks add -1e4, -1e9, -3.4e38 or minus infinity to a logit so that its weight becomes
    0. One scale for these and for the logits leaves the logits a single level, so such a tensor
    cannot be quantized as a whole. Far means at least 64 times any value on the near side.
    """
    if histogram.below or histogram.above:
        return True
    if max(-histogram.lowest, histogram.highest) < _FAR:
        return False
    low, high = histogram.intervals()
    sizes = np.sort(np.maximum(np.abs(low), np.abs(high)))
    near, far = sizes[sizes < _FAR], sizes[sizes >= _FAR]
    return bool(near.size) and _widest(np.concatenate((near[-1:], far))) >= _GAP


def _widest(ascending: Floats) -> float:
    """The largest ratio of two neighbours."""
    with np.errstate(divide="ignore"):
        return float((ascending[1:] / ascending[:-1]).max())
