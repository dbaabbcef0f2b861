"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from edgesdk.train.operators.registry import MICROSOFT, Call, operator

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN: dict[str, Callable[[Any], Any]] = {
    "HardSwish": functional.hardswish,
    "Mish": functional.mish,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softsign": functional.softsign,
    "Tanh": torch.tanh,
}


@operator(*_PLAIN)
def plain(call: Call, x: Tensor) -> Tensor:
    return _PLAIN[call.op](x)


@operator("Softplus")
def softplus(_: Call, x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.get("alpha", 0.01))


@operator("PRelu")
def parametric_relu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return functional.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    return functional.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    alpha = call.get("alpha", 1.67326319217681884765625)
    gamma = call.get("gamma", 1.05070102214813232421875)
    return gamma * functional.elu(x, alpha)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.get("approximate", "none"))


@operator("Gelu", domain=MICROSOFT)
def exact_gelu(_: Call, x: Tensor) -> Tensor:
    return functional.gelu(x)


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(_: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    limit, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    zero = torch.zeros_like(x)
    outer = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))
    return outer.to(x.dtype)


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Along one axis; before opset 13 along all axes from that one on, as if they were one."""
    if call.opset >= 13:
        return _softmax(call.op, x, call.get("axis", -1))
    axis = call.get("axis", 1) % x.ndim
    flat = x.flatten(axis) if axis < x.ndim else x.unsqueeze(-1)
    return _softmax(call.op, flat, axis).reshape(x.shape)


def _softmax(op: str, x: Tensor, axis: int) -> Tensor:
    if op == "Softmax":
        return torch.softmax(x, axis)
    if op == "LogSoftmax":
        return torch.log_softmax(x, axis)
    first = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)
