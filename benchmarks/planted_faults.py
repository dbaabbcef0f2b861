"""Faults to plant: nodes that int8 ruins while their float function stays, conversions with a wrong op."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgesdk.backend import Backend
from edgesdk.compress.sites import Site, find_sites
from edgesdk.recipe import Recipe

_FACTOR = 200.0
_SHARE, _FEWEST_CHANNELS = 0.1, 8
"""Of a node's input channels, which channels are scaled; how many it must have."""


def _has_channels(site: Site) -> bool:
    """Whether the recipe quantizes it: it leaves look-ups and products of two activations alone."""
    return site.op != "Gather" and site.weight == 1 and site.axis is not None


def make_hostile(
    model: Path, target: Path, rng: np.random.Generator, count: int
) -> tuple[str, ...]:
    """Write the model with the input channels of so many nodes scaled apart; returns their names."""
    proto = onnx.load(model)
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    groups = {n.name: next((a.i for a in n.attribute if a.name == "group"), 1) for n in graph.node}
    uses = [name for node in graph.node for name in node.input]
    sites = [
        site
        for site in find_sites(proto)
        if _has_channels(site)
        and groups[site.node] == 1
        and uses.count(site.inputs[1]) == 1
        and tensors[site.inputs[1]].dims[_input_axis(site)] >= _FEWEST_CHANNELS
    ]
    picked = sorted(rng.choice(len(sites), size=min(count, len(sites)), replace=False))
    for site in [sites[i] for i in picked]:
        weight = tensors[site.inputs[1]]
        values = numpy_helper.to_array(weight).copy()
        axis = _input_axis(site)
        length = values.shape[axis]
        channels = rng.choice(length, size=math.ceil(_SHARE * length), replace=False)
        factors = np.ones(length, np.float32)
        factors[channels] = _FACTOR
        along = [1] * values.ndim
        along[axis] = length
        weight.CopyFrom(numpy_helper.from_array(values * factors.reshape(along), weight.name))
        is_image = site.op in ("Conv", "ConvTranspose")
        shape = (length, *[1] * (values.ndim - 2)) if is_image else (length,)
        graph.initializer.append(
            numpy_helper.from_array((1 / factors).reshape(shape), f"{site.node}.apart")
        )
        place = next(i for i, node in enumerate(graph.node) if node.name == site.node)
        scaled = f"{site.node}.scaled"
        graph.node[place].input[0] = scaled
        graph.node.insert(
            place,
            helper.make_node(
                "Mul", [site.inputs[0], f"{site.node}.apart"], [scaled], name=f"{scaled}.mul"
            ),
        )
    onnx.save(proto, target)
    return tuple(sites[i].node for i in picked)


def _input_axis(site: Site) -> int:
    assert site.axis is not None
    return 1 - site.axis if site.op != "MatMul" else site.axis - 1


def break_in(engine: Backend, node: str) -> Backend:
    """The adapter, but with one node's result made y + |y| / 10 in every conversion."""

    class Broken(type(engine)):  # type: ignore[misc]  # the adapter's class is known at run time
        def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
            proto = onnx.load(model)
            _spoil(proto, node)
            onnx.save(proto, model.with_name("broken.onnx"))
            artifact: Path = super().convert(model.with_name("broken.onnx"), recipe, out)
            return artifact

    broken: Backend = Broken()
    return broken


def _spoil(proto: onnx.ModelProto, name: str) -> None:
    graph = proto.graph
    place, node = next((i, n) for i, n in enumerate(graph.node) if n.name == name)
    output = node.output[0]
    right, size, part = (f"{output}.{word}" for word in ("right", "size", "part"))
    node.output[0] = right
    graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), f"{output}.tenth"))
    added = [
        helper.make_node("Abs", [right], [size], name=size),
        helper.make_node("Mul", [size, f"{output}.tenth"], [part], name=part),
        helper.make_node("Add", [right, part], [output], name=f"{output}.broken"),
    ]
    for number, one in enumerate(added):
        graph.node.insert(place + 1 + number, one)
