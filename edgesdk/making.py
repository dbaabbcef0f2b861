"""From a model and a choice to an artifact: prepare, restructure, smooth, compress, convert, compile.

Each is a step that is kept; what it depends on is in its identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesdk.backend import require_backend
from edgesdk.bench import Bench, Prepared, artifact_files, tool_versions
from edgesdk.clock import Work
from edgesdk.compress.calibration import RANGE_ROWS
from edgesdk.errors import StepFailed
from edgesdk.events import Event
from edgesdk.layer_times import Pace
from edgesdk.plan.candidate import Choice, Plan
from edgesdk.recipe import Recipe
from edgesdk.workshop import Finished


def prepare_model(bench: Bench, plan: Plan, *, fold: bool = True) -> Prepared:
    """The graph that recipes start from; the original itself where preparing it fails.

    Args:
        bench: what the trials share.
        plan: says which shapes to fix.
        fold: fold constants and fuse operators.
    """
    bench.listen(Event(stage="prepare", state="begin"))
    notes: tuple[str, ...] = ()
    for how in ("cleaned" if fold else "unfolded", "only_shapes"):
        try:
            done = prepared_by(bench, plan, how)
            break
        except StepFailed as exc:
            notes += (f"the graph could not be {how.replace('_', ' ')}: {exc}",)
            bench.listen(Event(stage="prepare", state="failed", message=notes[-1]))
    else:
        return Prepared(path=bench.model.path, key=bench.model.sha256, notes=notes)
    notes += tuple(done.response["notes"])
    message = f"{len(notes)} remarks" if notes else how
    bench.listen(Event(stage="prepare", state="done", message=message, cached=done.cached))
    return Prepared(path=done.path, key=done.key, notes=notes)


def prepared_by(bench: Bench, plan: Plan, how: str) -> Finished:
    """The step that prepares the model: `cleaned`, `unfolded` or `only_shapes`."""
    shapes = None if plan.shapes is None else [[n, list(dims)] for n, dims in plan.shapes]
    rows = bench.samples.evaluation.subset(1)
    return bench.workshop.step(
        "prepare",
        {
            "model": str(bench.model.path),
            "shapes": shapes,
            "rows": rows.to_json(),
            "how": how,
        },
        {"model": bench.model.sha256, "shapes": shapes, "tools": tool_versions(), "how": how},
    )


def begun(bench: Bench, choice: Choice, prepared: Prepared, way: Sequence[Work] = ()) -> Prepared:
    """The graph that the recipe of a choice starts from: its structural steps done, its scales moved.

    Args:
        bench: what the trials share.
        choice: of which steps and recipe matter.
        prepared: where all choices start; returned without its notes when there is nothing to do.
        way: what follows.

    Raises:
        StepFailed: a step does nothing in this model, or cannot be done.
    """
    shaped = restructured(bench, choice, prepared, way)
    start = smoothed(bench, choice.recipe, shaped, way)
    return replace(start, notes=(*shaped.notes, *start.notes))


def restructured(
    bench: Bench, choice: Choice, prepared: Prepared, way: Sequence[Work] = ()
) -> Prepared:
    """The graph after the structural steps of a choice, each done on what the ones before it left."""
    from edgesdk.structure.choose import liked_multiple

    rows = bench.samples.calibration
    multiple, _ = liked_multiple(bench.profile)
    done = replace(prepared, notes=())
    for step in choice.structure:
        pace = _pace(bench, choice) if step.kind == "rank" else None
        identity = {
            "model": done.key,
            "original": prepared.key,
            "does": step.name,
            "rows": bench.samples.fingerprint if step.needs_samples else None,
            "multiple": multiple,
            "training_s": bench.training_s if step.kind == "distill" else None,
            "pace": pace,
            "tools": tool_versions("torch") if step.trains else tool_versions(),
        }
        bench.listen(Event(stage=step.kind, subject=step.name, state="begin"))
        found = bench.workshop.step(
            "restructure",
            {
                "model": str(done.path),
                "original": str(prepared.path),
                "step": step.name,
                "calibration": rows.to_json() if step.needs_samples else None,
                "multiple": multiple,
                "training_s": identity["training_s"],
                "pace": pace,
                "checkpoint": str(bench.workshop.cache.unfinished("restructure", **identity)),
            },
            identity,
            like=step.kind,
            then=way,
            more_s=(bench.training_s or 0.0) if step.kind == "distill" else 0.0,
            hear=told_by(bench, step.kind, step.name),
        )
        notes = (*done.notes, *found.response["notes"])
        done = Prepared(path=found.path, key=found.key, notes=notes)
        told = "; ".join(found.response["notes"])
        bench.listen(
            Event(
                stage=step.kind, subject=step.name, state="done", message=told, cached=found.cached
            )
        )
    return done


def _pace(bench: Bench, choice: Choice) -> dict[str, Any] | None:
    """By what layers are timed, where speed is asked for and the profile knows that of the engine."""
    pace = Pace(
        profile=bench.profile,
        backend=choice.backend,
        recipe=choice.recipe.untrained,
        threads=bench.threads,
    )
    return pace.to_json() if bench.budget.objective == "latency" and pace.known else None


def told_by(bench: Bench, stage: str, subject: str) -> Callable[[str], None]:
    """What passes on the progress of a step as events."""
    return lambda line: bench.listen(
        Event(stage=stage, subject=subject, state="progress", message=line)
    )


def smoothed(
    bench: Bench, recipe: Recipe, prepared: Prepared, way: Sequence[Work] = ()
) -> Prepared:
    """The graph that a recipe starts from: with its scales migrated if it has `-smooth`.

    Args:
        bench: what the trials share.
        recipe: of which quantizing and ranges matter; what differs otherwise shares the result.
        prepared: where all recipes start; returned without its notes when there is nothing to do.
        way: what follows.

    Raises:
        StepFailed: no scale is worth it in this model, or it cannot be run.
    """
    if not recipe.smooth:
        return replace(prepared, notes=())
    rows = bench.samples.calibration
    done = bench.workshop.step(
        "smooth",
        {
            "model": str(prepared.path),
            "recipe": recipe.stored.untrained.name,
            "calibration": rows.to_json(),
        },
        {
            "model": prepared.key,
            "mode": recipe.mode,
            "weighted": recipe.weighted_only,
            "rows": bench.samples.fingerprint,
            "tools": tool_versions(),
        },
        then=way,
    )
    return Prepared(path=done.path, key=done.key, notes=tuple(done.response["notes"]))


def way_of(choice: Choice) -> tuple[Work, ...]:
    """The stages of a trial, each with what makes it take as long as another's."""
    recipe, backend = choice.recipe, choice.backend
    compressing = f"{recipe.mode}-{recipe.quantizer}"
    return (
        ("compress", compressing),
        *((stage, backend) for stage in ("convert", "check", "measure")),
    )


def compress_choice(
    bench: Bench, choice: Choice, start: Prepared, way: Sequence[Work] = ()
) -> Finished:
    """The step that applies a recipe; a static one that keeps nodes starts from the whole form.

    Args:
        bench: what the trials share.
        choice: with `-smooth`, of which the rest is done here; without `-qat`, which follows
            (`edgesdk.aware`).
        start: what `smoothed` gave.
        way: what follows.
    """
    recipe = replace(choice.recipe.stored, smooth=False, qat=False)
    way = way or way_of(choice)
    rows = bench.samples.calibration if recipe.needs_calibration else None
    ranges = _ranges(bench, start) if recipe.needs_ranges else None
    whole = None
    if choice.kept and recipe.mode == "static":
        whole = compress_choice(bench, replace(choice, kept=()), start, way)
    return bench.workshop.step(
        "compress",
        {
            "model": str(start.path),
            "recipe": recipe.name,
            "kept": list(choice.kept),
            "calibration": rows.to_json() if rows is not None else None,
            "ranges": str(ranges.path) if ranges is not None else None,
            "whole": str(whole.path) if whole is not None else None,
            "memory_bytes": bench.workshop.limits.memory_bytes,
        },
        {
            "model": start.key,
            "recipe": recipe.name,
            "kept": list(choice.kept),
            "rows": bench.samples.fingerprint if rows is not None else None,
            **({"ranges": ranges.key} if ranges is not None else {}),
            **({"whole": whole.key} if whole is not None else {}),
            "tools": tool_versions(),
        },
        like=way[0][1],
        then=way[1:],
    )


def _ranges(bench: Bench, prepared: Prepared) -> Finished:
    """What the activations of the prepared graph hold; several recipes start from it."""
    identity = {
        "model": prepared.key,
        "rows": bench.samples.fingerprint,
        "most": RANGE_ROWS,
        "tools": tool_versions(),
    }
    return bench.workshop.step(
        "ranges",
        {
            "model": str(prepared.path),
            "calibration": bench.samples.calibration.to_json(),
            "most": RANGE_ROWS,
            "checkpoint": str(bench.workshop.cache.unfinished("ranges", **identity)),
        },
        identity,
    )


def convert_choice(
    bench: Bench, choice: Choice, model: Path, key: str, way: Sequence[Work] = ()
) -> Finished:
    """The step that turns a compressed graph, of this identity, into the backend's artifact."""
    backend = require_backend(choice.backend)
    version = backend.version()
    recipe = (choice.recipe if backend.typed_artifacts else choice.recipe.stored).name
    return bench.workshop.step(
        "convert",
        {"model": str(model), "recipe": recipe, "backend": choice.backend},
        {"model": key, "recipe": recipe, "backend": choice.backend, "version": version},
        like=choice.backend,
        then=way[1:],
    )


def quantize_choice(
    bench: Bench, choice: Choice, converted: Finished, way: Sequence[Work] = ()
) -> Finished:
    """The step for a backend that applies a recipe itself, to its form of the float model.

    Raises:
        StepFailed: some nodes are to be kept, which only a recipe that is applied to ONNX can do.
    """
    if choice.kept:
        raise StepFailed(f"{choice.backend} applies {choice.recipe} itself, to whole models only")
    recipe = replace(choice.recipe.stored, smooth=False)
    rows = bench.samples.calibration if recipe.needs_calibration else None
    about = {"recipe": recipe.name, "backend": choice.backend}
    return bench.workshop.step(
        "quantize",
        {
            **about,
            "artifact": str(converted.path),
            "calibration": rows.to_json() if rows is not None else None,
        },
        {
            **about,
            "artifact": converted.key,
            "rows": bench.samples.fingerprint if rows is not None else None,
            "version": require_backend(choice.backend).version(),
        },
        like=choice.backend,
        then=way[1:],
    )


def compile_choice(
    bench: Bench, choice: Choice, converted: Finished, way: Sequence[Work] = ()
) -> Finished | None:
    """The step that compiles an artifact for the profile's unit; None where its engine compiles nothing.

    Raises:
        StepFailed: the compiler refuses the model.
        ProfileError: the profile's `target` is not what the compiler needs.
    """
    backend = require_backend(choice.backend)
    target = dict(bench.profile.runtime(choice.backend).target)
    if not backend.compiles(target):
        return None
    simulate = bench.simulates(choice.backend)
    about = {"backend": choice.backend, "target": target, "simulate": simulate}
    return bench.workshop.step(
        "compile",
        {**about, "artifact": converted.path, "files": artifact_files(converted.path)},
        {**about, "artifact": converted.key, "version": backend.version()},
        device=bench.device if backend.compiles_on_device else None,
        like=choice.backend,
        then=way[1:],
    )
