"""What a graph would have to do with layers split: what predictions of its time start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from edgesdk.errors import ModelError
from edgesdk.onnxfile.work import GraphWork, Tensor, Work
from edgesdk.structure.factors import Choice, pieces

if TYPE_CHECKING:
    from edgesdk.structure.layers import Layer

_WIDTH = 4


def split_work(
    graph: GraphWork, layers: Mapping[str, Layer], choices: Mapping[str, Choice]
) -> GraphWork:
    """The work of a graph after `factorize`, without doing it.

    Args:
        graph: the work of the whole graph, at fixed shapes.
        layers: of the graph, by node name.
        choices: how to split some of them, by node name.

    Raises:
        ModelError: a node is not among the work, or its shapes are not known.
    """
    missing = choices.keys() - {node.name for node in graph.nodes}
    if missing:
        raise ModelError(f"no node {min(missing)!r} runs; there are {len(graph.nodes)}")
    nodes: list[Work] = []
    for node in graph.nodes:
        choice = choices.get(node.name)
        nodes += [node] if choice is None else _split(node, layers[node.name], choice)
    return replace(graph, nodes=tuple(nodes))


def _split(node: Work, layer: Layer, choice: Choice) -> list[Work]:
    entering, made = node.inputs[0], node.outputs[0]
    if entering is None or entering.shape is None or made.shape is None:
        raise ModelError(
            f"the shapes around node {node.name!r} are not known; fix the input shapes"
        )
    first, second = pieces(layer, choice)
    if layer.op != "Conv":
        shape = (*made.shape[:-1], choice.rank)
    elif choice.form == "channels":
        shape = (made.shape[0], choice.rank, *made.shape[2:])
    else:  # the columns pass over every column of the input, the rows over every row of the output
        shape = (made.shape[0], choice.rank, made.shape[2], entering.shape[3])
    between = Tensor(name=first.output, shape=shape, bytes=_WIDTH * prod(shape))
    return [
        replace(
            node,
            name=first.node,
            inputs=(entering, _weight(first)),
            outputs=(between,),
            macs=prod(shape) * first.features,
        ),
        replace(
            node,
            inputs=(between, _weight(second), *node.inputs[2:]),
            macs=made.elements * second.features,
        ),
    ]


def _weight(layer: Layer) -> Tensor:
    """The stored weight of a piece."""
    if layer.op == "Conv":
        shape: tuple[int, ...] = (layer.outputs, layer.channels, *layer.kernel)
    else:
        shape = (layer.features, layer.outputs)
        shape = shape[::-1] if layer.transposed else shape
    return Tensor(name=layer.weight, shape=shape, bytes=_WIDTH * prod(shape), stored=True)
