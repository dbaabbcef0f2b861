"""Switchboards: a float model in which every quantizable node can be switched, run by run.

`build_switchboard` writes one model that is the float model, the model with one node quantized, any
mixture, and the model quantized throughout; which of them is said by one more input. So hundreds of
mixtures are tried with one session. Every site becomes an `If` whose branches hold the float node
and its simulated forms, so what is switched off costs nothing.

`build_shadows` writes a model that computes every site at every precision beside the float node, on
the float node's inputs, and gives back two numbers for each: one run shows all local errors.

Both are for onnxruntime, opened with constant folding off: folding restores the stored integers of
all weights, once for every branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.simulated import StoredWeights, Tape, simulate
from edgesdk.compress.sites import Site, find_sites
from edgesdk.compress.stored import constants_to_initializers
from edgesdk.errors import ModelError
from edgesdk.precision import Precision

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from edgesdk.compress.simulated import Ranges

_LOWEST_OPSET = 13
"""Split takes its lengths as an input from here on; `prepare` leaves no model below it."""
_FLOAT, _INT64 = 1, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Switchboard:
    """A model with switches.

    Attributes:
        path: the file.
        sites: in the order of `choices`; never empty.
        precisions: those that can be chosen.
        choices: name of the input int64[sites]: 0 for float, else the number of a precision, from 1.
    """

    path: Path
    sites: tuple[Site, ...]
    precisions: tuple[Precision, ...]
    choices: str

    def encode(self, assignment: Mapping[str, str]) -> NDArray[np.int64]:
        """The value of `choices` for precisions by node name; nodes not named stay float.

        Raises:
            ModelError: no such site, no such precision here, or it does not apply to that node.
        """
        numbers = {precision.name: i + 1 for i, precision in enumerate(self.precisions)}
        places = {site.node: i for i, site in enumerate(self.sites)}
        values = np.zeros(len(self.sites), np.int64)
        for node, name in assignment.items():
            if node not in places:
                raise ModelError(f"no quantizable node {node!r}; there are {len(places)} others")
            if name not in numbers:
                legal = ", ".join(numbers)
                raise ModelError(f"node {node!r}: no precision {name!r} here; legal: {legal}")
            if not self.sites[places[node]].takes(self.precisions[numbers[name] - 1]):
                raise ModelError(f"node {node!r} has no {name} form; leave it out")
            values[places[node]] = numbers[name]
        return values

    def everywhere(self, precision: str) -> dict[str, str]:
        """The assignment of one precision to every node that takes it."""
        wanted = Precision.parse(precision)
        return {site.node: precision for site in self.sites if site.takes(wanted)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadows:
    """A model with shadows.

    Attributes:
        path: the file; its outputs are the model's own and the two below.
        pairs: site and precision, in the order of `errors`.
        errors: name of the output float32[pairs]: sum of squared differences at the node's output.
        signals: name of the output float32[pairs]: sum of squares of the float node's output.
    """

    path: Path
    pairs: tuple[tuple[Site, Precision], ...]
    errors: str
    signals: str


def build_switchboard(
    model: Path, target: Path, precisions: Sequence[Precision], *, ranges: Ranges | None = None
) -> Switchboard:
    """Write the float model with a switch at every site.

    Args:
        model: what `prepare` wrote.
        target: the file to write.
        precisions: what a site can be switched to; at least one.
        ranges: lowest and highest value of activations by name; for the others each run finds them.

    Raises:
        ModelError: no node can be quantized, or names are missing or not unique.
    """
    proto, sites = _opened(model, precisions)
    graph = proto.graph
    prefix = _free_prefix(graph)
    choices, floats = f"{prefix}choices", [f"{prefix}float{i}" for i in range(len(sites))]
    weights = StoredWeights(graph, f"{prefix}w")
    head = Tape(f"{prefix}head")
    off = head.add("Equal", choices, head.constant(np.int64(0)))
    lengths = head.constant(np.ones(len(sites), np.int64))
    head.nodes.append(_node("Split", [off, lengths], floats, f"{prefix}switches"))
    places = {site.node: i for i, site in enumerate(sites)}
    nodes = list(head.nodes)
    for node in graph.node:
        if node.name not in places:
            nodes.append(node)
            continue
        number = places[node.name]
        site = sites[number]
        forms = [
            (k + 1, _form(node, site, precision, f"{prefix}{number}.{k}.", weights, ranges or {}))
            for k, precision in enumerate(precisions)
            if site.takes(precision)
        ]
        if not forms:
            nodes.append(node)
            continue
        lower = _chosen(forms, choices, number, f"{prefix}{number}.")
        nodes.append(_switch(node, floats[number], _float_form(node, f"{prefix}{number}."), lower))
    _rebuild(graph, nodes, [*head.tensors, *weights.tensors])
    graph.input.append(_value(choices, _INT64, [len(sites)]))
    onnx_io.write(proto, target)
    return Switchboard(path=target, sites=sites, precisions=tuple(precisions), choices=choices)


def build_shadows(
    model: Path, target: Path, precisions: Sequence[Precision], *, ranges: Ranges | None = None
) -> Shadows:
    """Write the float model with every site computed at every precision beside it.

    Takes and raises what `build_switchboard` does.
    """
    proto, sites = _opened(model, precisions)
    graph = proto.graph
    prefix = _free_prefix(graph)
    weights = StoredWeights(graph, f"{prefix}w")
    tape = Tape(f"{prefix}s")
    places = {site.node: site for site in sites}
    pairs: list[tuple[Site, Precision]] = []
    sums: tuple[list[str], list[str]] = ([], [])
    for node in graph.node:
        tape.nodes.append(node)
        site = places.get(node.name)
        taken = [p for p in precisions if site is not None and site.takes(p)]
        if site is None or not taken:
            continue
        signal = tape.add("ReduceSumSquare", node.output[0], keepdims=0)
        for precision in taken:
            shadow = simulate(node, site, precision, tape, weights, ranges or {})
            error = tape.add("Sub", shadow, node.output[0])
            sums[0].append(tape.add("ReduceSumSquare", error, keepdims=0))
            sums[1].append(signal)
            pairs.append((site, precision))
    names = []
    one = tape.constant(np.array([1], np.int64))
    for scalars in sums:
        lists = [tape.add("Reshape", scalar, one) for scalar in scalars]
        names.append(tape.add("Concat", *lists, axis=0))
        graph.output.append(_value(names[-1], _FLOAT, [len(pairs)]))
    _rebuild(graph, tape.nodes, [*tape.tensors, *weights.tensors])
    onnx_io.write(proto, target)
    return Shadows(path=target, pairs=tuple(pairs), errors=names[0], signals=names[1])


def _opened(
    model: Path, precisions: Sequence[Precision]
) -> tuple[onnx.ModelProto, tuple[Site, ...]]:
    proto = onnx_io.read_whole(model)
    opset = onnx_io.opset_of(proto)
    if opset < _LOWEST_OPSET:
        raise ModelError(
            f"{model.name} has opset {opset}; {_LOWEST_OPSET} is needed: prepare the model first"
        )
    constants_to_initializers(proto.graph)
    sites = tuple(site for site in find_sites(proto) if any(site.takes(one) for one in precisions))
    if not sites:
        names = ", ".join(map(str, precisions)) or "no precision"
        raise ModelError(f"{model.name} has no float32 node that {names} can be simulated at")
    return proto, sites


def _free_prefix(graph: onnx.GraphProto) -> str:
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    prefix = "switch."
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix


def _form(
    node: onnx.NodeProto,
    site: Site,
    precision: Precision,
    prefix: str,
    weights: StoredWeights,
    ranges: Ranges,
) -> onnx.GraphProto:
    """The node at a precision, as a branch."""
    tape = Tape(prefix)
    output = simulate(node, site, precision, tape, weights, ranges)
    return _branch(tape.nodes, output, tape.tensors)


def _float_form(node: onnx.NodeProto, prefix: str) -> onnx.GraphProto:
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    copy.output[0] = f"{prefix}float"
    return _branch([copy], copy.output[0], [])


def _chosen(
    forms: list[tuple[int, onnx.GraphProto]], choices: str, site: int, prefix: str
) -> onnx.GraphProto:
    """A branch that runs the form whose number the site's choice is."""
    (number, form), *others = forms
    if not others:
        return form
    tape = Tape(f"{prefix}pick{number}.")
    choice = tape.add("Gather", choices, tape.constant(np.int64(site)), axis=0)
    here = tape.add("Equal", choice, tape.constant(np.int64(number)))
    output = tape.name()
    inner = _chosen(others, choices, site, prefix)
    tape.nodes.append(_node("If", [here], [output], output, then_branch=form, else_branch=inner))
    return _branch(tape.nodes, output, tape.tensors)


def _switch(
    node: onnx.NodeProto, is_float: str, upper: onnx.GraphProto, lower: onnx.GraphProto
) -> onnx.NodeProto:
    outputs = list(node.output)
    return _node("If", [is_float], outputs, node.name, then_branch=upper, else_branch=lower)


def _node(
    op: str, inputs: list[str], outputs: list[str], label: str, /, **attributes: Any
) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op, inputs, outputs, name=label, **attributes)


def _branch(
    nodes: list[onnx.NodeProto], output: str, tensors: list[onnx.TensorProto]
) -> onnx.GraphProto:
    from onnx import helper

    return helper.make_graph(nodes, output, [], [_value(output, _FLOAT, None)], tensors)


def _value(name: str, kind: int, shape: list[int] | None) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def _rebuild(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]
) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
