"""The float part of a quantized graph in float16. TensorRT computes in the types that a graph states."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk_backends.tensorrt.graph import Graph, attribute, drop_unread

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

OPSET = 19
"""The standard's first opset whose quantizers take float16."""

_EXACT = 2.0**-10
"""A scale that float16 holds closer than this costs less than rounding to 8 bits does."""


def halve(proto: onnx.ModelProto, target: Path) -> None:
    """Write a graph of opset 19 or later in float16, its inputs and outputs as they are.

    Operators without a float16 form stay in float32 between casts (`edgesdk.compress.floats`).
    """
    from edgesdk.compress import onnx_io
    from edgesdk.compress.floats import to_float16

    fit_scales(proto)
    with tempfile.TemporaryDirectory(prefix="edgesdk-tensorrt-") as scratch:
        source = onnx_io.write(proto, Path(scratch) / "model.onnx")
        to_float16(source, target, frozenset())


def fit_scales(proto: onnx.ModelProto) -> None:
    """Round int8 weights anew where float16 cannot hold their scale, in place.

    Channels with tiny weights have scales below 6e-5, of which float16 keeps few bits or none. The
    next larger scale that it holds, and weights to go with it, are off by no more than float16
    weights would be.
    """
    graph = Graph(proto.graph)
    changed = False
    for node in proto.graph.node:
        stored = graph.constant_input(node) if node.op_type == "DequantizeLinear" else None
        scale = graph.constant(node.input[1]) if stored is not None else None
        if stored is None or scale is None or attribute(node, "block_size", 0):
            continue
        held = held_scales(scale)
        if np.all(np.abs(held - scale) <= _EXACT * scale):
            continue
        exact = graph.dequantized(node)
        shape = [1] * exact.ndim
        if held.size > 1:
            shape[attribute(node, "axis", 1)] = held.size
        values = np.rint(exact / held.reshape(shape)).astype(np.int8)
        node.input[0] = graph.store(f"{node.output[0]}.held", values)
        node.input[1] = graph.store(f"{node.output[0]}.held_scale", held)
        changed = True
    if changed:
        drop_unread(proto.graph)


def held_scales(scale: NDArray[Any]) -> NDArray[np.float32]:
    """Of each positive scale, the smallest float16 that is no smaller, as float32."""
    exact = scale.astype(np.float32)
    half = exact.astype(np.float16)
    half = np.where(half.astype(np.float32) < exact, np.nextafter(half, np.float16(np.inf)), half)
    found: NDArray[np.float32] = half.astype(np.float32)
    return found
