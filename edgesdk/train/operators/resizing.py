"""Resize, Upsample and GridSample.

Resizing is separable: along each axis, every new place takes a weighted few of the old ones. Those
weights make one matrix an axis, so that gradients need no code of their own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from edgesdk.train.operators.registry import Call, operator
from edgesdk.train.operators.shapes import integers
from edgesdk.train.types import to_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]


@operator("Upsample")
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    factors = call.get("scales") if scales is None else scales.tolist()
    old = {"mode": call.get("mode", "nearest"), "nearest_mode": "floor"}
    asymmetric = {**old, "coordinate_transformation_mode": "asymmetric"}
    return _resize(Call(op="Resize", opset=11, attributes=asymmetric), x, factors, None, None)


@operator("Resize")
def resize(
    call: Call,
    x: Tensor,
    region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if call.opset < 11:  # the second input is the scales
        return upsample(call, x, region)
    given = None if scales is None or not scales.numel() else scales.tolist()
    return _resize(call, x, given, integers(sizes), None if region is None else region.tolist())


def _resize(
    call: Call,
    x: Tensor,
    scales: Sequence[float] | None,
    sizes: list[int] | None,
    region: list[float] | None,
) -> Tensor:
    axes = [axis % x.ndim for axis in call.get("axes", range(x.ndim))]
    if sizes is not None:
        scales = _scales_of(call, x, axes, sizes)
        lengths = [
            size
            if call.get("keep_aspect_ratio_policy", "stretch") == "stretch"
            else math.floor(scale * x.shape[axis] + 0.5)
            for axis, scale, size in zip(axes, scales, sizes, strict=True)
        ]
    else:
        scales = scales or []
        lengths = [
            math.floor(x.shape[axis] * scale) for axis, scale in zip(axes, scales, strict=True)
        ]
    values = x if x.is_floating_point() else x.double()
    for number, (axis, scale, length) in enumerate(zip(axes, scales, lengths, strict=True)):
        ends = None if not region else (region[number], region[len(axes) + number])
        if length == x.shape[axis] and scale == 1.0 and ends is None:
            continue
        values = _along(call, values, axis, length, scale, ends)
    return values.to(x.dtype) if x.is_floating_point() else values.round().to(x.dtype)


def _scales_of(call: Call, x: Tensor, axes: list[int], sizes: list[int]) -> list[float]:
    scales = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales
    return [(max if policy == "not_smaller" else min)(scales)] * len(axes)


def _along(
    call: Call, x: Tensor, axis: int, length: int, scale: float, ends: tuple[float, float] | None
) -> Tensor:
    """The tensor with one axis resized."""
    old = x.shape[axis]
    places = _sources(call, old, length, scale, ends)
    if call.get("mode", "nearest") == "nearest":
        index = np.clip(_nearest(call, places), 0, old - 1).astype(np.int64)
        resized = x.index_select(axis, torch.from_numpy(index))
    else:
        matrix = to_torch(_weights(call, places, old, scale)).to(x.dtype)
        resized = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
    if call.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        return resized
    outside = torch.from_numpy((places < 0) | (places > old - 1))
    shape = [-1 if dim == axis else 1 for dim in range(x.ndim)]
    fill = torch.full_like(resized, call.get("extrapolation_value", 0.0))
    return torch.where(outside.reshape(shape), fill, resized)


def _sources(
    call: Call, old: int, length: int, scale: float, ends: tuple[float, float] | None
) -> Floats:
    """Where each new place lies on the old axis."""
    new = np.arange(length, dtype=np.float64)
    match call.get("coordinate_transformation_mode", "half_pixel"):
        case "align_corners":
            wide = scale * old  # before it was rounded
            return new * ((old - 1) / (wide - 1)) if length > 1 else new * 0.0
        case "asymmetric":
            return new / scale
        case "pytorch_half_pixel":
            return (new + 0.5) / scale - 0.5 if length > 1 else new * 0.0 - 0.5
        case "tf_half_pixel_for_nn":
            return (new + 0.5) / scale
        case "half_pixel_symmetric":
            # The middle of the old axis stays the middle, although the length was rounded.
            shift = old / 2 * (1 - length / (scale * old))
            return shift + (new + 0.5) / scale - 0.5
        case "tf_crop_and_resize":
            first, last = ends or (0.0, 1.0)
            if length == 1:
                return np.full(1, 0.5 * (first + last) * (old - 1))
            return first * (old - 1) + new * (last - first) * (old - 1) / (length - 1)
        case _:
            return (new + 0.5) / scale - 0.5


def _nearest(call: Call, places: Floats) -> Floats:
    match call.get("nearest_mode", "round_prefer_floor"):
        case "floor":
            return np.floor(places)
        case "ceil":
            return np.ceil(places)
        case "round_prefer_ceil":
            return np.floor(places + 0.5)
        case _:
            return np.ceil(places - 0.5)


def _weights(call: Call, places: Floats, old: int, scale: float) -> Floats:
    """[new, old]: what each new place takes of each old one."""
    cubic = call.get("mode") == "cubic"
    filter_ = _cubic(call.get("cubic_coeff_a", -0.75)) if cubic else _linear
    # Antialiasing widens the filter by what the axis shrinks.
    shrink = min(scale, 1.0) if call.get("antialias", 0) else 1.0
    reach = math.ceil((2 if cubic else 1) / shrink) + 1
    first = np.floor(places).astype(np.int64)
    matrix = np.zeros((places.size, old))
    rows = np.arange(places.size)
    for offset in range(-reach, reach + 1):
        column = first + offset
        weight = filter_((places - column) * shrink)
        if call.get("exclude_outside", 0):
            weight = np.where((column >= 0) & (column < old), weight, 0.0)
        np.add.at(matrix, (rows, np.clip(column, 0, old - 1)), weight)
    total = matrix.sum(axis=1, keepdims=True)
    matrix /= np.where(total == 0, 1.0, total)
    return matrix


def _linear(distance: Floats) -> Floats:
    weights: Floats = np.maximum(1.0 - np.abs(distance), 0.0)
    return weights


def _cubic(a: float) -> Callable[[Floats], Floats]:
    """Keys 1981, "Cubic Convolution Interpolation for Digital Image Processing", equation 15."""

    def weight(distance: Floats) -> Floats:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weights: Floats = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        return weights

    return weight


@operator("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Any:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.get("mode", "linear"))
    return functional.grid_sample(
        x,
        grid.to(x.dtype),
        mode or call.get("mode"),
        call.get("padding_mode", "zeros"),
        bool(call.get("align_corners", 0)),
    )
