"""Trying one candidate: compress, convert, check, measure. What fails becomes its reason."""

from __future__ import annotations

from dataclasses import replace

from edgesdk.aware import quantized
from edgesdk.backend import require_backend
from edgesdk.bench import (
    Bench,
    Built,
    Original,
    Prepared,
    Trial,
)
from edgesdk.checking import check, check_rest, is_partial
from edgesdk.clock import OUT_OF_TIME
from edgesdk.decide import Outcome, fallback_problem
from edgesdk.errors import BudgetError, EdgeSdkError, ModelError, SamplesError, StepFailed
from edgesdk.events import Event
from edgesdk.making import (
    begun,
    compile_choice,
    convert_choice,
    prepared_by,
    quantize_choice,
    way_of,
)
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
        fixed = prepared_by(bench, plan, "only_shapes")
        converted = convert_choice(bench, choice, fixed.path, fixed.key)
        return converted, (f"its shapes are fixed, as {choice.backend} needs: {exc}",)


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
    way = way_of(choice)
    trial = Trial(outcome=Outcome(name=name, candidate=candidate))
    stage, ran = "compress", False
    try:
        bench.listen(Event(stage=stage, subject=name, state="begin"))
        start = begun(bench, choice, prepared, way)
        own = require_backend(choice.backend).quantizes(choice.recipe)
        written = replace(choice, recipe=Recipe()) if own else choice
        compressed = quantized(bench, written, start, prepared, way)
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
