"""The scale that each channel of an activation hands over to the weights that read it; pure.

One step serves all channels of a quantized activation, so a few large channels leave the others
with few integers. Dividing channel j by s_j and multiplying row j of the weights by s_j changes
nothing in float, and evens the channels out: cross-layer equalization (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019) and SmoothQuant (Xiao et al.,
"SmoothQuant", 2022), whose s_j = max|x_j|^a / max|w_j|^(1-a) is among the candidates here. Which
candidate is best differs from node to node (a = 1/2 everywhere makes a text encoder worse than no
scale at all), so each is judged by the noise that rounding adds, in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesdk.compress.channels import Channels

    Floats = NDArray[np.float64]

_POWERS = tuple(product((0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)))
"""Of the largest activation and, to divide by, of the largest weight of a channel. With SmoothQuant's
own, whose sum is 1, and 0 for the weight, a text encoder kept 9 % more of its loss."""
_WIDEST = 1e4
"""Between the smallest and the largest scale: float32 sums stay as exact as they were."""
_TINY = 1e-12
_STEPS = 255.0
_TOP = 127.0
"""Integers of an activation; the greatest of a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What of a weight matters to the noise at its node.

    Attributes:
        energy: float64[channels], sum of squares of all weights that a channel meets.
        largest: float64[channels, outputs], the largest magnitude of a weight; None where each
            output has one channel only, whose scale the weight's own scale follows exactly.
        taps: places of a kernel, 1 for a product.
    """

    energy: Floats
    largest: Floats | None
    taps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A choice.

    Attributes:
        values: float64[channels], by which an activation is divided; geometric mean 1.
        left: expected noise with it over that without, at most 1.
    """

    values: Floats
    left: float


def choose_scale(channels: Channels, readers: Sequence[Reader], *, fixed: bool) -> Scale:
    """The best candidate for an activation.

    Args:
        channels: of at least one row, finite.
        readers: those that are quantized, at least one, with as many channels.
        fixed: the activation's range is that of all rows, not of the row at hand.
    """
    plain = np.ones(channels.power.size)
    before = noise(channels, readers, plain, fixed=fixed)
    best, least = plain, before
    for values in _candidates(channels, readers):
        found = noise(channels, readers, values, fixed=fixed)
        if found < least:
            best, least = values, found
    return Scale(values=best, left=least / before if before > 0 else 1.0)


def noise(channels: Channels, readers: Sequence[Reader], scale: Floats, *, fixed: bool) -> float:
    """Expected squared error at the outputs of the readers, for each value of the activation.

    Rounding to a step d adds noise of variance d^2 / 12 (Widrow, 1956). The activation's passes
    through the weights; the weights' (a step for each output channel) through the activation.
    """
    low, high = (side / scale for side in (channels.low, channels.high))
    if fixed:
        low, high = low.min(axis=0, keepdims=True), high.max(axis=0, keepdims=True)
    steps = (high.max(axis=1) - low.min(axis=1)) / _STEPS
    step_sq = float(np.mean(steps**2))
    power = channels.power / scale**2
    total = 0.0
    for reader in readers:
        total += step_sq / 12 * float(reader.energy @ scale**2)
        if reader.largest is not None:
            tops = (reader.largest * scale[:, None]).max(axis=0)
            total += float((tops**2).sum()) / _TOP**2 / 12 * reader.taps * float(power.sum())
    return total


def _candidates(channels: Channels, readers: Sequence[Reader]) -> Iterator[Floats]:
    activation = channels.largest
    tops = [r.largest.max(axis=1) for r in readers if r.largest is not None]
    weight = np.max(tops or [np.sqrt(reader.energy) for reader in readers], axis=0)
    live = (activation > _TINY) & (weight > _TINY)
    if not live.any():
        return
    for of_activation, of_weight in _POWERS:
        logs = np.zeros(activation.size)
        logs[live] = of_activation * np.log(activation[live]) - of_weight * np.log(weight[live])
        logs[live] -= logs[live].mean()
        half = np.log(_WIDEST) / 2
        yield np.exp(np.clip(logs, -half, half))
