"""QuantizeLinear and DequantizeLinear as fake quantization: floats that hold integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgesdk.train.operators.registry import MICROSOFT, Call, operator
from edgesdk.train.straight_through import dequantize, quantize, rounded
from edgesdk.train.types import limits

if TYPE_CHECKING:
    from torch import Tensor

_UINT8 = 2


@operator("QuantizeLinear", domain=MICROSOFT)
@operator("QuantizeLinear")
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = call.get("output_dtype", 0) or (call.kind(2) if zero is not None else _UINT8) or _UINT8
    bounds = limits(kind)
    if bounds is None:
        raise NotImplementedError(f"QuantizeLinear to element type {kind}")
    step, offset = spread(call, x, scale, zero)
    values = x if x.is_floating_point() else x.to(scale.dtype)
    return quantize(values, step, offset, bounds)


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    step, offset = spread(call, x, scale, zero)
    return dequantize(x.to(scale.dtype), step, offset)


def spread(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None) -> tuple[Tensor, Any]:
    """Scale and zero point in a shape that broadcasts with the tensor: one, an axis', or blocks'."""
    offset: Any = 0.0 if zero is None else zero.to(scale.dtype)
    if scale.numel() == 1 and scale.ndim <= 1:
        return scale.reshape(()), offset if zero is None else offset.reshape(())
    axis = call.get("axis", 1) % x.ndim
    block = call.get("block_size", 0)

    def shaped(values: Tensor) -> Tensor:
        if block:
            return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
        return values.reshape([-1 if dim == axis else 1 for dim in range(x.ndim)])

    return shaped(scale), offset if zero is None else shaped(offset)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(_: Call, x: Tensor) -> list[Tensor]:
    """To uint8 by the range of this very tensor, which is widened to hold zero."""
    low, high = torch.clamp(x.min(), max=0.0), torch.clamp(x.max(), min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(rounded(-low / scale), 0, 255)
    return [quantize(x, scale, zero, (0, 255)), scale, zero]


def weight_of(call: Call, master: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """A stored integer weight behind DequantizeLinear, from the float form that is trained."""
    bounds = limits(call.kind(0))
    if bounds is None:
        raise NotImplementedError(f"a weight of element type {call.kind(0)}")
    step, offset = spread(call, master, scale, zero)
    return dequantize(quantize(master, step, offset, bounds), step, offset)
