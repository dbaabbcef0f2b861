"""Rounding that gradients pass as if it were not there.

The straight-through estimator: Bengio, Leonard, Courville 2013, "Estimating or Propagating Gradients
Through Stochastic Neurons", arXiv 1308.3432. Put together with a clamp, as `quantize` does, it gives
the gradients of Jacob et al. 2018 (arXiv 1712.05877) for what is quantized and those of LSQ (Esser
et al. 2020, arXiv 1902.08153, without the factor that evens out step sizes, which AdamW does not
need) for the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


class _Round(torch.autograd.Function):
    """To the nearest integer, ties to even."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return torch.round(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Narrow(torch.autograd.Function):
    """To the nearest value of a narrower float type."""

    @staticmethod
    def forward(_: Any, values: Tensor, kind: Any) -> Tensor:
        return values.to(kind).to(values.dtype)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def rounded(values: Tensor) -> Tensor:
    """The nearest integers, ties to even, as floats."""
    return _Round.apply(values)


def narrowed(values: Tensor, kind: Any) -> Tensor:
    """The nearest values that float16 or bfloat16 has, in the type that they come in."""
    return _Narrow.apply(values, kind)


def quantize(
    values: Tensor, scale: Tensor, zero: Tensor | float, limits: tuple[int, int]
) -> Tensor:
    """Integers, as floats, for float values; all arguments broadcast.

    Outside the limits the gradient to the values is zero.
    """
    return torch.clamp(rounded(values / scale) + zero, *limits)


def dequantize(integers: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
    """The float values that integers stand for."""
    return (integers - zero) * scale
