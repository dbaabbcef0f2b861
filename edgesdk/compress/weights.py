"""Which nodes carry weights, along which axis their channels lie, and which hold integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io

if TYPE_CHECKING:
    import onnx

    Stored = dict[str, onnx.TensorProto]
    Makers = dict[str, onnx.NodeProto]

_WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "MatMul": (0, 1),
    "Gemm": (1,),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
_INTEGER_NODES = frozenset(
    (
        "MatMulNBits",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "ConvInteger",
        "QLinearConv",
        "QLinearMatMul",
        "DynamicQuantizeLSTM",
    )
)
"""Operators whose weights are integers by definition."""

_PASSED_THROUGH = frozenset(
    ("Cast", "DequantizeLinear", "QuantizeLinear", "Identity", "Mul", "Reshape", "Sub", "Transpose")
)
"""What may stand between a stored weight and the node that uses it."""

_INTEGERS = frozenset((2, 3, 4, 5, 21, 22, 25, 26))
"""Data types of `TensorProto`: (u)int8, (u)int16, (u)int4, (u)int2. Wider ones are indices."""
_FLOATS = frozenset((1, 10, 11, 16))
"""float, float16, double, bfloat16."""

SMALL = 256
"""Elements below which a weight is not worth compressing: its scale and its nodes cost as much."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A float weight in use.

    Attributes:
        name: of the tensor.
        op: the operator that uses it.
        axis: along which its output channels lie, counted from the front.
    """

    name: str
    op: str
    axis: int


def float_weights(graph: onnx.GraphProto) -> dict[str, Weight]:
    """Float weights stored in this graph that its nodes, or its subgraphs', use directly."""
    kept = {tensor.name: tensor for tensor in _constants(graph)}
    found: dict[str, Weight] = {}
    for node in (node for part in onnx_io.graphs(graph) for node in part.node):
        for position in _WEIGHT_INPUTS.get(node.op_type, ()):
            if position >= len(node.input) or node.input[position] not in kept:
                continue
            tensor = kept[node.input[position]]
            if tensor.data_type == 1 and elements(tensor) >= SMALL and len(tensor.dims) > 1:
                axis = channel_axis(node, position, len(tensor.dims))
                found.setdefault(tensor.name, Weight(tensor.name, node.op_type, axis))
    return found


def elements(tensor: onnx.TensorProto) -> int:
    """How many values a tensor holds."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def count_weighted(proto: onnx.ModelProto) -> tuple[int, int]:
    """Nodes that carry weights: how many in all, and how many of them hold integers."""
    total = integer = 0
    for node, dtypes in _carriers(proto.graph, {}, {}):
        total += 1
        integer += node.op_type in _INTEGER_NODES or bool(dtypes & _INTEGERS)
    return total, integer


def _carriers(
    graph: onnx.GraphProto, stored: Stored, makers: Makers
) -> Iterator[tuple[onnx.NodeProto, frozenset[int]]]:
    """Nodes with weights, here and in subgraphs, with the types in which these are stored."""
    stored = {**stored, **{tensor.name: tensor for tensor in _constants(graph)}}
    makers = {**makers, **{name: node for node in graph.node for name in node.output}}
    for node in graph.node:
        positions = _WEIGHT_INPUTS.get(node.op_type, ())
        names = [node.input[i] for i in positions if i < len(node.input)]
        origins = [_origin(name, makers, stored) for name in names]
        dtypes = frozenset(
            tensor.data_type
            for tensor in origins
            if tensor is not None
            and tensor.data_type in _INTEGERS | _FLOATS
            and elements(tensor) >= SMALL
        )
        if dtypes or node.op_type in _INTEGER_NODES:
            yield node, dtypes
        for subgraph in onnx_io.subgraphs(node):
            yield from _carriers(subgraph, stored, makers)


def _origin(name: str, makers: Makers, stored: Stored) -> onnx.TensorProto | None:
    """The stored tensor behind a value, through whatever restores it; None for an activation."""
    for _ in range(8):
        if name in stored:
            return stored[name]
        maker = makers.get(name)
        if maker is None or maker.op_type not in _PASSED_THROUGH:
            return None
        name = maker.input[0]
    return None


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Stored tensors of this graph alone, under the names by which nodes know them."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            import onnx

            named = onnx.TensorProto(
                name=node.output[0],
                data_type=node.attribute[0].t.data_type,
                dims=node.attribute[0].t.dims,
            )
            yield named


def channel_axis(node: onnx.NodeProto, position: int, rank: int) -> int:
    """Axis of the output channels in the weight that a node reads at `position`."""
    if node.op_type == "MatMul":
        return rank - 1 if position == 1 else rank - 2
    if node.op_type == "Gemm":
        return 0 if onnx_io.attribute(node, "transB", 0) else 1
    return {"ConvTranspose": 1, "LSTM": 1, "GRU": 1, "RNN": 1}.get(node.op_type, 0)
