"""What each node of a model gains by a compressed form, from the engines' own times of nodes; pure.

Engines fuse, split and rename. What they execute is traced to the nodes of the ONNX graph by the
origin that they state, else by the name of the node or of a tensor that it makes. What cannot be
traced (layout changes, quantizers at precision borders) is overhead, reported and not shared out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.onnxfile.nodes import NodeFacts

HEAVY = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
"""Operators whose products take the time; engines fuse what is around them into them."""
_LEAST_SHARE = 0.001
_COSTLY_SHARE = 0.01
_SUFFIX = re.compile(r"(_nchwc|_quant|_token_\d+|_Fuse\w*|_MatMul|_fused)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedTimes:
    """Time spent in each node of interest.

    Attributes:
        ms: milliseconds a run by node name; a node that is not executed by itself is missing.
        kinds: what the engine calls the operator that it executes, by node name.
        overhead_ms: time of layout changes, quantizers and dequantizers that belong to no node.
        other_ms: time of everything else.
    """

    ms: Mapping[str, float]
    kinds: Mapping[str, str]
    overhead_ms: float
    other_ms: float


_BORDERS = frozenset(
    (
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "FakeQuantize",
        "Reorder",
        "ReorderInput",
        "ReorderOutput",
        "Convert",
        "Cast",
    )
)


def trace_times(
    nodes: Mapping[str, Sequence[str]],
    placement: Sequence[NodePlacement],
    times: Sequence[NodeTime],
) -> TracedTimes:
    """Share the times of executed nodes out to nodes of the ONNX graph.

    Args:
        nodes: the nodes of interest, each with the names of the tensors that it makes.
        placement: what the engine executes, with what it says of the origin.
        times: the same nodes' times, milliseconds a run.
    """
    by_tensor = {tensor: node for node, made in nodes.items() for tensor in made}
    origins = {item.node: item.origin for item in placement}
    ms: dict[str, float] = {}
    kinds: dict[str, str] = {}
    overhead = other = 0.0
    for item in times:
        owner = _owner(item.node, origins.get(item.node, ()), nodes, by_tensor)
        if owner is not None:
            ms[owner] = ms.get(owner, 0.0) + item.ms
            kinds.setdefault(owner, item.op)
        elif item.op in _BORDERS:
            overhead += item.ms
        else:
            other += item.ms
    return TracedTimes(ms=ms, kinds=kinds, overhead_ms=overhead, other_ms=other)


def _owner(
    executed: str,
    origin: Sequence[str],
    nodes: Mapping[str, Sequence[str]],
    by_tensor: Mapping[str, str],
) -> str | None:
    """The node of interest behind an executed one; the last of several."""
    found = [name for name in origin if name in nodes]
    if found:
        return found[-1]
    name = executed
    while True:
        if name in nodes:
            return name
        if name in by_tensor:
            return by_tensor[name]
        shorter = _SUFFIX.sub("", name)
        if shorter == name:
            return None
        name = shorter


def gains_ms(before: TracedTimes, after: TracedTimes, quantized: Sequence[str]) -> dict[str, float]:
    """Milliseconds that each node saves by being quantized; negative where it got slower.

    The overhead that quantizing added is shared among the nodes by their time before, as it would
    go with them. Single nodes are noisy, and each that is taken out alone has borders of its own: one
    is slower only where its kind is slower in all, or where it alone costs a hundredth of the run;
    else it is taken to save a thousandth at least, as is a node that the engine fused into another.

    Args:
        before: of the float form on the same engine and execution type.
        after: of the quantized form.
        quantized: the nodes in question.
    """
    added = after.overhead_ms + after.other_ms - before.overhead_ms - before.other_ms
    seen = [node for node in quantized if node in before.ms and node in after.ms]
    total = sum(before.ms.values())
    least = total * _LEAST_SHARE
    saved: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for node in seen:
        share = before.ms[node] / total if total > 0 else 1 / len(seen)
        saved[node] = before.ms[node] - after.ms[node] - added * share
        kind = before.kinds[node]
        kinds[kind] = kinds.get(kind, 0.0) + saved[node]
    for node in seen:
        costly = saved[node] < -total * _COSTLY_SHARE
        if kinds[before.kinds[node]] >= 0 and not costly:
            saved[node] = max(saved[node], least)
    return {node: saved.get(node, least) for node in quantized}


def without_losses(gain: Mapping[str, float]) -> dict[str, float]:
    """As if quantizing made no node slower: each saves what the one that saves least does.

    For when a form without the slow ones turned out no faster.
    """
    least = min((saved for saved in gain.values() if saved > 0), default=1.0)
    return {name: max(saved, least) for name, saved in gain.items()}


def with_neighbours(gain: Mapping[str, float], nodes: Sequence[NodeFacts]) -> dict[str, float]:
    """Nothing is gained at light nodes either where all products around them are slower quantized.

    Args:
        gain: by node name; of light nodes (without a product of their own) a guess.
        nodes: the graph's nodes.
    """
    made = {name for node in nodes for name in node.outputs if name}
    roots: dict[str, str] = {name: name for name in made}

    def root(name: str) -> str:
        while roots[name] != name:
            roots[name] = roots[roots[name]]
            name = roots[name]
        return name

    def touched(node: NodeFacts) -> list[str]:
        return [name for name in (*node.inputs, *node.outputs) if name in made]

    light = [node for node in nodes if node.op not in HEAVY and touched(node)]
    for node in light:
        first, *others = touched(node)
        for other in others:
            roots[root(other)] = root(first)
    slower: dict[str, bool] = {}
    for node in nodes:
        if node.op in HEAVY and node.name in gain:
            for name in touched(node):
                slower[root(name)] = slower.get(root(name), True) and gain[node.name] < 0
    free = {node.name for node in light if slower.get(root(touched(node)[0]), False)}
    return {name: 0.0 if name in free else saved for name, saved in gain.items()}
