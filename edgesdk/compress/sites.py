"""Sites: the nodes of a graph that quantizers work on, and which of their inputs are what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesdk.compress.shapes import infer_shapes
from edgesdk.compress.weights import SMALL, channel_axis, elements
from edgesdk.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from edgesdk.precision import Precision

_DATA_INPUTS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
}
_FLOAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One node of the main graph that can be quantized.

    Attributes:
        node: its name.
        op: its operator: Conv, ConvTranspose, Gemm, MatMul or Gather.
        inputs: names of its inputs, in order.
        activations: positions of the inputs whose values are known at run time only.
        weight: position of the stored weight; None for a product of two activations.
        axis: of the weight's output channels; None where it has fewer than two axes.
        reduced: axis of the weight along which blocks lie; None where no engine has blocks.
    """

    node: str
    op: str
    inputs: tuple[str, ...]
    activations: tuple[int, ...]
    weight: int | None
    axis: int | None = None
    reduced: int | None = None

    def takes(self, precision: Precision) -> bool:
        """Whether that precision changes anything here, and engines have it for such a node."""
        if precision.cast:
            return True
        if precision.block is not None:
            return self.reduced is not None
        return self.weight is not None or precision.activation_bits is not None


def find_sites(proto: onnx.ModelProto) -> tuple[Site, ...]:
    """Every quantizable float32 node of the main graph, in its order; subgraphs are left out.

    A Gather is one where it looks rows up in a stored table of 256 values or more.

    Args:
        proto: with or without the content of external data.

    Raises:
        ModelError: a quantizable node has no name, or shares it.
    """
    graph = proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    types = _types(graph)
    candidates = [node for node in graph.node if node.op_type in _DATA_INPUTS and not node.domain]
    if any(node.output[0] not in types for node in candidates):
        types = _types(infer_shapes(proto).graph)
    found = [
        site
        for node in candidates
        if types.get(node.output[0]) == _FLOAT and (site := _site(node, stored)) is not None
    ]
    check_names(proto, {site.node for site in found})
    return tuple(found)


def check_names(proto: onnx.ModelProto, wanted: set[str] | None = None) -> None:
    """Refuse a main graph whose nodes cannot be told apart by name.

    Args:
        wanted: only these names matter; None for those of all nodes.

    Raises:
        ModelError: names the first node without a name, or the name that several have.
    """
    counts = Counter(node.name for node in proto.graph.node)
    for node in proto.graph.node:
        if wanted is not None and node.name not in wanted:
            continue
        if not node.name or counts[node.name] > 1:
            problem = f"{counts[node.name]} nodes are called" if node.name else "a node is called"
            raise ModelError(
                f"{problem} {node.name!r} ({node.op_type}, writes {node.output[0]!r}); nodes are "
                "told apart by name here: give each a name of its own"
            )


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return {name: kind for name, kind in known.items() if kind}


def _site(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Site | None:
    positions = [i for i in _DATA_INPUTS[node.op_type] if i < len(node.input)]
    weights = [i for i in positions if node.input[i] in stored]
    activations = tuple(i for i in positions if i not in weights)
    if node.op_type == "Gather":
        if not weights or elements(stored[node.input[0]]) < SMALL:
            return None
    elif not activations:
        return None
    weight = weights[0] if weights else None
    rank = len(stored[node.input[weight]].dims) if weight is not None else 0
    axis = channel_axis(node, weight, rank) if weight is not None and rank > 1 else None
    has_blocks = node.op_type in ("MatMul", "Gemm") and weight == 1 and rank == 2
    return Site(
        node=node.name,
        op=node.op_type,
        inputs=tuple(node.input),
        activations=activations,
        weight=weight,
        axis=axis,
        reduced=1 - axis if has_blocks and axis is not None else None,
    )
