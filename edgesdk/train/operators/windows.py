"""Paddings of what slides over an image: given, or found by `auto_pad`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgesdk.train.operators.registry import Call

Pads = list[tuple[int, int]]
"""Before and after, for each spatial axis."""


def explicit(call: Call, axes: int) -> Pads:
    """The `pads` of a node."""
    pads = call.get("pads", [0] * (2 * axes))
    return list(zip(pads[:axes], pads[axes:], strict=True))


def pads_of(
    call: Call,
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """Padding of a convolution or pooling; SAME makes outputs of ceil(length / stride)."""
    mode = call.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return explicit(call, len(lengths))
    if mode == "VALID":
        return [(0, 0)] * len(lengths)
    pads = []
    for length, width, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        total = max((-(-length // stride) - 1) * stride + reach - length, 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return pads


def for_torch(pads: Pads) -> list[int]:
    """As `torch.nn.functional.pad` takes them: the last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]
