"""What each node of a graph costs, from the shapes of its tensors."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgesdk.onnxfile.macs import count_macs
from edgesdk.onnxfile.shapes import NEVER_RUNS, shape_of, subgraphs
from edgesdk.onnxfile.tensors import dtype_name, packed_bytes

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

_WIDTHS = {"value_float": 4, "value_int": 8, "value_floats": 4, "value_ints": 8}
"""Bytes of one element of a Constant node's plain attributes (Operators.md, Constant)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node. In a branch that the given input shapes never take, it costs 0.

    Attributes:
        name: as in the graph; may be empty.
        op: operator.
        domain: its domain; empty for the default one.
        macs: multiply-accumulates of one run, or None where shapes are not known.
        activation_bytes: bytes of the tensors that it reads and writes at run time (weights are
            not among them), or None where one is not known.
        weight_bytes: bytes of the stored tensors that it reads; a tensor with several readers
            counts for each.
        depth: 0 in the main graph, 1 in a subgraph of it, and so on.
        inputs, outputs: names of the tensors that it reads and writes; "" for one left out.
    """

    name: str
    op: str
    domain: str
    macs: int | None
    activation_bytes: int | None
    weight_bytes: int
    depth: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def qualified_op(self) -> str:
        """`Op`, or `domain::Op` outside the default domain."""
        return f"{self.domain}::{self.op}" if self.domain else self.op


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """What is known of one tensor; `size` is in bytes."""

    shape: tuple[int, ...] | None
    size: int | None
    stored: bool = False


_UNKNOWN = _Value(shape=None, size=None)


def list_nodes(graph: GraphProto, inferred: GraphProto) -> tuple[NodeFacts, ...]:
    """Every node of a graph and of the graphs inside its nodes.

    Args:
        graph: as in the file.
        inferred: the same, or its form with more shapes (`shapes.infer`).
    """
    return tuple(_walk(graph, inferred, ChainMap(), 0))


def sum_stored(proto: ModelProto) -> tuple[int, int]:
    """Elements and bytes of all initializers and Constant nodes, in subgraphs and functions too."""
    values = [*_stored_in_graph(proto.graph)]
    for function in proto.functions:
        values += _stored_in_nodes(function.node)
    return sum(prod(value.shape or ()) for value in values), sum(
        value.size or 0 for value in values
    )


def _stored_in_graph(graph: GraphProto) -> Iterator[_Value]:
    yield from _initializers(graph).values()
    yield from _stored_in_nodes(graph.node)


def _stored_in_nodes(nodes: Iterable[NodeProto]) -> Iterator[_Value]:
    for node in nodes:
        if _is_constant(node):
            yield _constant(node)
        for inner in subgraphs(node):
            yield from _stored_in_graph(inner)


def _initializers(graph: GraphProto) -> dict[str, _Value]:
    dense = {tensor.name: _stored(tensor) for tensor in graph.initializer}
    sparse = {one.values.name: _stored(one.values) for one in graph.sparse_initializer}
    return dense | sparse


def _stored(tensor: TensorProto) -> _Value:
    shape = tuple(tensor.dims)
    dtype = dtype_name(tensor.data_type, f"tensor {tensor.name!r}")
    return _Value(shape=shape, size=packed_bytes(prod(shape), dtype), stored=True)


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and not node.domain and len(node.attribute) > 0


def _constant(node: NodeProto) -> _Value:
    """The value of a Constant node, which has one of several attributes."""
    one = node.attribute[0]
    if one.name == "value":
        return _stored(one.t)
    if one.name == "sparse_value":
        return _stored(one.sparse_tensor.values)
    count = len(one.floats) + len(one.ints) + len(one.strings)
    shape = (count,) if one.name.endswith("s") else ()
    return _Value(shape=shape, size=prod(shape) * _WIDTHS.get(one.name, 0), stored=True)


def _walk(
    graph: GraphProto, inferred: GraphProto, outer: ChainMap[str, _Value], depth: int
) -> Iterator[NodeFacts]:
    if inferred.name == NEVER_RUNS:
        yield from _ruled_out(graph, depth)
        return
    scope = outer.new_child(_known(graph, inferred))
    for node, twin in zip(graph.node, inferred.node, strict=True):
        yield _node_facts(node, scope, depth)
        for inner, inner_twin in zip(subgraphs(node), subgraphs(twin), strict=True):
            yield from _walk(inner, inner_twin, scope, depth + 1)


def _ruled_out(graph: GraphProto, depth: int) -> Iterator[NodeFacts]:
    """The nodes of a branch that these input shapes never take: they cost nothing."""
    for node in graph.node:
        yield NodeFacts(
            name=node.name,
            op=node.op_type,
            domain=node.domain,
            macs=0,
            activation_bytes=0,
            weight_bytes=0,
            depth=depth,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
        )
        for inner in subgraphs(node):
            yield from _ruled_out(inner, depth + 1)


def _known(graph: GraphProto, inferred: GraphProto) -> dict[str, _Value]:
    """What is known of the tensors that a graph defines itself."""
    values: dict[str, _Value] = {}
    for info in (*inferred.value_info, *inferred.output, *inferred.input):
        shape = shape_of(info)
        kind = info.type.tensor_type.elem_type
        if shape is not None and kind:
            size = packed_bytes(prod(shape), dtype_name(kind, f"tensor {info.name!r}"))
            values[info.name] = _Value(shape=shape, size=size)
    values |= _initializers(graph)
    values |= {node.output[0]: _constant(node) for node in graph.node if _is_constant(node)}
    return values


def _node_facts(node: NodeProto, scope: Mapping[str, _Value], depth: int) -> NodeFacts:
    domain = "" if node.domain == "ai.onnx" else node.domain
    read = [scope.get(name, _UNKNOWN) if name else None for name in node.input]
    written = [scope.get(name, _UNKNOWN) if name else None for name in node.output]
    touched = {name: scope.get(name, _UNKNOWN) for name in (*node.input, *node.output) if name}
    moved = [value.size for value in touched.values() if not value.stored]
    return NodeFacts(
        name=node.name,
        op=node.op_type,
        domain=domain,
        macs=count_macs(
            node.op_type,
            domain,
            [value.shape if value else None for value in read],
            [value.shape if value else None for value in written],
            {one.name: _plain(one) for one in node.attribute},
        ),
        activation_bytes=_total(moved),
        weight_bytes=sum(
            touched[name].size or 0 for name in {*node.input} if name and touched[name].stored
        ),
        depth=depth,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
    )


def _total(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _plain(attribute: AttributeProto) -> int | str:
    """The attributes that counting reads are integers and strings."""
    return attribute.i or attribute.s.decode(errors="replace")
