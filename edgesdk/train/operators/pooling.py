"""Pooling over windows and over everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from edgesdk.train.operators.registry import Call, operator
from edgesdk.train.operators.windows import Pads, for_torch, pads_of

if TYPE_CHECKING:
    from torch import Tensor

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor:
    if call.outputs > 1:
        raise NotImplementedError("MaxPool with indices")
    window = _Window(call, x)
    values = x if x.is_floating_point() else x.double()
    padded = functional.pad(values, for_torch(window.all_pads), value=-torch.inf)
    found = _MAX[x.ndim - 2](padded, window.kernel, window.strides, 0, window.dilations)
    return found.to(x.dtype)


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    window = _Window(call, x)
    if not any(map(any, window.all_pads)) and set(window.dilations) == {1}:
        return _AVERAGE[x.ndim - 2](x, window.kernel, window.strides)
    ones = torch.ones_like(x[:1, :1])
    if call.get("count_include_pad", 0):
        ones = functional.pad(ones, for_torch(window.pads), value=1.0)
        ones = functional.pad(ones, for_torch(window.overhang))
    else:
        ones = functional.pad(ones, for_torch(window.all_pads))
    padded = functional.pad(x, for_torch(window.all_pads))
    return _window_sums(padded, window) / _window_sums(ones, window)


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    window, order = _Window(call, x), call.get("p", 2)
    padded = functional.pad(x.abs() ** order, for_torch(window.all_pads))
    return _window_sums(padded, window) ** (1.0 / order)


def _window_sums(x: Tensor, window: _Window) -> Tensor:
    rows, channels = x.shape[:2]
    flat = x.reshape(rows * channels, 1, *x.shape[2:])
    ones = torch.ones(1, 1, *window.kernel, dtype=x.dtype)
    sums = _CONV[x.ndim - 2](flat, ones, None, window.strides, 0, window.dilations)
    return sums.reshape(rows, channels, *sums.shape[2:])


class _Window:
    """Where the windows of a pooling lie.

    Attributes:
        pads: what the node asks for.
        overhang: what `ceil_mode` adds at the end, so that the last window is whole.
        all_pads: both.
    """

    def __init__(self, call: Call, x: Tensor) -> None:
        axes = x.ndim - 2
        self.kernel: list[int] = list(call.get("kernel_shape"))
        self.strides: list[int] = list(call.get("strides", [1] * axes))
        self.dilations: list[int] = list(call.get("dilations", [1] * axes))
        self.pads = pads_of(call, x.shape[2:], self.kernel, self.strides, self.dilations)
        self.overhang: Pads = [
            (0, self._overhang(axis, length) if call.get("ceil_mode", 0) else 0)
            for axis, length in enumerate(x.shape[2:])
        ]
        self.all_pads: Pads = [
            (before, after + more)
            for (before, after), (_, more) in zip(self.pads, self.overhang, strict=True)
        ]

    def _overhang(self, axis: int, length: int) -> int:
        before, after = self.pads[axis]
        reach, stride = (self.kernel[axis] - 1) * self.dilations[axis] + 1, self.strides[axis]
        windows = -(-(length + before + after - reach) // stride) + 1
        if (windows - 1) * stride >= length + before:  # it would begin in the padding behind
            windows -= 1
        return max((windows - 1) * stride + reach - (length + before + after), 0)


@operator("GlobalAveragePool")
def global_average(_: Call, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max(_: Call, x: Tensor) -> Tensor:
    return torch.amax(x, tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp(call: Call, x: Tensor) -> Tensor:
    order = call.get("p", 2)
    dims = tuple(range(2, x.ndim))
    return (x.abs() ** order).sum(dims, keepdim=True) ** (1.0 / order)
