"""The whole path from a model to a bundle, top to bottom: the file to read first."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgesdk.backend import load_backend
from edgesdk.bench import Bench, Original, Trial
from edgesdk.budget import Budget
from edgesdk.bundle.write import write_bundle
from edgesdk.cache import Cache
from edgesdk.clock import OUT_OF_TIME, Clock, spell
from edgesdk.contents import bundle_contents
from edgesdk.decide import Decision, Outcome, decide, sure_speed
from edgesdk.device.local import LocalDevice
from edgesdk.errors import (
    BackendUnavailable,
    BudgetError,
    BudgetNotMet,
    DeviceError,
    ModelError,
    OutputError,
    SamplesError,
    StepFailed,
)
from edgesdk.events import Event, Listener, nobody
from edgesdk.evidence import Evidence
from edgesdk.files import check_free_place, new_folder, sha256_json, write_json, write_text
from edgesdk.machine import Machine, detect
from edgesdk.measure.settings import Settings
from edgesdk.metrics import load_metric
from edgesdk.model import Model, model_work, read_model, unknown_ops
from edgesdk.pipeline import Pipeline
from edgesdk.plan.candidate import ORIGINAL, Plan
from edgesdk.plan.damage import SensitivityTable
from edgesdk.plan.foresee import with_predictions
from edgesdk.plan.make import Engine, SampleFacts, make_plan
from edgesdk.plan.speeds import Speeds
from edgesdk.precision import Precision
from edgesdk.profile import load_profile
from edgesdk.profile_values import Profile
from edgesdk.refine import refine
from edgesdk.report.document import DeployReport
from edgesdk.report.html import render_html
from edgesdk.reporting import build_report
from edgesdk.samples import Samples, assumed_lengths, read_samples, synthesise
from edgesdk.settle import secure, settle
from edgesdk.trial import (
    look_inside,
    measure_original,
    open_original,
    prepare_model,
    sensitivity,
    try_candidate,
)
from edgesdk.usercode import absolute_reference
from edgesdk.workshop import Limits, Workshop, memory_limit

REPORT_JSON, REPORT_HTML, BUNDLE = "report.json", "report.html", "bundle"
"""What an output folder holds."""
SYNTHETIC_ROWS = 8
"""Inputs made up when no samples are given: enough to see that a candidate runs."""
PROFILED_RUNS = 16
_EXTENSIONS = ("com.microsoft::", "com.microsoft.", "org.openvinotoolkit::")
"""Operators that the engines bring themselves; whether one has them, converting to it tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        model: the ONNX file.
        profile: an installed profile's name or a file.
        samples, calibration: sources as `edgesdk.samples.read_samples` takes them.
        budget: limits, floors and objective.
        metrics: task metrics, which need labels.
        backends: only these; empty for the profile's, in its order.
        recipes: only these (`recipe` or `backend/recipe`); empty for what is worth trying.
        threads: threads in one run; None for all usable cores that the profile has.
        fix_shapes: deploy with the samples' shapes where these are all equal.
        refine: also look for the nodes that had better stay float in the best quantized forms.
        accept_undecided: let a candidate win whose quality the samples cannot decide.
        lengths: of open axes in made-up inputs, by symbolic name or `input.axis`.
        seed: of the split into calibration and evaluation.
        time_budget_s: seconds for the whole search, above 0; what does not fit is not tried, and the
            best found so far is taken. None for no limit.
    """

    model: Path
    profile: str
    samples: str | None = None
    calibration: str | None = None
    budget: Budget = field(default_factory=Budget)
    metrics: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    threads: int | None = None
    fix_shapes: bool = True
    refine: bool = False
    accept_undecided: bool = False
    lengths: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    time_budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What came of it.

    Attributes:
        decision: the winner, and why the others lost.
        outcomes: the original first, then every candidate in plan order.
        report: the document behind the HTML page, the terminal table and `--json`.
        folder: the output folder.
        bundle: the bundle in it, or None when nothing met the budget.
    """

    plan: Plan
    decision: Decision
    outcomes: tuple[Outcome, ...]
    report: DeployReport
    folder: Path
    bundle: Path | None


def deploy(
    model: str | Path,
    *,
    profile: str,
    out: str | Path | None = None,
    cache: Cache | None = None,
    limits: Limits | None = None,
    settings: Settings | None = None,
    force: bool = False,
    refresh: bool = False,
    listen: Listener = nobody,
    **options: Any,
) -> Deployment:
    """Plan, convert, prove, measure, decide and bundle one model for one device.

    Args:
        model: an ONNX file.
        profile: an installed profile's name (`edgesdk profiles list`) or a `.toml` file.
        out: the output folder, which must be new or empty; default `MODEL-PROFILE` here.
        cache: where finished steps are kept; default the user's cache folder.
        limits: time and memory that a single step may take.
        settings: how long and how carefully to measure.
        force: replace an earlier output folder of edgesdk.
        refresh: run every step again instead of taking cached results.
        listen: called with each `Event`.
        options: the other fields of `Request`: samples, metrics, budget, …

    Raises:
        InputError: the model, samples, profile, budget or output place cannot be used.
        EnvironmentProblem: no engine is usable, or this machine is not the profile's device.
        BudgetNotMet: nothing meets the budget; the report is written (and is the error's `report`),
            a bundle is not.
    """
    request = Request(model=Path(model), profile=profile, **options)
    clock = Clock(request.time_budget_s)
    target = Path(out) if out else Path(f"{request.model.stem}-{Path(profile).stem}")
    _check_target(target, force=force)
    facts = _read_usable_model(request.model)
    workshop = Workshop(
        cache=cache or Cache(),
        limits=_limits(limits or Limits(), facts),
        refresh=refresh,
        clock=clock,
    )
    device_profile = load_profile(request.profile)
    evidence = _evidence(device_profile, detect())
    samples = _read_samples(request, facts, workshop.cache)
    plan = _plan(request, facts, device_profile, samples)
    listen(
        Event(
            stage="plan",
            message=f"{len(plan.candidates)} candidates, {len(plan.rejected)} ruled out",
        )
    )
    for note in (*plan.notes, *samples.notes):
        listen(Event(stage="plan", message=note))

    bench = _bench(
        request, facts, samples, workshop, device_profile, settings or Settings(), evidence, listen
    )
    with _time_for_one(clock):
        original = open_original(bench, plan)
        trials, baseline, notes = _try_all(bench, plan, original, request)
    outcomes = [trial.outcome for trial in trials]
    decision = decide(baseline, outcomes, request.budget, accept_undecided=request.accept_undecided)
    listen(
        Event(
            stage="decide", state="done", subject=decision.chosen or "", message=decision.headline
        )
    )
    return _finish(
        bench,
        plan,
        decision,
        [baseline, *outcomes],
        trials,
        original,
        device_profile,
        notes=(*plan.notes, *samples.notes, *notes),
        target=target,
        force=force,
    )


def preview(model: str | Path, *, profile: str, **options: Any) -> Plan:
    """The plan of a deploy, without running anything.

    Takes what `deploy` takes as `Request`, and raises what it raises for wrong input.
    """
    request = Request(model=Path(model), profile=profile, **options)
    facts = _read_usable_model(request.model)
    samples = _read_samples(request, facts, Cache())
    return _plan(request, facts, load_profile(request.profile), samples)


def simulate(
    model: str | Path,
    *,
    profile: str,
    cache: Cache | None = None,
    limits: Limits | None = None,
    listen: Listener = nobody,
    **options: Any,
) -> SensitivityTable:
    """What every node costs in quality at the precisions of the planned recipes; measures nothing.

    Takes what `deploy` takes as `Request`, and raises what it raises for wrong input.

    Raises:
        SamplesError: there are no real samples.
        StepFailed: the model cannot be simulated.
    """
    request = Request(model=Path(model), profile=profile, **options)
    facts = _read_usable_model(request.model)
    workshop = Workshop(cache=cache or Cache(), limits=_limits(limits or Limits(), facts))
    samples = _read_samples(request, facts, workshop.cache)
    if samples.synthetic or not len(samples.calibration):
        raise SamplesError("sensitivity is seen on real samples, at least two; give --samples")
    device_profile = load_profile(request.profile)
    plan = _plan(request, facts, device_profile, samples)
    recipes = [candidate.single.recipe for candidate in plan.candidates]
    wanted = [Precision.of(recipe).name for recipe in recipes if recipe.mode != "float"]
    bench = _bench(
        request, facts, samples, workshop, device_profile, Settings(), Evidence.UNKNOWN, listen
    )
    precisions = list(dict.fromkeys(wanted or ["w8a8"]))
    return sensitivity(bench, precisions, prepare_model(bench, plan))


def _bench(
    request: Request,
    facts: Model,
    samples: Samples,
    workshop: Workshop,
    profile: Profile,
    settings: Settings,
    evidence: Evidence,
    listen: Listener,
) -> Bench:
    machine = detect()
    return Bench(
        workshop=workshop,
        model=facts,
        samples=samples,
        budget=request.budget,
        metrics=_metrics(request),
        threads=request.threads or _threads(profile, machine),
        settings=settings,
        device=LocalDevice(),
        machine_key=sha256_json(machine.to_json()),
        evidence=evidence,
        listen=listen,
    )


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse an output place now rather than after minutes of work."""
    if force and target.is_dir() and any(target.iterdir()):
        if not (target / REPORT_JSON).is_file():
            raise OutputError(
                f"{target} holds no {REPORT_JSON}, so it is no output of edgesdk; "
                "--force replaces only those"
            )
        return
    check_free_place(target)


def _read_usable_model(path: Path) -> Model:
    """The model's facts, refusing operators that no engine here could know."""
    facts = read_model(path.absolute())
    unknown = [op for op in unknown_ops(facts) if not op.startswith(_EXTENSIONS)]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
        raise ModelError(
            f"{path}: operators that are neither ONNX opset {facts.opset} nor known extensions: "
            f"{shown}; export the model with standard operators"
        )
    return facts


def _limits(asked: Limits, model: Model) -> Limits:
    if asked.memory_bytes is not None:
        return asked
    return replace(asked, memory_bytes=memory_limit(model.file_bytes))


def _evidence(profile: Profile, machine: Machine) -> Evidence:
    """What a figure measured on this machine proves about the profile's device."""
    mismatch = profile.mismatch(machine)
    if mismatch:
        raise DeviceError(
            f"profile {profile.name!r} is another device than this machine: {mismatch}. "
            f"See what would be tried there with: edgesdk plan MODEL --profile {profile.name}"
        )
    return profile.resembles(machine)


def _read_samples(request: Request, model: Model, cache: Cache) -> Samples:
    store = cache.root / "samples"
    if request.samples is None:
        dims = {**assumed_lengths(model.inputs), **dict(request.lengths)}
        return synthesise(
            model.inputs, count=SYNTHETIC_ROWS, seed=request.seed, store=store, dims=dims
        )
    return read_samples(
        request.samples,
        model.inputs,
        store=store,
        calibration_source=request.calibration,
        seed=request.seed,
    )


def _plan(request: Request, model: Model, profile: Profile, samples: Samples) -> Plan:
    shapes = {name: shape for name, shape in samples.uniform_shapes.items() if shape is not None}
    facts = SampleFacts(
        calibration_rows=len(samples.calibration),
        uniform_shapes=shapes if len(shapes) == len(samples.uniform_shapes) else None,
        synthetic=samples.synthetic,
    )
    plan = make_plan(
        Pipeline.of(model),
        profile,
        [_engine(name) for name in request.backends or profile.backends],
        facts,
        budget=request.budget,
        only=request.recipes,
        fix_shapes=request.fix_shapes,
    )
    return _foreseen(plan, request, model, profile, samples)


def _foreseen(
    plan: Plan, request: Request, model: Model, profile: Profile, samples: Samples
) -> Plan:
    """The plan with predictions, where the profile has speeds; of an input of middle size."""
    if not profile.speeds:
        return plan
    rows = sorted(
        ({name: array.shape for name, array in row.inputs.items()} for row in samples.evaluation),
        key=lambda shapes: sum(math.prod(shape) for shape in shapes.values()),
    )
    try:
        graph = model_work(model, rows[len(rows) // 2])
    except ModelError as exc:
        return replace(plan, notes=(*plan.notes, f"latency is not predicted: {exc}"))
    return with_predictions(plan, graph, Speeds(profile, request.threads))


def _engine(name: str) -> Engine:
    try:
        backend = load_backend(name)
    except BackendUnavailable as exc:
        return Engine(name=name, facts=None, unavailable=str(exc))
    problem = backend.unavailable()
    version = "" if problem else backend.version()
    return Engine(name=name, facts=backend, version=version, unavailable=problem)


def _threads(profile: Profile, machine: Machine) -> int:
    """All cores that both the device and this process have."""
    cores = [int(unit.cores.value) for unit in profile.units if unit.kind == "cpu" and unit.cores]
    return max(1, min([machine.logical_cores, *cores]))


def _metrics(request: Request) -> tuple[str, ...]:
    """The metrics asked for, and those that only a floor names."""
    asked = [absolute_reference(name) for name in request.metrics]
    known = {load_metric(name).name for name in asked}
    floors = [name for name in request.budget.metrics if name.rpartition(":")[2] not in known]
    return tuple(dict.fromkeys((*asked, *map(absolute_reference, floors))))


def _try_all(
    bench: Bench, plan: Plan, original: Original, request: Request
) -> tuple[list[Trial], Outcome, tuple[str, ...]]:
    """Every candidate in plan order, the original's own outcome, and notes.

    Cleaning the graph has to pay like any other step: where the cleaned float model is slower than
    the original on the original's engine, that engine's further candidates start from a graph that
    is neither folded nor fused.
    """
    prepared = prepare_model(bench, plan)
    notes = prepared.notes
    known = partial(sure_speed, budget=request.budget, accept_undecided=request.accept_undecided)
    start = dict.fromkeys((c.single.backend for c in plan.candidates), prepared)
    trials: list[Trial] = []
    # Where time is short, first what nothing can be decided without.
    bounded = bench.workshop.clock.budget_s is not None
    before = measure_original(bench, original) if bounded else None
    total = len(plan.candidates)
    for candidate in plan.candidates:
        backend = candidate.single.backend
        so_far = Outcome(name=ORIGINAL, candidate=plan.baseline, measurement=before)
        hopeless = max(bench.settings.hopeless, known(so_far, [trial.outcome for trial in trials]))
        trial, beside = try_candidate(bench, candidate, original, start[backend], hopeless=hopeless)
        before = before or beside
        trials.append(trial)
        if bounded:
            trials = secure(
                bench, trials, so_far, original, accept_undecided=request.accept_undecided
            )
        bench.listen(Event(stage="try", state="begin", done=len(trials), total=total))
        measured = trial.outcome.measurement
        if candidate.single == plan.baseline.single and measured and measured.speedup.high < 1.0:
            notes += (
                f"folding and fusing the graph made it slower on {backend} ({measured.speedup} x), "
                "so the recipes for it start from the plain graph",
            )
            bench.listen(Event(stage="prepare", message=notes[-1]))
            start[backend] = prepare_model(bench, plan, fold=False)
    outcome = Outcome(
        name=ORIGINAL,
        candidate=plan.baseline,
        measurement=before or measure_original(bench, original),
    )
    if request.refine:
        trials += refine(
            bench, trials, outcome, original, start, accept_undecided=request.accept_undecided
        )
    trials = settle(bench, trials, outcome, original, accept_undecided=request.accept_undecided)
    return trials, outcome, (*notes, *_left_out(bench, trials))


def _left_out(bench: Bench, trials: Sequence[Trial]) -> Iterator[str]:
    """What to know when the time budget ended the search."""
    late = sum(trial.outcome.out_of_time is not None for trial in trials)
    if late:
        yield (
            f"{late} of {len(trials)} candidates were not tried to the end: the time budget of "
            f"{spell(bench.workshop.clock.budget_s or 0.0)} was used up; finished steps are kept, "
            "so the same deploy again goes on from there"
        )


@contextmanager
def _time_for_one(clock: Clock) -> Iterator[None]:
    """Around what has to be done in any case.

    Raises:
        BudgetError: the time budget ended before the original was measured.
    """
    try:
        yield
    except StepFailed as exc:
        if exc.kind != OUT_OF_TIME:
            raise
        raise BudgetError(
            f"{exc}, before the original model was measured, so there is nothing to decide on; "
            f"give more than {spell(clock.budget_s or 0.0)}. Finished steps are kept: the same "
            "deploy again goes on from there"
        ) from exc


def _finish(
    bench: Bench,
    plan: Plan,
    decision: Decision,
    outcomes: Sequence[Outcome],
    trials: Sequence[Trial],
    original: Original,
    profile: Profile,
    *,
    notes: Sequence[str],
    target: Path,
    force: bool,
) -> Deployment:
    """Write the output folder, whole or not at all: the report, and the bundle of the winner."""
    built = {trial.outcome.name: trial.built for trial in trials} | {ORIGINAL: original.built}
    chosen = next((item for item in outcomes if item.name == decision.chosen), None)
    inside = {}
    for name in (ORIGINAL, decision.chosen):
        artifact = built.get(name) if name else None
        seen = look_inside(bench, artifact, runs=PROFILED_RUNS) if artifact else None
        if name and seen:
            inside[name] = seen.response
    report = build_report(
        model=bench.model,
        profile=profile,
        samples=bench.samples,
        budget=bench.budget,
        plan=plan,
        decision=decision,
        outcomes=outcomes,
        inside=inside,
        notes=notes,
        bundle=str(target / BUNDLE) if chosen else None,
    )
    bench.listen(Event(stage="bundle", state="begin"))
    with _replacing(target, force=force) as folder:
        artifact = built.get(chosen.name) if chosen else None
        if chosen and artifact:
            contents = bundle_contents(
                model=bench.model,
                profile=profile,
                samples=bench.samples,
                outcome=chosen,
                built=artifact,
                reference=original.reference.folder / "outputs",
                threads=bench.threads,
                environment=report.environment,
            )
            write_bundle(contents, folder / BUNDLE)
        write_json(folder / REPORT_JSON, report.to_json())
        write_text(folder / REPORT_HTML, render_html(report))
    bench.listen(Event(stage="bundle", state="done", message=f"wrote {target}"))
    if chosen is None:
        raise BudgetNotMet(
            f"{decision.headline}; the report is {target / REPORT_HTML}", report=report
        )
    return Deployment(
        plan=plan,
        decision=decision,
        outcomes=tuple(outcomes),
        report=report,
        folder=target,
        bundle=target / BUNDLE,
    )


@contextmanager
def _replacing(target: Path, *, force: bool) -> Iterator[Path]:
    """A new folder that becomes the target; with `force` an earlier output makes way at the end."""
    if not (force and target.is_dir()):
        with new_folder(target) as folder:
            yield folder
        return
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    with new_folder(target.with_name(f".{target.name}.new")) as folder:
        yield folder
    target.rename(aside)
    target.with_name(f".{target.name}.new").rename(target)
    shutil.rmtree(aside)
