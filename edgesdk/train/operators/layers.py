"""Convolutions and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from edgesdk.train.operators.registry import MICROSOFT, Call, operator
from edgesdk.train.operators.windows import explicit, for_torch, pads_of

if TYPE_CHECKING:
    from torch import Tensor

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@operator("Conv")
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = x.ndim - 2
    strides, dilations = call.get("strides", [1] * axes), call.get("dilations", [1] * axes)
    pads = pads_of(call, x.shape[2:], weight.shape[2:], strides, dilations)
    even = all(before == after for before, after in pads)
    if not even:
        x = functional.pad(x, for_torch(pads))
    padding = [before if even else 0 for before, _ in pads]
    return _CONV[axes](x, weight, bias, strides, padding, dilations, call.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Without padding, then cut (or, where more is asked for than there is, filled with bias)."""
    axes = x.ndim - 2
    ones = [1] * axes
    strides, dilations = call.get("strides", ones), call.get("dilations", ones)
    extra = call.get("output_padding", [0] * axes)
    whole = _TRANSPOSED[axes](x, weight, None, strides, 0, 0, call.get("group", 1), dilations)
    full = [
        (length - 1) * stride + extra[axis] + (width - 1) * dilation + 1
        for axis, (length, stride, width, dilation) in enumerate(
            zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
        )
    ]
    cuts = []
    for axis, total in enumerate(full):
        before, after = _cut(call, axis, total, x.shape[2 + axis] * strides[axis])
        # What output_padding adds behind does not come out of torch's product.
        cuts.append((-before, total - whole.shape[2 + axis] - after))
    result = functional.pad(whole, for_torch(cuts))
    return result if bias is None else result + bias.reshape(1, -1, *ones)


def _cut(call: Call, axis: int, total: int, same: int) -> tuple[int, int]:
    """What is cut off before and after, along one spatial axis."""
    mode = call.get("auto_pad", "NOTSET")
    wanted = call.get("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID"):
        axes = len(call.get("pads", ())) // 2
        return explicit(call, axes)[axis] if axes and mode == "NOTSET" else (0, 0)
    length = same if wanted is None else wanted[axis]
    away = total - length
    small, large = away // 2, away - away // 2
    # The standard gives the odd one to the end for SAME_UPPER, and to the beginning otherwise.
    return (small, large) if mode == "SAME_UPPER" else (large, small)


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = a @ b
    product = product if alpha == 1.0 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1.0 else beta * c)


@operator("MatMul")
def matmul(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("FusedMatMul", domain=MICROSOFT)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    if call.get("transBatchA", 0) or call.get("transBatchB", 0):
        raise NotImplementedError("FusedMatMul with transBatchA or transBatchB")
    a = a.transpose(-1, -2) if call.get("transA", 0) else a
    b = b.transpose(-1, -2) if call.get("transB", 0) else b
    return call.get("alpha", 1.0) * torch.matmul(a, b)
