"""The stored tensors of a model by keys that are unique, branches included."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, NodeProto, TensorProto


class Stored(NamedTuple):
    """A stored tensor; `name` is what nodes call it, `key` tells it from those of other branches."""

    key: str
    name: str
    tensor: TensorProto


def stored_tensors(graph: GraphProto, scope: str = "") -> Iterator[Stored]:
    """Initializers and constants of a graph and of those inside its nodes."""
    for name, tensor in own_tensors(graph):
        yield Stored(scope + name, name, tensor)
    for node in graph.node:
        for attribute, inner in branches(node):
            yield from stored_tensors(inner, inner_scope(scope, node, attribute))


def own_tensors(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Those of this graph alone, by the names under which its nodes read them."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def branches(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs inside a node, by the names of their attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g


def inner_scope(scope: str, node: NodeProto, attribute: str) -> str:
    """What the keys of a branch begin with: siblings may use the same names."""
    return f"{scope}{node.output[0]}.{attribute}/"
