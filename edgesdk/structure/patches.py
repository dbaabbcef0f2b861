"""What single output positions of a layer see of its input."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesdk.structure.layers import Layer

    Array = NDArray[np.generic]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]


def positions_of(layer: Layer, values: Array) -> int:
    """How many output positions a layer has on an input."""
    return prod(values.shape[:-1]) if layer.op in ("Gemm", "MatMul") else _Grid(layer, values).count


def gather(layer: Layer, values: Array, places: Places) -> Floats:
    """What chosen output positions see: float64[groups, places, features].

    The patches of a convolution are looked up for these positions alone, never for all of an image.
    """
    if layer.op in ("Gemm", "MatMul"):
        flat = values.reshape(-1, layer.features)[places]
        return np.asarray(flat, np.float64)[None]
    grid = _Grid(layer, values)
    return grid.patches(places).astype(np.float64)


class _Grid:
    """Where the patches of a convolution (or the values of a normalization) lie in its input."""

    def __init__(self, layer: Layer, values: Array) -> None:
        axes = values.ndim - 2
        kernel = layer.kernel or (1,) * axes
        self._strides = layer.strides or (1,) * axes
        self._dilations = layer.dilations or (1,) * axes
        self._kernel, self._groups, self._values = kernel, layer.groups, values
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, self._dilations, strict=True)]
        sides = self._padding(layer, values.shape[2:], spans)
        self._sides = [(0, 0), (0, 0), *sides]
        self._padded = [
            size + sum(side) for size, side in zip(values.shape[2:], sides, strict=True)
        ]
        self._made = [
            (size - span) // stride + 1
            for size, span, stride in zip(self._padded, spans, self._strides, strict=True)
        ]
        self.count = values.shape[0] * prod(self._made)

    def _padding(
        self, layer: Layer, sizes: Sequence[int], spans: Sequence[int]
    ) -> list[tuple[int, int]]:
        if not isinstance(layer.pads, str):
            pads = layer.pads or (0,) * (2 * len(sizes))
            return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
        sides = []
        for size, span, stride in zip(sizes, spans, self._strides, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
            less, more = total // 2, total - total // 2
            sides.append((less, more) if layer.pads == "SAME_UPPER" else (more, less))
        return sides

    def patches(self, places: Places) -> Array:
        """[groups, places, channels of a group times taps], of the input's type."""
        batch, channels = self._values.shape[:2]
        padded = np.pad(self._values, self._sides) if np.any(self._sides) else self._values
        flat = padded.reshape(batch, channels, -1).transpose(1, 0, 2).reshape(channels, -1)
        sample, *corner = np.unravel_index(places, (batch, *self._made))
        steps = [prod(self._padded[axis + 1 :]) for axis in range(len(self._padded))]
        first = sample * prod(self._padded)
        for at, stride, step in zip(corner, self._strides, steps, strict=True):
            first = first + at * stride * step
        taps = np.zeros(1, np.intp)
        for length, dilation, step in zip(self._kernel, self._dilations, steps, strict=True):
            taps = (taps[:, None] + np.arange(length) * dilation * step).reshape(-1)
        seen = flat[:, first[:, None] + taps]
        split = seen.reshape(self._groups, -1, len(places), len(taps))
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(
            self._groups, len(places), -1
        )
