"""A quantized form trained through its own quantizers, as a step that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgesdk.bench import Bench, Prepared, tool_versions
from edgesdk.clock import Work
from edgesdk.events import Event
from edgesdk.making import compress_choice, told_by, way_of
from edgesdk.plan.candidate import Choice
from edgesdk.workshop import Finished


def quantized(
    bench: Bench, choice: Choice, start: Prepared, original: Prepared, way: Sequence[Work] = ()
) -> Finished:
    """The graph that a recipe makes, and with `-qat` what training makes of that.

    Args:
        bench: what the trials share.
        choice: of which the recipe and the nodes kept matter here.
        start: what `making.begun` gave: the graph whose weights are rounded, and trained on from.
        original: the float graph whose answers are learnt.
        way: what follows.

    Raises:
        StepFailed: the model does not take the recipe.
        BackendUnavailable: `edgesdk[train]` is not installed.
        ModelError: the graph has an operator that cannot be trained through.
    """
    whole = compress_choice(bench, choice, start, way)
    if not choice.recipe.qat:
        return whole
    way = way or way_of(choice)
    rows = bench.samples.calibration
    identity = {
        "model": whole.key,
        "masters": start.key,
        "original": original.key,
        "rows": bench.samples.fingerprint,
        "training_s": bench.training_s,
        "tools": tool_versions("torch"),
    }
    bench.listen(Event(stage="train", subject=choice.name, state="begin"))
    done = bench.workshop.step(
        "train",
        {
            "model": str(whole.path),
            "masters": str(start.path),
            "bits": choice.recipe.weight_bits,
            "original": str(original.path),
            "calibration": rows.to_json(),
            "training_s": bench.training_s,
            "checkpoint": str(bench.workshop.cache.unfinished("train", **identity)),
        },
        identity,
        then=way[1:],
        more_s=bench.training_s or 0.0,
        hear=told_by(bench, "train", choice.name),
    )
    told = done.response["notes"]
    bench.listen(
        Event(
            stage="train",
            subject=choice.name,
            state="done",
            message="; ".join(told),
            cached=done.cached,
        )
    )
    notes = [*whole.response["notes"], *told]
    return replace(done, response={**done.response, "notes": notes})
