"""A graph as steps, and what is found out about it before it is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from edgesdk.compress.exposing import read_by
from edgesdk.errors import ModelError
from edgesdk.train.operators import OPERATORS, Call
from edgesdk.train.roles import weight_names
from edgesdk.train.stored_tensors import branches, stored_tensors
from edgesdk.train.types import limits, stored

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from edgesdk.train.operators.registry import Operator


_WITH_BIAS = frozenset(("Conv", "ConvTranspose", "Gemm"))


class UnsupportedOperators(ModelError):
    """The model has operators that cannot be trained through.

    Attributes:
        operators: all of them, with their domain where it is not the standard one.
    """

    def __init__(self, operators: Iterable[str]) -> None:
        self.operators = tuple(sorted(set(operators)))
        super().__init__(
            f"no training through {', '.join(self.operators)}; legal are the {len(OPERATORS)} "
            "operators of edgesdk.train.operators; leave training out for this model"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """A stored integer tensor whose float form is trained.

    Attributes:
        call: the DequantizeLinear that reads it.
        scale, zero: keys of its other inputs; `zero` is empty where there is none.
    """

    call: Call
    scale: str
    zero: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    call: Call
    label: str
    function: Operator | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: frozenset[str]
    inner: Mapping[str, Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A graph: what it holds, by local name and key, and what it does."""

    held: Mapping[str, str]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


def inlined(proto: ModelProto) -> ModelProto:
    """The model without functions of its own, and with unknown operators as the standard defines them.

    The standard defines Attention, RotaryEmbedding and others by simpler operators. One that leads to
    other unknown operators stays as it is.
    """
    from onnx import inliner, shape_inference

    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    unknown = set(unknown_operators(proto.graph))
    is_typed = False
    for name in sorted(name for name in unknown if ":" not in name):
        try:
            proto = proto if is_typed else shape_inference.infer_shapes(proto)
            is_typed = True
            tried = inliner.inline_selected_functions(
                proto, [("", name)], inline_schema_functions=True
            )
        except (RuntimeError, ValueError, shape_inference.InferenceError):
            # Inputs of unknown types, a stranger's operators, or above 2 GiB.
            continue
        if set(unknown_operators(tried.graph)) < unknown:
            proto, unknown = tried, set(unknown_operators(tried.graph))
    return proto


def unknown_operators(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        domain = domain_of(node.domain)
        if (domain, node.op_type) not in OPERATORS and node.op_type != "If":
            yield f"{node.domain}:{node.op_type}" if domain else node.op_type
        for _, inner in branches(node):
            yield from unknown_operators(inner)


def trainable_keys(graph: GraphProto) -> frozenset[str]:
    """Keys of the stored tensors that are weights."""
    found = list(stored_tensors(graph))
    many = frozenset(one.name for one in found if math.prod(one.tensor.dims) > 1)
    names = weight_names(graph, many)
    return frozenset(one.key for one in found if one.name in names)


def integer_weights(
    graph: GraphProto, tensors: Mapping[str, TensorProto], weights: Collection[str], scope: str
) -> dict[str, NodeProto]:
    """Integer weights of this graph, each with the DequantizeLinear that reads it.

    All that read one must read it alike, and with a scale that is stored.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in read_by(node) & tensors.keys():
            readers.setdefault(name, []).append(node)
    found = {}
    for name, tensor in tensors.items():
        nodes = readers.get(name, [])
        alike = {(tuple(node.input), str(list(node.attribute))) for node in nodes}
        if (
            limits(tensor.data_type) is not None
            and scope + name in weights
            and len(alike) == 1
            and nodes[0].op_type == "DequantizeLinear"
            and nodes[0].input[0] == name
            and all(other in tensors for other in nodes[0].input[1:] if other)
        ):
            found[name] = nodes[0]
    return found


def tied_scales(
    graph: GraphProto, tensors: Mapping[str, TensorProto]
) -> dict[str, tuple[str, str]]:
    """Scales of biases of 32 bits that are the product of those of input and weight, and these two.

    Kernels add such a bias to the sums as it stands, and never look at its own scale.
    """
    readers = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    found = {}
    for node in graph.node:
        parts = [readers.get(name) for name in node.input[:3]]
        if len(parts) < 3 or node.op_type not in _WITH_BIAS or None in parts:
            continue
        x, w, bias = (part.input[1] for part in parts if part is not None)
        if not all(name in tensors for name in (x, w, bias)):
            continue
        product = stored(tensors[x]).reshape(-1) * stored(tensors[w]).reshape(-1)
        if np.allclose(product, stored(tensors[bias]).reshape(-1), rtol=1e-3, atol=0):
            found[bias] = (x, w)
    return found


def domain_of(name: str) -> str:
    """A domain; the standard one has two names."""
    return "" if name == "ai.onnx" else name


def plain_value(value: Any) -> Any:
    """An attribute as operators take it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TensorProto):
        return stored(value)
    return value
