"""One node made two: the graph surgery behind `lowrank`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.errors import ModelError
from edgesdk.structure.factors import Choice, factors, pieces

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.structure.layers import Layer
    from edgesdk.structure.lowrank import Study
    from edgesdk.structure.net import Net

    Floats = NDArray[np.float64]

_GEOMETRY = frozenset(("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"))


def factorize(
    net: Net, known: Mapping[str, Study], choices: Mapping[str, Choice]
) -> onnx.ModelProto:
    """Split layers, in place.

    The second of the two keeps the name of the node and of its output; the first and what passes
    between them get derived ones.

    Args:
        net: the model that was studied.
        known: what `study` found.
        choices: by node name; layers without one stay whole.

    Raises:
        ModelError: no such layer was studied, or the rank is not legal.
    """
    added: dict[str, onnx.NodeProto] = {}
    for name, choice in choices.items():
        if name not in known:
            raise ModelError(f"no layer {name!r} was studied; there are {len(known)}")
        one = known[name]
        most = min(one.layer.features, one.layer.outputs)
        if choice.form == "separable":
            most = one.separable.columns.shape[1] if one.separable is not None else 0
        if not 1 <= choice.rank <= most:
            raise ModelError(f"rank {choice.rank} of {name!r} ({choice.form}); legal: 1 to {most}")
        added[name] = _split(net, one, choice)
    graph = net.proto.graph
    nodes = []
    for node in graph.node:
        nodes += [added[node.name], node] if node.name in added else [node]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    replaced = {net.layers[name].weight for name in choices}
    kept = [t for t in graph.initializer if t.name not in replaced]
    weights = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(weights)
    return net.proto


def _split(net: Net, known: Study, choice: Choice) -> onnx.NodeProto:
    """Make a node the second of two; returns the first."""
    from onnx import NodeProto

    layer = known.layer
    matrix = net.matrix(layer)[0]
    first, second = (_named(net, layer, piece) for piece in pieces(layer, choice))
    if choice.form == "channels":
        left, right = factors(matrix, known.spectrum, choice.rank)
        product = left @ right
    else:
        assert known.separable is not None
        _, width = layer.kernel
        left = known.separable.columns[:, : choice.rank]
        rows = known.separable.rows(choice.rank, width)
        product = np.einsum("ar,rjo->ajo", left, rows).reshape(matrix.shape)
        right = rows.reshape(choice.rank * width, layer.outputs)
    vector = net.vector(layer) + known.mean @ (matrix - product)
    node = net.nodes[layer.node]
    head = NodeProto()
    head.CopyFrom(node)
    head.name = first.node
    head.output[0] = first.output
    head.input[:] = [layer.source, net.store(first.weight, _stored(first, left))]
    node.input[0] = first.output
    node.input[1] = net.store(second.weight, _stored(second, right))
    if layer.op == "Conv":
        _set_geometry(head, first)
        _set_geometry(node, second)
    if layer.takes_bias:
        net.write(second, right[None], vector)
    return head


def _named(net: Net, layer: Layer, piece: Layer) -> Layer:
    """A piece under names that nothing else has."""
    if piece.node == layer.node:
        place = f"{layer.output}.rank"
        weight = net.fresh(f"{layer.weight}.second")
        return replace(piece, source=net.fresh(place), weight=weight)
    return replace(
        piece,
        node=net.fresh(piece.node),
        output=net.fresh(piece.output),
        biased=net.fresh(piece.output),
        weight=net.fresh(piece.weight),
    )


def _stored(piece: Layer, matrix: Floats) -> Floats:
    """A matrix as the operator stores it."""
    if piece.op == "Conv":
        return matrix.T.reshape(piece.outputs, -1, *piece.kernel)
    return matrix.T if piece.transposed else matrix


def _set_geometry(node: onnx.NodeProto, layer: Layer) -> None:
    from onnx import helper

    kept = [a for a in node.attribute if a.name not in _GEOMETRY]
    copies = [type(a).FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(copies)
    given: dict[str, object] = {
        "kernel_shape": layer.kernel,
        "strides": layer.strides,
        "dilations": layer.dilations,
        "group": layer.groups,
    }
    padded = "auto_pad" if isinstance(layer.pads, str) else "pads"
    given[padded] = layer.pads
    node.attribute.extend(helper.make_attribute(name, value) for name, value in given.items())
