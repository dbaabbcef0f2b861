"""Where an artifact runs, read back from the runtime on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.bench import Bench, Built
from edgesdk.errors import ModelError, StepFailed
from edgesdk.events import Event
from edgesdk.measuring import TIMED_ROWS
from edgesdk.model import model_work, read_model
from edgesdk.onnxfile.work import Work
from edgesdk.placement import UnitShares, needs_work, unit_shares
from edgesdk.workshop import Finished

PROFILED_RUNS, _COUNTED_RUNS = 16, 1


def look_inside(bench: Bench, built: Built, *, runs: int = PROFILED_RUNS) -> Finished | None:
    """Placement and per-operation times of an artifact; None when the engine cannot tell."""
    try:
        return see_inside(bench, built, runs=runs)
    except StepFailed as exc:
        message = f"no per-operation view: {exc}"
        subject = built.choice.name
        bench.listen(Event(stage="profile", subject=subject, state="failed", message=message))
        return None


def see_inside(bench: Bench, built: Built, *, runs: int = PROFILED_RUNS) -> Finished:
    """Placement and per-operation times of an artifact; without times where the clock means nothing.

    Of a unit that is not here, it is what its compiler states.

    Raises:
        StepFailed: the engine crashed, hung or refused, or there was no time left.
    """
    if bench.device.simulates and built.program and built.program["placement"]:
        stated = {"placement": built.program["placement"], "node_times": []}
        return replace(built.converted, response=stated)
    counts = bench.device.tells != "times"
    runs = _COUNTED_RUNS if counts else runs
    rows = bench.samples.evaluation.subset(TIMED_ROWS)
    done = bench.workshop.step(
        "look_inside",
        {
            **bench.opening(built.choice, built.converted),
            "rows": rows,
            "runs": runs,
        },
        {
            **bench.identity(built.choice, built.converted),
            "rows": bench.samples.fingerprint,
            "runs": runs,
            "machine": bench.machine_key,
        },
        device=bench.device,
    )
    return replace(done, response={**done.response, "node_times": []}) if counts else done


def shares_inside(bench: Bench, built: Built, seen: Finished) -> UnitShares | None:
    """Which unit does how much of a run; None where the runtime does not tell.

    Args:
        bench: knows the unit that the profile wants for each backend.
        built: what was looked into.
        seen: what was found there.
    """
    placement = [
        NodePlacement(**{**item, "origin": tuple(item["origin"])})
        for item in seen.response["placement"]
    ]
    times = [NodeTime(**item) for item in seen.response["node_times"]]
    return shares_of(bench, built, placement, times)


def shares_of(
    bench: Bench, built: Built, placement: Sequence[NodePlacement], times: Sequence[NodeTime] = ()
) -> UnitShares | None:
    """As `shares_inside`, of what a session or a compiler told."""
    work = _work(bench, built) if needs_work(placement, times) else ()
    return unit_shares(
        placement,
        times,
        work,
        wanted=bench.wanted_unit(built.choice.backend),
        evidence=bench.evidence,
    )


def _work(bench: Bench, built: Built) -> tuple[Work, ...]:
    """The nodes of the graph that the artifact was made from; empty where that cannot be told."""
    if built.graph is None:
        return ()
    row = bench.samples.evaluation[0].inputs
    try:
        model = read_model(built.graph)
        shapes = {info.name: row[info.name].shape for info in model.inputs if info.name in row}
        return model_work(model, shapes).nodes
    except ModelError:
        return ()
