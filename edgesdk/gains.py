"""What quantizing each node of a form saves on this device, from the engine's own times of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.bench import Bench, Built, Prepared, Trial
from edgesdk.errors import EdgeSdkError
from edgesdk.making import compress_choice, convert_choice
from edgesdk.model import read_model
from edgesdk.placing import look_inside
from edgesdk.plan.candidate import Choice
from edgesdk.plan.gain import HEAVY, TracedTimes, gains_ms, trace_times, with_neighbours

_PROFILED_RUNS = 32


def node_gains(
    bench: Bench, built: Built, trials: Sequence[Trial], prepared: Prepared
) -> tuple[dict[str, float], str]:
    """What quantizing each node saves, and its unit: `ms` a run or `MB`, or `nodes`: one for each.

    Args:
        bench: what the trials share.
        built: the quantized form; where the budget asks for time, the engine's own times of its
            nodes are compared with those of the form where all are spared.
        trials: among which that form is looked for before it is made.
        prepared: the graph that the form was made from.
    """
    nodes = read_model(prepared.path).nodes
    recipe = built.choice.recipe
    if bench.budget.objective in ("size", "memory"):
        saved = (recipe.spared.weight_bits - recipe.weight_bits) / 32
        return {node.name: node.weight_bytes * saved / 1e6 for node in nodes}, "MB"
    heavy = {node.name: node.outputs for node in nodes if node.op in HEAVY}
    after = _times(bench, built, heavy)
    before = _times(bench, _spared_form(bench, built.choice, trials, prepared), heavy)
    names = [node.name for node in nodes]
    if before is None or after is None:
        return dict.fromkeys(names, 1.0), "nodes"
    return with_neighbours(gains_ms(before, after, names), nodes), "ms"


def _spared_form(
    bench: Bench, choice: Choice, trials: Sequence[Trial], prepared: Prepared
) -> Built | None:
    """What all nodes are in that are spared, on the same engine; None where it cannot be built."""
    wanted = replace(choice, recipe=choice.recipe.spared, kept=())
    known = next((t.built for t in trials if t.built and t.built.choice == wanted), None)
    if known is not None:
        return known
    try:
        compressed = compress_choice(bench, wanted, prepared)
        converted = convert_choice(bench, wanted, compressed.path, compressed.key)
    except EdgeSdkError:
        return None
    return Built(choice=wanted, converted=converted)


def _times(
    bench: Bench, built: Built | None, tensors: Mapping[str, Sequence[str]]
) -> TracedTimes | None:
    """Time of each node in an artifact; None where the engine cannot tell."""
    seen = look_inside(bench, built, runs=_PROFILED_RUNS) if built else None
    if seen is None or not seen.response["node_times"]:
        return None
    placement = [NodePlacement(**item) for item in seen.response["placement"]]
    times = [NodeTime(**item) for item in seen.response["node_times"]]
    return trace_times(tensors, placement, times)
