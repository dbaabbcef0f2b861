"""Normalization over batches, layers, groups and neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from edgesdk.train.operators.registry import MICROSOFT, Call, operator

if TYPE_CHECKING:
    from torch import Tensor


@operator("BatchNormalization")
def batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Any:
    """By the stored statistics, as the model ships; by the batch's where it says `training_mode`."""
    epsilon, momentum = call.get("epsilon", 1e-5), call.get("momentum", 0.9)
    if not call.get("training_mode", 0):
        return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, now = torch.var_mean(x, axes, correction=0)
    y = functional.batch_norm(x, now, var, scale, bias, False, 0.0, epsilon)
    running = [mean * momentum + now * (1 - momentum), variance * momentum + var * (1 - momentum)]
    return [y, *running]


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    normed = _normed(x, tuple(range(2, x.ndim)), call.get("epsilon", 1e-5))
    return _scaled(normed, scale, bias)


@operator("GroupNormalization")
def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.get("num_groups")
    parts = x.reshape(x.shape[0], groups, -1)
    normed = _normed(parts, (2,), call.get("epsilon", 1e-5)).reshape(x.shape)
    if call.opset < 21:  # one scale a group
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return _scaled(normed, scale, bias)


def _normed(x: Tensor, dims: tuple[int, ...], epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon)


def _scaled(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    dims = (1, -1, *[1] * (x.ndim - 2))
    return x * scale.reshape(dims) + bias.reshape(dims)


@operator("LayerNormalization")
def layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis = call.get("axis", -1) % x.ndim
    dims = tuple(range(axis, x.ndim))
    epsilon = call.get("epsilon", 1e-5)
    if call.outputs == 1 and scale.shape == x.shape[axis:]:
        weight, shift = scale, bias if bias is None or bias.shape == scale.shape else None
        if shift is bias:
            return functional.layer_norm(x, x.shape[axis:], weight, shift, epsilon)
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    y = (x - mean) * inverse * scale
    return [y if bias is None else y + bias, mean, inverse]


@operator("RMSNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    dims = tuple(range(call.get("axis", -1) % x.ndim, x.ndim))
    power = x.square().mean(dims, keepdim=True)
    return x * torch.rsqrt(power + call.get("epsilon", 1e-5)) * scale


@operator("SimplifiedLayerNormalization", domain="")
def simplified_layer_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    return rms_norm(call, x, scale)


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    call: Call,
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
) -> Any:
    total = x + skip if bias is None else x + skip + bias
    y = functional.layer_norm(total, total.shape[-1:], gamma, beta, call.get("epsilon", 1e-12))
    return [y, None, None, total] if call.outputs > 1 else y


@operator("LRN")
def local_response(call: Call, x: Tensor) -> Tensor:
    """Divided by a power of the squares of neighbouring channels."""
    size = call.get("size")
    before = (size - 1) // 2
    padding = [0, 0] * (x.ndim - 2) + [before, size - 1 - before]
    squares = functional.pad(x.square(), padding)
    total = sum(squares.narrow(1, shift, x.shape[1]) for shift in range(size))
    base = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * total
    return x / base ** call.get("beta", 0.75)


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    axis, order = call.get("axis", -1), call.get("p", 2)
    length = torch.linalg.vector_norm(x, ord=order, dim=axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / torch.where(length == 0, 1.0, length))


@operator("MeanVarianceNormalization")
def mean_variance(call: Call, x: Tensor) -> Tensor:
    dims = tuple(call.get("axes", (0, 2, 3)))
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)
