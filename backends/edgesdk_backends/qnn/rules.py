"""What the HTP takes of a QDQ graph, where it differs from what quantizers write; pure.

Found by trying operators one by one in the vendor's simulator (onnxruntime-qnn 2.7.0), against
onnxruntime's results for the same graph. The graph computes the same after each rule, up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgesdk_backends.qnn.graph import Graph, types_of

if TYPE_CHECKING:
    import onnx

_CONTRIB = "com.microsoft"
_FIXED_RANGES = {
    "Sigmoid": (1 / 65536, 0),
    "HardSigmoid": (1 / 65536, 0),
    "Tanh": (1 / 32768, 32768),
}
"""Scale and zero point that uint16 outputs must have, as in onnxruntime's `get_qnn_qdq_config` (which
leaves out HardSigmoid). The HTP assumes them: with others it computes wrongly, in silence."""

_MOVING = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice"}
    | {"SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators that give values of their first input as they are, so that both share a scale."""


def adapt(proto: onnx.ModelProto) -> None:
    """Apply all rules to a model, in place."""
    name_nodes(proto)
    fuse_gelu(proto)
    keep_bounds(proto)
    unsign_norm_weights(proto)
    fix_output_ranges(proto)
    widen_casts(proto)
    _drop_unused(proto)


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name: placement and reasons refer to it."""
    taken = {node.name for node in proto.graph.node}
    for node in proto.graph.node:
        if not node.name:
            node.name = _fresh(taken, node.op_type)


def unsign_norm_weights(proto: onnx.ModelProto) -> None:
    """Store the int8 weights of LayerNormalization as uint8: the same values, 128 higher.

    Beside an int32 bias the HTP refuses them signed, and the whole layer runs on the CPU.
    """
    from onnx import TensorProto, numpy_helper

    graph = Graph(proto)
    taken = set(graph.stored) | set(graph.maker)
    for node in proto.graph.node:
        weight = graph.maker.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type != "LayerNormalization" or weight is None or len(weight.input) < 3:
            continue
        values, zero = (graph.stored.get(weight.input[place]) for place in (0, 2))
        if values is None or zero is None or values.data_type != TensorProto.INT8:
            continue
        for place, tensor in ((0, values), (2, zero)):
            raised = numpy_helper.to_array(tensor).astype(np.int16) + 128
            name = _fresh(taken, f"{tensor.name}.unsigned")
            proto.graph.initializer.append(numpy_helper.from_array(raised.astype(np.uint8), name))
            weight.input[place] = name


def keep_bounds(proto: onnx.ModelProto) -> None:
    """Give Clip its bounds as constants again: quantized ones count as computed for the HTP."""
    from onnx import numpy_helper

    graph = Graph(proto)
    taken = set(graph.stored) | set(graph.maker)
    for node in proto.graph.node:
        if node.op_type != "Clip":
            continue
        for place, name in enumerate(node.input):
            if place == 0 or not name or name in graph.stored:
                continue
            bound = graph.constant(name)
            if bound is not None:
                plain = _fresh(taken, f"{name}.bound")
                proto.graph.initializer.append(numpy_helper.from_array(bound, plain))
                node.input[place] = plain


def fix_output_ranges(proto: onnx.ModelProto) -> None:
    """Give 16-bit outputs of Sigmoid and the like the scale that the HTP assumes.

    It covers all values that they can have. What only moves these values about follows. A second pair
    of conversions behind the first would not do: onnxruntime makes one of the two.
    """
    from onnx import TensorProto, numpy_helper

    graph = Graph(proto)
    taken = set(graph.stored) | set(graph.maker)
    for node in proto.graph.node:
        wanted = _FIXED_RANGES.get(node.op_type)
        if wanted is None or graph.storage(node.output[0]) != TensorProto.UINT16:
            continue
        scale, zero = (_fresh(taken, f"{node.output[0]}.{part}") for part in ("scale", "zero"))
        proto.graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(wanted[0], np.float32), scale),
                numpy_helper.from_array(np.array(wanted[1], np.uint16), zero),
            ]
        )
        _requantize(graph, node.output[0], [scale, zero])


def _requantize(graph: Graph, name: str, ends: list[str]) -> None:
    """Let a value, and what is a part of it at the same scale, stand at another scale."""
    for quantize in graph.readers(name):
        before = list(quantize.input[1:3])
        quantize.input[1:3] = ends
        for dequantize in graph.readers(quantize.output[0]):
            dequantize.input[1:3] = ends
            for node in graph.readers(dequantize.output[0]):
                if node.op_type in _MOVING and node.input[0] == dequantize.output[0]:
                    for moved in node.output:
                        after = graph.readers(moved)
                        if after and all(list(reader.input[1:3]) == before for reader in after):
                            _requantize(graph, moved, ends)


def widen_casts(proto: onnx.ModelProto) -> None:
    """Make floats of uint8 and int16 by way of int32.

    The HTP makes 1.0 of every uint8 that is not 0, in silence; int16 it leaves to the CPU.
    """
    from onnx import TensorProto, helper

    types = types_of(proto)
    taken = set(types) | {name for node in proto.graph.node for name in (node.name, *node.output)}
    narrow = (TensorProto.UINT8, TensorProto.INT16)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        given = node.input[0] if node.op_type == "Cast" else ""
        to = next((entry.i for entry in node.attribute if entry.name == "to"), 0)
        if given and types.get(given) in narrow and to in floats:
            wide = _fresh(taken, f"{given}.wide")
            name = _fresh(taken, f"{node.name}.wide")
            nodes.append(helper.make_node("Cast", [given], [wide], name=name, to=TensorProto.INT32))
            node.input[0] = wide
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def fuse_gelu(proto: onnx.ModelProto) -> None:
    """Put one Gelu in place of x * (1 + erf(x / sqrt 2)) / 2, quantizers between included.

    The HTP has no Erf; its compiler finds the pattern by itself only where nothing in it is
    quantized.
    """
    from onnx import helper

    graph = Graph(proto)
    found: dict[str, onnx.NodeProto] = {}
    for erf in (node for node in proto.graph.node if node.op_type == "Erf"):
        matched = _match_gelu(graph, erf)
        if matched is not None:
            given, last = matched
            found[last.name] = helper.make_node(
                "Gelu", [given], [last.output[0]], name=f"{erf.name}.gelu", domain=_CONTRIB
            )
    if not found:
        return
    nodes = [found.get(node.name, node) for node in proto.graph.node]
    kept = _alive(nodes, graph.outputs)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    if all(entry.domain != _CONTRIB for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_CONTRIB, 1))


def _match_gelu(graph: Graph, erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto] | None:
    """The value that goes in, and the node that makes the result; None where it is another use."""
    inner = graph.maker.get(graph.before(erf.input[0]))
    given = None
    if inner is not None and inner.op_type == "Div":
        given = _other(graph, inner, math.sqrt(2), ordered=True)
    elif inner is not None and inner.op_type == "Mul":
        given = _other(graph, inner, math.sqrt(0.5))
    add = _only(graph, erf.output[0], "Add")
    if given is None or add is None or _other(graph, add, 1.0) is None:
        return None
    source = graph.before(given)
    product = _only(graph, add.output[0], "Mul")
    if product is None:
        return None
    if _other(graph, product, 0.5) is not None:  # (1 + erf) / 2, then times x
        last = _only(graph, product.output[0], "Mul")
        return (given, last) if last is not None and _reads(graph, last, source) else None
    if _reads(graph, product, source):  # times x, then halved
        last = _only(graph, product.output[0], "Mul")
        halved = last is not None and _other(graph, last, 0.5) is not None
        return (given, last) if last is not None and halved else None
    for name in product.input:  # x / 2 on one side
        half = graph.maker.get(graph.before(name))
        if half is None or half.op_type != "Mul":
            continue
        value = _other(graph, half, 0.5)
        if value is not None and graph.before(value) == source:
            return given, product
    return None


def _other(
    graph: Graph, node: onnx.NodeProto, number: float, *, ordered: bool = False
) -> str | None:
    """The operand beside a constant of this value (the second operand, if `ordered`)."""
    for place in (1,) if ordered else (1, 0):
        value = graph.constant(node.input[place])
        # A quantized constant is off by half a step, at most 1/510 of itself.
        if value is not None and value.size == 1 and abs(value.item() / number - 1) < 0.002:
            return str(node.input[1 - place])
    return None


def _only(graph: Graph, name: str, op: str) -> onnx.NodeProto | None:
    """The one node that reads a value, if it is of this kind."""
    readers = {node.name: node for node in graph.beyond(name)}
    if name in graph.outputs or len(readers) != 1:
        return None
    node = next(iter(readers.values()))
    return node if node.op_type == op else None


def _reads(graph: Graph, node: onnx.NodeProto, source: str) -> bool:
    return any(graph.before(name) == source for name in node.input)


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Forget the weights that no node reads any more."""
    wanted = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        wanted.update(_reads_from(node))
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in wanted]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def _reads_from(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node refers to, inside its branches as well."""
    from edgesdk.compress.onnx_io import subgraphs

    yield from node.input
    for inner in subgraphs(node):
        for part in inner.node:
            yield from _reads_from(part)
        yield from (value.name for value in inner.output)


def _alive(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in their order."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(_reads_from(node))
    return kept[::-1]


def _fresh(taken: set[str], stem: str) -> str:
    """A name that nothing has, which is taken from now on."""
    name = next(
        name
        for name in itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(1)))
        if name and name not in taken
    )
    taken.add(name)
    return name
