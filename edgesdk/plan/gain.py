"""What each node of a model gains by a compressed form, from the engines' own times of nodes; pure.

Engines fuse, split and rename. What they execute is traced to the nodes of the ONNX graph by the
origin that they state, else by the name of the node or of a tensor that it makes. What cannot be
traced (layout changes, quantizers at precision borders) is overhead, reported and not shared out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgesdk.backend import NodePlacement, NodeTime

_SUFFIX = re.compile(r"(_nchwc|_quant|_token_\d+|_Fuse\w*|_MatMul|_fused)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedTimes:
    """Time spent in each node of interest.

    Attributes:
        ms: milliseconds a run by node name; a node that is not executed by itself is missing.
        overhead_ms: time of layout changes, quantizers and dequantizers that belong to no node.
        other_ms: time of everything else.
    """

    ms: Mapping[str, float]
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
    overhead = other = 0.0
    for item in times:
        owner = _owner(item.node, origins.get(item.node, ()), nodes, by_tensor)
        if owner is not None:
            ms[owner] = ms.get(owner, 0.0) + item.ms
        elif item.op in _BORDERS:
            overhead += item.ms
        else:
            other += item.ms
    return TracedTimes(ms=ms, overhead_ms=overhead, other_ms=other)


def _owner(
    executed: str,
    origin: Sequence[str],
    nodes: Mapping[str, Sequence[str]],
    by_tensor: Mapping[str, str],
) -> str | None:
    """The node of interest behind an executed one; the last of several, which absorbed the rest."""
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
    go with them. A node that one of the two engines' graphs does not show was fused into another,
    which taking it out would undo: it is taken to save what others do, by the median.

    Args:
        before: of the float form on the same engine and execution type.
        after: of the quantized form.
        quantized: the nodes in question.
    """
    added = after.overhead_ms - before.overhead_ms
    seen = [node for node in quantized if node in before.ms and node in after.ms]
    total = sum(before.ms[node] for node in seen)
    saved = {}
    for node in seen:
        share = before.ms[node] / total if total > 0 else 1 / len(seen)
        saved[node] = before.ms[node] - after.ms[node] - added * share
    fused = max(median(saved.values()), 0.0) if saved else 0.0
    return {node: saved.get(node, fused) for node in quantized}
