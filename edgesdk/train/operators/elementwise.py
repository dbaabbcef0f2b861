"""Arithmetic, comparison, logic and conversion, value by value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from edgesdk.train.operators.registry import Call, operator
from edgesdk.train.straight_through import narrowed
from edgesdk.train.types import HALVES, torch_type

if TYPE_CHECKING:
    from torch import Tensor

_UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


@operator(*_UNARY)
def unary(call: Call, x: Tensor) -> Tensor:
    return _UNARY[call.op](x)


@operator(*_BINARY)
def binary(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return _BINARY[call.op](a, b)


@operator("Div")
def divide(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow")
def power(_: Call, base: Tensor, exponent: Tensor) -> Tensor:
    kind = base.dtype if base.is_floating_point() else exponent.dtype
    return torch.pow(base, exponent.to(kind)).to(base.dtype)


@operator("Mod")
def modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


@operator("BitShift")
def shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    by = torch.bitwise_left_shift if call.get("direction") == "LEFT" else torch.bitwise_right_shift
    return by(a, b)


@operator("Max")
def largest(_: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, values)


@operator("Min")
def smallest(_: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, values)


@operator("Sum")
def add_all(_: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values)


@operator("Mean")
def mean_all(_: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values) / len(values)


@operator("IsInf")
def is_infinite(call: Call, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.get("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if call.get("detect_positive", 1) else found


@operator("Where")
def choose(_: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if call.opset < 11:
        return torch.clamp(x, call.get("min"), call.get("max")) if call.attributes else x
    # In this order the maximum wins where the limits cross, as the standard says.
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    return convert(x, call.get("to"))


@operator("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    kind = call.kind(1)
    return convert(x, kind) if kind else x.to(like.dtype)


def convert(x: Tensor, kind: int) -> Tensor:
    """Values in another element type; half floats stay float32 and are rounded."""
    wanted = torch_type(kind)
    if wanted is None:
        raise NotImplementedError(f"a cast to element type {kind}")
    if kind in HALVES and x.is_floating_point():
        return narrowed(x, HALVES[kind])
    return x.to(wanted)


@operator("Dropout")
def dropout(
    call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> Any:
    """Off, as in every exported model; in training mode only at ratio 0 or by torch's own draw."""
    mask = torch.ones_like(x, dtype=torch.bool)
    if training is not None and bool(training):
        share = 0.5 if ratio is None else float(ratio)
        if share > 0:
            mask = torch.rand_like(x) >= share
            x = x * mask / (1.0 - share)
    return [x, mask] if call.outputs > 1 else x


@operator("Einsum")
def einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call.get("equation"), *values)


@operator("CumSum", "CumProd")
def cumulate(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    along = int(axis)
    if call.get("reverse", 0):
        x = torch.flip(x, (along,))
    if call.op == "CumSum":
        result = torch.cumsum(x, along, dtype=x.dtype)
    else:
        result = torch.cumprod(x, along, dtype=x.dtype)
    if call.get("exclusive", 0):
        first = torch.zeros_like if call.op == "CumSum" else torch.ones_like
        begin = first(result.narrow(along, 0, 1))
        result = torch.cat([begin, result.narrow(along, 0, x.shape[along] - 1)], along)
    return torch.flip(result, (along,)) if call.get("reverse", 0) else result
