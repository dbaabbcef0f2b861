"""A graph without what its large weights hold: enough to infer shapes, of a model of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io

if TYPE_CHECKING:
    import onnx

_SMALL = 128
"""Elements up to which a tensor may say something about shapes, and keeps its values."""
_SHAPED_AS_INPUT = frozenset(
    ("GroupNormalization", "Gelu", "QuickGelu", "SimplifiedLayerNormalization")
)


def traced_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graph and the branches in it, whose nodes are traced as if they stood outside.

    Only the graph itself where two of them use one name for different things.
    """
    found = list(_through_branches(graph))
    names = [name for part in found for name in _written(part)]
    return found if len(set(names)) == len(names) else [graph]


def _through_branches(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        if node.op_type == "If":
            for body in onnx_io.subgraphs(node):
                yield from _through_branches(body)


def _written(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def traced_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of all traced graphs in the order in which they run: an If follows its branches."""
    inner = len(traced_graphs(graph)) > 1
    return list(_in_order(graph, inner=inner))


def _in_order(graph: onnx.GraphProto, *, inner: bool) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if inner and node.op_type == "If":
            for body in onnx_io.subgraphs(node):
                yield from _in_order(body, inner=True)
        yield node


def stored_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes of all traced graphs by name, in order."""
    found: dict[str, onnx.TensorProto] = {}
    for part in traced_graphs(graph):
        found |= own_tensors(part)
    return found


def own_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Those of one graph."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in plain_constant(node).attribute:
                if attribute.HasField("t"):
                    found[node.output[0]] = attribute.t
    return found


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which tensors of more than 128 elements have a type and a shape, and no values."""
    import onnx

    bare = onnx.ModelProto(ir_version=proto.ir_version)
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    graph, source = bare.graph, proto.graph
    graph.name = source.name
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.initializer.extend(_emptied(tensor) for tensor in source.initializer)
    for node in source.node:
        large = node.op_type == "Constant" and any(
            a.HasField("t") and math.prod(a.t.dims) > _SMALL for a in node.attribute
        )
        if not large:
            graph.node.add().CopyFrom(plain_constant(node))
            continue
        copy = graph.node.add(op_type="Constant", name=node.name, output=node.output)
        attribute = copy.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        attribute.t.CopyFrom(_emptied(node.attribute[0].t))
    return bare


def inferable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A skeleton in which operators whose shapes onnx does not infer stand as what has the same shape."""
    bare = skeleton(proto)
    for node in bare.graph.node:
        if node.op_type in _SHAPED_AS_INPUT and sum(bool(name) for name in node.output) == 1:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    return bare


def _emptied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    if math.prod(tensor.dims) <= _SMALL:
        return tensor
    # Marked as kept elsewhere, so that nobody misses the values.
    return onnx.TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=onnx.TensorProto.EXTERNAL,
    )


def plain_constant(node: onnx.NodeProto) -> onnx.NodeProto:
    """A Constant given as numbers, as one given as a tensor; other nodes as they are."""
    import numpy as np
    from onnx import helper, numpy_helper

    if node.op_type != "Constant" or not node.attribute or node.attribute[0].HasField("t"):
        return node
    given = node.attribute[0]
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if given.name not in kinds:
        return node
    tensor = numpy_helper.from_array(np.array(helper.get_attribute_value(given), kinds[given.name]))
    return helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor)
