"""Axes: where a value lies, and which values deserve a tick. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps `low` to `start` and `high` to `end`, values outside clipped; by decades when `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        share = (self._bent(value) - self._bent(self.low)) / (
            self._bent(self.high) - self._bent(self.low)
        )
        return self.start + share * (self.end - self.start)

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, about: int = 6) -> list[float]:
        """Round values within the range."""
        if self.log:
            return _log_ticks(self.low, self.high, about)
        step = _round_step((self.high - self.low) / max(about, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def scale_for(
    values: Sequence[float], start: float, end: float, *, zero: bool = False, log: bool = False
) -> Scale:
    """A scale that holds all values with a little room; from zero when `zero`."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if log:
        return Scale(low / 1.5, high * 1.5, start, end, log=True)
    low = min(low, 0.0) if zero else low
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(low if zero and low == 0.0 else low - room, high + room, start, end)


def _round_step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return float(next(step * size for step in (1, 2, 5, 10) if step * size >= rough * 0.999))


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**power for power in range(first, last + 1)]
    if last - first > about:
        decades = decades[:: math.ceil((last - first) / about)]
    elif last - first <= 2:
        decades = [step * size for size in decades for step in (1, 2, 3, 5)]
    return [tick for tick in decades if low <= tick <= high]
