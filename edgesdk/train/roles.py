"""Which stored float tensors of a graph are weights: those that training may change.

A tensor is a weight when it is taken as one by a layer, or is added to or multiplied with activations
and has more than one value. Single numbers (the square root in attention, the constants in a written
out GELU) and what says how an operator works (limits, padding, scales of images, statistics of batch
normalization) are part of the architecture and stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GRU": (1, 2, 3),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
}
"""Places of inputs that are weights whatever their size."""
_OPERANDS = frozenset(("Add", "Concat", "Div", "Einsum", "Expand", "Mul", "Sub", "Sum"))
"""Operators whose constants are weights when they have more than one value."""
_PASSING = frozenset(
    (
        "Cast",
        "DequantizeLinear",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)
"""Operators whose first input is what their output is."""


def weight_names(graph: GraphProto, many: frozenset[str]) -> frozenset[str]:
    """Names of tensors of this graph and of those inside its nodes that are taken as weights.

    Args:
        graph: its nodes in order.
        many: names of the stored tensors with more than one value; only they are weights as
            operands.
    """
    wanted: set[str] = set()
    several = set(many)
    nodes = list(_all_nodes(graph.node))
    for node in nodes:
        if node.op_type in _PASSING and node.input and node.input[0] in several:
            several.update(node.output)
    for node in reversed(nodes):
        if node.op_type in _PASSING:
            if wanted.intersection(node.output):
                wanted.add(node.input[0])
            continue
        for place in _WEIGHTS.get(node.op_type, ()):
            if place < len(node.input):
                wanted.add(node.input[place])
        if node.op_type in _OPERANDS:
            wanted.update(name for name in node.input if name in several)
    return frozenset(wanted - {""})


def _all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Nodes in the order in which they run, those of inner graphs before the node that has them."""
    for node in nodes:
        for inner in onnx_io.subgraphs(node):
            yield from _all_nodes(inner.node)
        yield node
