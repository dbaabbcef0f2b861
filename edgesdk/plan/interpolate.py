"""Times between measured times: a Gaussian process over the logarithms of sizes; pure.

What is interpolated is the time for each unit of work (multiply-accumulates, elements: the product
of the sizes), which changes slowly with the sizes where the time itself does not.

    log(t / prod(s)) = mean + linear trend in log(s) + smooth deviation + noise

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1; the length and
size of the deviation are those of highest marginal likelihood on a small grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

_LENGTHS = (1.0, 1.8, 3.0)
"""Natural logarithms of size ratios over which a deviation carries: factors of 2.7, 6 and 20."""
_DEVIATIONS = (0.15, 0.3, 0.6)
_NOISES = (0.03, 0.08, 0.16)
_TREND = 0.3
"""Typical exponent by which the time for a unit of work depends on a size."""
_MEAN = 1.5
_FLOOR_US = 0.01


@dataclass(frozen=True, slots=True)
class Guess:
    """A time in microseconds, and the standard deviation of its natural logarithm."""

    us: float
    spread: float


class Interpolation:
    """A series of measured times, ready to be asked for others."""

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        """Fit to points, each sizes above 0 and then microseconds; at least one."""
        table = np.array(points, dtype=np.float64)
        self._x = np.log(table[:, :-1])
        work = self._x.sum(axis=1)
        residual = np.log(np.maximum(table[:, -1], _FLOOR_US)) - work
        self._centre, self._mean = self._x.mean(axis=0), float(residual.mean())
        self._low, self._high = self._x.min(axis=0), self._x.max(axis=0)
        fits = [
            _fit(self._x - self._centre, residual - self._mean, length, deviation, noise)
            for length in _LENGTHS
            for deviation in _DEVIATIONS
            for noise in _NOISES
        ]
        self._fit = max(fits, key=lambda fit: fit.evidence)

    def at(self, sizes: Sequence[float]) -> Guess:
        """The time at other sizes.

        Below the smallest measured size the time no longer falls (that is what starting an operation
        costs); above the largest it grows with the work.
        """
        asked = np.log(np.maximum(np.array(sizes, dtype=np.float64), 1e-9))
        asked = np.maximum(asked, self._low)
        inside = np.minimum(asked, self._high)
        value, variance = self._fit.at(self._x - self._centre, inside - self._centre)
        beyond = float((asked - inside).sum())
        return Guess(
            us=math.exp(self._mean + value + float(asked.sum())),
            spread=math.sqrt(variance + (0.1 * beyond) ** 2),
        )


@dataclass(frozen=True, slots=True)
class _Fit:
    length: float
    deviation: float
    noise: float
    lower: _Array
    weights: _Array
    evidence: float

    def at(self, x: _Array, asked: _Array) -> tuple[float, float]:
        across = _covariance(x, asked[None, :], self.length, self.deviation)[:, 0]
        own = _covariance(asked[None, :], asked[None, :], self.length, self.deviation)[0, 0]
        half = np.linalg.solve(self.lower, across)
        variance = float(own - half @ half) + self.noise**2
        return float(across @ self.weights), max(variance, 0.0)


def _fit(x: _Array, y: _Array, length: float, deviation: float, noise: float) -> _Fit:
    matrix = _covariance(x, x, length, deviation) + (noise**2 + 1e-9) * np.eye(len(x))
    lower: _Array = np.linalg.cholesky(matrix).astype(np.float64)
    weights = np.linalg.solve(lower.T, np.linalg.solve(lower, y))
    evidence = float(-0.5 * y @ weights - np.log(np.diag(lower)).sum())
    return _Fit(length, deviation, noise, lower, weights, evidence)


def _covariance(a: _Array, b: _Array, length: float, deviation: float) -> _Array:
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    smooth = deviation**2 * np.exp(-squared / (2 * length**2))
    trend: _Array = _MEAN**2 + _TREND**2 * (a @ b.T) + smooth
    return trend
