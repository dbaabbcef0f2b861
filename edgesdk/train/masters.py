"""The float weights that a quantized graph was made of, to train from in place of what it rounds to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.train.operators.quantized import spread
from edgesdk.train.reader import OnnxModule
from edgesdk.train.stored_tensors import stored_tensors
from edgesdk.train.types import FLOATS, stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[Any]

_STEPS = 0.51
"""How far a weight may be from what it was rounded to, in steps."""
_CLIPPED = 0.01
"""Share of a tensor's weights that may be further away: those that were cut off at the limits."""


def float_masters(quantized: ModelProto, original: ModelProto) -> dict[str, Array]:
    """Float values for the integer weights of a quantized graph, for `start` of `distill`.

    Quantizers name tensors each in their own way, so a weight is known by its shape and values. What
    was changed besides rounding (smoothed, corrected, fused) is not found and left out.

    Args:
        quantized: with DequantizeLinear behind its weights.
        original: the float graph that it was made of.
    """
    module = OnnxModule(quantized)
    by_shape: dict[tuple[int, ...], list[Array]] = {}
    for one in stored_tensors(original.graph):
        if one.tensor.data_type in FLOATS:
            by_shape.setdefault(tuple(one.tensor.dims), []).append(stored(one.tensor))
    found = {}
    for key, how in module.quantized.items():
        master = module.weights[key].detach()
        step, _ = spread(how.call, master, module.value_of(how.scale).detach(), None)
        candidates = by_shape.get(tuple(master.shape), [])
        nearest = _nearest(master.numpy(), step.numpy(), candidates)
        if nearest is not None:
            found[key] = nearest.astype(np.float32)
    return found


def _nearest(rounded: Array, step: Array, candidates: Sequence[Array]) -> Array | None:
    """The candidate that rounds to these values, if there is one."""
    for values in candidates:
        away = np.abs(values.astype(np.float32) - rounded) > _STEPS * step
        if away.mean() <= _CLIPPED:
            return values
    return None
