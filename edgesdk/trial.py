"""Trying one candidate: compress, convert, check, measure. What fails becomes its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgesdk.backend import require_backend
from edgesdk.bench import (
    Bench,
    Built,
    Original,
    Prepared,
    Trial,
    artifact_files,
    tool_versions,
)
from edgesdk.checking import check, check_rest, is_partial
from edgesdk.clock import OUT_OF_TIME, Work
from edgesdk.compress.calibration import RANGE_ROWS
from edgesdk.decide import Outcome, fallback_problem
from edgesdk.errors import BudgetError, EdgeSdkError, ModelError, SamplesError, StepFailed
from edgesdk.events import Event
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measuring import measure_pair
from edgesdk.placing import see_inside, shares_inside
from edgesdk.plan.candidate import ORIGINAL, Candidate, Choice, Plan
from edgesdk.quality import Quality, Verdict
from edgesdk.recipe import Recipe
from edgesdk.workshop import Finished


def open_original(bench: Bench, plan: Plan) -> Original:
    """Convert and run the original: everything is compared with it.

    Raises:
        ModelError: the baseline's engine cannot convert or run it on the samples.
    """
    choice = plan.baseline.single
    bench.listen(Event(stage="check", subject=ORIGINAL, state="begin"))
    try:
        converted, notes = _convert_original(bench, plan)
        program, unfit = _compiled_original(bench, choice, converted)
        converted = program or converted
        rows = bench.samples.evaluation
        reference = bench.workshop.step(
            "reference",
            {**bench.opening(choice, converted), "rows": rows},
            {**bench.identity(choice, converted), "rows": bench.samples.fingerprint},
            device=bench.device,
        )
    except StepFailed as exc:
        if exc.kind in ("timeout", "killed", "memory", OUT_OF_TIME):
            raise
        raise ModelError(f"{choice.backend} cannot run the original model: {exc}") from exc
    bench.listen(
        Event(
            stage="check",
            subject=ORIGINAL,
            state="done",
            message="; ".join(
                (f"reference outputs of {len(rows)} rows on {choice.backend}", *notes)
            ),
            cached=reference.cached,
        )
    )
    outputs = reference.folder / "outputs"
    stated = program.response if program else None
    built = Built(
        choice=choice,
        converted=converted,
        graph=bench.model.path,
        outputs=outputs,
        program=stated,
        notes=notes,
    )
    return Original(built=built, reference=reference, unfit=unfit)


def _compiled_original(
    bench: Bench, choice: Choice, converted: Finished
) -> tuple[Finished | None, str | None]:
    """The original as it would ship where its engine compiles; with it why it cannot ship, if so."""
    if choice.backend not in [runtime.name for runtime in bench.profile.runtimes]:
        return None, f"only compared with: {bench.profile.name} does not run {choice.name}"
    try:
        program = compile_choice(bench, choice, converted)
    except StepFailed as exc:
        if exc.kind != "error" or not bench.simulates(choice.backend):
            raise
        return None, f"only compared with: it does not compile: {exc}"
    placed = [item["unit"] for item in program.response["placement"]] if program else []
    unit = bench.wanted_unit(choice.backend)
    if placed and unit not in placed:
        return program, f"only compared with: nothing of it runs on the {unit}"
    return program, None


def _convert_original(bench: Bench, plan: Plan) -> tuple[Finished, tuple[str, ...]]:
    """The user's file as it is; with the deployed shapes where the engine takes no open ones."""
    choice = plan.baseline.single
    try:
        return convert_choice(bench, choice, bench.model.path, bench.model.sha256), ()
    except StepFailed as exc:
        is_open = not all(info.is_static for info in bench.model.inputs)
        if exc.kind != "error" or plan.shapes is None or not is_open:
            raise
        fixed = _prepared(bench, plan, "only_shapes")
        converted = convert_choice(bench, choice, fixed.path, fixed.key)
        return converted, (f"its shapes are fixed, as {choice.backend} needs: {exc}",)


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
            done = _prepared(bench, plan, how)
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


def _prepared(bench: Bench, plan: Plan, how: str) -> Finished:
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


def try_candidate(
    bench: Bench,
    candidate: Candidate,
    original: Original,
    prepared: Prepared,
    *,
    hopeless: float,
) -> tuple[Trial, Measurement | None]:
    """Take one candidate as far as it gets; with it the original's measurement of the same minutes.

    What runs too much elsewhere than on the wanted unit is not measured.

    Args:
        bench: what the trials share.
        candidate: what to try.
        original: what it is compared with.
        prepared: the graph to start from.
        hopeless: a speedup surely below this is not measured any closer.
    """
    name = candidate.name
    trial, ran = check_candidate(bench, candidate, original, prepared)
    quality = trial.outcome.quality
    if trial.built is None or quality is None or quality.verdict == Verdict.FAIL:
        return trial, None
    trial = place(bench, trial, ran=ran)
    built = trial.built
    if built is None or trial.outcome.error or trial.outcome.out_of_time:
        return trial, None
    problem = fallback_problem(trial.outcome, bench.budget)
    if problem:
        bench.listen(_ended(name, problem, failed=True))
        return trial, None
    bench.listen(Event(stage="measure", subject=name, state="begin"))
    try:
        before, after, cached = measure_pair(bench, original.built, built, hopeless=hopeless)
    except EdgeSdkError as exc:
        return _stopped(bench, trial, "measure", exc, ran=ran), None
    message = f"{_told(bench, quality)}, {_pace(after)}, {_size(after)}"
    bench.listen(_ended(name, message, cached=cached))
    return replace(trial, outcome=replace(trial.outcome, measurement=after)), before


def check_candidate(
    bench: Bench, candidate: Candidate, original: Original, prepared: Prepared
) -> tuple[Trial, bool]:
    """Compress, convert and check one candidate; with it whether anything had to be run for that.

    Takes what `try_candidate` does. The trial has a quality where the check came to a verdict, and
    says what stopped it where not.
    """
    name, choice = candidate.name, candidate.single
    way = _way(choice)
    trial = Trial(outcome=Outcome(name=name, candidate=candidate))
    stage, ran = "compress", False
    try:
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        start = smoothed(bench, choice.recipe, prepared, way)
        own = require_backend(choice.backend).quantizes(choice.recipe)
        written = replace(choice, recipe=Recipe()) if own else choice
        compressed = compress_choice(bench, written, start, way)
        stage, ran = "convert", not compressed.cached
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        converted = convert_choice(bench, written, compressed.path, compressed.key, way[1:])
        if own:
            ran = ran or not converted.cached
            converted = quantize_choice(bench, choice, converted, way[1:])
        ran = ran or not converted.cached
        program = compile_choice(bench, choice, converted, way[1:])
        stage, ran = "check", ran or (program is not None and not program.cached)
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        notes = (*start.notes, *compressed.response["notes"])
        built = Built(choice=choice, converted=converted, graph=compressed.path, notes=notes)
        if program is not None:
            told = (*notes, *program.response["notes"])
            built = replace(built, converted=program, program=program.response, notes=told)
        trial = replace(trial, built=built)
        checked = check(bench, built, original, like=way[2:])
    except (BudgetError, SamplesError):
        raise  # about what the user gave, not about this candidate
    except EdgeSdkError as exc:
        return _stopped(bench, trial, stage, exc, ran=ran), ran
    quality = checked.quality
    if quality.verdict == Verdict.FAIL:
        bench.listen(_ended(name, f"{quality.verdict}: {quality.reason}", failed=True))
    outcome = replace(trial.outcome, quality=quality)
    return Trial(outcome=outcome, built=checked.built), ran or not checked.cached


def place(bench: Bench, trial: Trial, *, ran: bool = True) -> Trial:
    """The trial with its shares of units, where the budget limits what may run elsewhere."""
    if bench.budget.max_fallback is None or trial.built is None:
        return trial
    bench.listen(Event(stage="place", subject=trial.outcome.name, state="begin"))
    try:
        shares = shares_inside(bench, trial.built, see_inside(bench, trial.built))
    except EdgeSdkError as exc:
        return _stopped(bench, trial, "place", exc, ran=ran)
    return replace(trial, outcome=replace(trial.outcome, shares=shares))


def _stopped(bench: Bench, trial: Trial, stage: str, exc: EdgeSdkError, *, ran: bool) -> Trial:
    """The trial with what ended it at this stage; `ran` says whether an earlier one was run for it."""
    name = trial.outcome.name
    if isinstance(exc, StepFailed) and exc.kind == OUT_OF_TIME:
        was_cut = exc.__cause__ is not None
        late = f"{stage} not finished: {exc}" if was_cut or ran else f"not tried: {exc}"
        bench.listen(_ended(name, late, failed=True))
        return replace(trial, outcome=replace(trial.outcome, out_of_time=late))
    bench.listen(_ended(name, f"{stage}: {exc}", failed=True))
    return replace(trial, outcome=replace(trial.outcome, error=f"{stage}: {exc}"))


def check_fully(bench: Bench, trial: Trial, original: Original) -> Trial:
    """Complete a check that stopped early, so that the verdict is over all evaluation rows."""
    name = trial.outcome.name
    if trial.built is None or not is_partial(bench, trial.outcome.quality):
        return trial
    bench.listen(Event(stage="check", subject=name, state="begin"))
    try:
        checked = check_rest(bench, trial.built, original)
    except (BudgetError, SamplesError):
        raise  # about what the user gave, not about this candidate
    except EdgeSdkError as exc:
        late = isinstance(exc, StepFailed) and exc.kind == OUT_OF_TIME
        told = f"check of all rows not finished: {exc}" if late else f"check: {exc}"
        bench.listen(_ended(name, told, failed=True))
        failed = replace(trial.outcome, out_of_time=told) if late else None
        return replace(trial, outcome=failed or replace(trial.outcome, error=told))
    verdict = checked.quality.verdict
    told = f"{verdict}: {checked.quality.reason}, on all rows"
    bench.listen(_ended(name, told, failed=verdict == Verdict.FAIL, cached=checked.cached))
    outcome = replace(trial.outcome, quality=checked.quality)
    return replace(trial, outcome=outcome, built=checked.built)


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
            "recipe": recipe.stored.name,
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


def measure_again(bench: Bench, trial: Trial, original: Original) -> Trial:
    """A second chance in fresh processes for a candidate whose times were too noisy to judge."""
    name = trial.outcome.name
    if trial.built is None:
        return trial
    bench.listen(Event(stage="measure", subject=name, state="begin"))
    try:
        _, after, cached = measure_pair(bench, original.built, trial.built, attempt=2)
    except EdgeSdkError as exc:
        bench.listen(_ended(name, f"measure: {exc}", failed=True))
        if isinstance(exc, StepFailed) and exc.kind == OUT_OF_TIME:
            return trial  # as noisy as it was
        return replace(trial, outcome=replace(trial.outcome, error=f"measure: {exc}"))
    bench.listen(_ended(name, f"measured again, {after.speedup} x", cached=cached))
    return replace(trial, outcome=replace(trial.outcome, measurement=after))


def measure_beside(bench: Bench, trial: Trial, winner: Trial) -> Trial:
    """The speed of a candidate by way of the winner's, measured beside it."""
    name, known, own = trial.outcome.name, winner.outcome.measurement, trial.outcome.measurement
    if trial.built is None or winner.built is None or known is None or own is None:
        return trial
    bench.listen(Event(stage="measure", subject=name, state="begin"))
    try:
        _, after, cached = measure_pair(bench, winner.built, trial.built)
    except EdgeSdkError as exc:
        bench.listen(_ended(name, f"not measured beside {winner.outcome.name}: {exc}", failed=True))
        return trial
    ratio = after.speedup
    told = f"{ratio} x the speed of {winner.outcome.name}, measured beside it"
    bench.listen(_ended(name, told, cached=cached))
    chained = Interval(
        value=known.speedup.value * ratio.value,
        low=known.speedup.low * ratio.low,
        high=known.speedup.high * ratio.high,
    )
    measured = replace(own, speedup=chained, warnings=(*own.warnings, told))
    return replace(trial, outcome=replace(trial.outcome, measurement=measured))


def measure_failed(
    bench: Bench, trial: Trial, original: Original, *, hopeless: float
) -> Measurement | None:
    """The speed of a candidate that fails the check: whether mending it is worthwhile."""
    if trial.built is None:
        return None
    try:
        _, after, _ = measure_pair(bench, original.built, trial.built, hopeless=hopeless)
    except EdgeSdkError:
        return None
    return after


def measure_original(bench: Bench, original: Original) -> Measurement:
    """The original against itself, for when no candidate was measured beside it."""
    _, measured, _ = measure_pair(bench, original.built, original.built)
    return replace(measured, speedup=replace(measured.speedup, value=1.0, low=1.0, high=1.0))


def _way(choice: Choice) -> tuple[Work, ...]:
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
        choice: with `-smooth`, of which the rest is done here.
        start: what `smoothed` gave.
        way: what follows.
    """
    recipe = replace(choice.recipe.stored, smooth=False)
    way = way or _way(choice)
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


def _ended(name: str, message: str, *, failed: bool = False, cached: bool = False) -> Event:
    state = "failed" if failed else "done"
    return Event(stage="try", subject=name, state=state, message=message, cached=cached)


def _told(bench: Bench, quality: Quality) -> str:
    seen = f" after {quality.rows:,} rows" if is_partial(bench, quality) else ""
    return f"{quality.verdict}{seen}"


def _pace(measurement: Measurement) -> str:
    if measurement.latency is not None:
        return f"{measurement.speedup} x"
    if measurement.instructions is not None:
        return f"{measurement.speedup} x fewer instructions"
    if measurement.estimate_ms is not None:
        return f"{measurement.estimate_ms:.3g} ms by its compiler's estimate"
    return "no time is stated"


def _size(measurement: Measurement) -> str:
    return f"{measurement.artifact_bytes / 1e6:.1f} MB"
