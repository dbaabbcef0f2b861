"""Blocks of integer weights, from onnxruntime's own operator to the standard's. Pure.

`edgesdk.compress` writes MatMulNBits, which TensorRT 10 does not know. The same weights as int4 behind
a DequantizeLinear with a scale a block are what its documentation calls weight-only quantization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk_backends.tensorrt.graph import Graph, attribute, drop_unread

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_OP, _DOMAIN = "MatMulNBits", "com.microsoft"
OPSET = 21
"""The standard's first opset with int4 and with scales a block."""


def spread_blocks(proto: onnx.ModelProto) -> int:
    """Replace every MatMulNBits, in place, and return their number.

    4-bit blocks that fill the weight's reduced axis stay 4 bits; all others become float weights, for
    which TensorRT has no packed form. The model must import opset 21 or later where there are any.
    """
    from onnx import helper

    graph = Graph(proto.graph)
    nodes: list[onnx.NodeProto] = []
    found = 0
    for node in proto.graph.node:
        if node.op_type != _OP or node.domain != _DOMAIN:
            nodes.append(node)
            continue
        found += 1
        weight, made = _weight(graph, node)
        nodes += made
        bias = node.input[5] if len(node.input) > 5 else ""
        product = f"{node.output[0]}.product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if bias:
            nodes.append(
                helper.make_node(
                    "Add", [product, bias], list(node.output), name=f"{node.name}.bias"
                )
            )
    if found:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        drop_unread(proto.graph)
    return found


def _weight(graph: Graph, node: onnx.NodeProto) -> tuple[str, list[onnx.NodeProto]]:
    """Name of a product's weight [K, N], and the node that makes it, if one has to."""
    import ml_dtypes
    from onnx import helper

    depth, block = attribute(node, "K", 0), attribute(node, "block_size", 0)
    bits = attribute(node, "bits", 4)
    packed, scale = graph.constant(node.input[1]), graph.constant(node.input[2])
    assert packed is not None
    assert scale is not None
    zero = graph.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    values = unpack(packed, bits, zero)[:depth]
    scales = np.ascontiguousarray(scale.reshape(values.shape[1], -1).T)
    name = node.input[1]
    if bits != 4 or depth % block or zero is not None:
        full = np.repeat(scales, block, axis=0)[:depth]
        return graph.store(f"{name}.float", values.astype(scale.dtype) * full), []
    stored = graph.store(f"{name}.int4", values.astype(ml_dtypes.int4))
    kept = graph.store(f"{name}.scale", scales)
    made = helper.make_node(
        "DequantizeLinear",
        [stored, kept],
        [f"{name}.weight"],
        name=f"{node.name}.weight",
        axis=0,
        block_size=block,
    )
    return made.output[0], [made]


def unpack(packed: NDArray[Any], bits: int, zero: NDArray[Any] | None = None) -> NDArray[np.int16]:
    """The integers of a MatMulNBits weight, less their zero points, as [K rounded up to blocks, N].

    Args:
        packed: uint8[N, blocks, bytes of a block]; of two 4-bit values in a byte, the lower is first.
        bits: 4 or 8.
        zero: uint8, packed alike along the blocks; half of the range where there is none.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
    """
    count, blocks, _ = packed.shape
    values = _apart(packed, bits).reshape(count, blocks, -1)
    middle: NDArray[np.int16] | int = 1 << (bits - 1)
    if zero is not None:
        middle = _apart(zero.reshape(count, -1), bits)[:, :blocks, None]
    return np.ascontiguousarray((values - middle).reshape(count, -1).T)


def _apart(packed: NDArray[Any], bits: int) -> NDArray[np.int16]:
    wide = packed.astype(np.int16)
    if bits == 8:
        return wide
    return np.stack((wide & 15, wide >> 4), axis=-1).reshape(*packed.shape[:-1], -1)
