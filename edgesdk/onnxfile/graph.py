"""Whether a graph holds together: every name that is read is written, once."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from edgesdk.errors import ModelError
from edgesdk.onnxfile.shapes import subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def check_graph(graph: GraphProto, visible: Set[str] = frozenset()) -> None:
    """Check a graph and the graphs inside its nodes.

    The order of nodes is left to the runtimes, most of which sort them.

    Args:
        graph: with or without its weights.
        visible: names of the surrounding graphs.

    Raises:
        ModelError: a name that nothing produces, or that two things produce.
    """
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {tensor.values.name for tensor in graph.sparse_initializer}
    written = stored | {info.name for info in graph.input}
    for node in graph.node:
        if not node.op_type:
            raise ModelError(f"node {node.name!r} has no operator; the file is damaged")
        for name in node.output:
            if name and name in written:
                raise ModelError(f"{describe(node)} writes {name!r}, which exists already")
            written.add(name)
    known = visible | written | {""}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                raise ModelError(f"{describe(node)} reads {name!r}, which nothing produces")
        for inner in subgraphs(node):
            check_graph(inner, known)
    for info in graph.output:
        if not info.name or info.name not in known:
            raise ModelError(f"output {info.name!r} of graph {graph.name!r} is never produced")


def describe(node: NodeProto) -> str:
    """A node for a message."""
    return f"node {node.name!r} ({node.op_type})"
