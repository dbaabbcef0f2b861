"""The whole path from a model to a bundle, top to bottom: the file to read first."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgesdk.begin import bench_of, evidence_on, limits_of
from edgesdk.bench import Bench, Original, Trial
from edgesdk.blame import blame_conversions
from edgesdk.bundle.write import write_bundle
from edgesdk.cache import Cache
from edgesdk.clock import OUT_OF_TIME, Clock, spell
from edgesdk.contents import bundle_contents
from edgesdk.damages import sensitivity
from edgesdk.decide import Decision, Outcome, decide, sure_speed
from edgesdk.device.base import Place
from edgesdk.device.find import LOCAL
from edgesdk.device.local import LocalDevice
from edgesdk.elsewhere import with_elsewhere
from edgesdk.errors import (
    BudgetError,
    BudgetNotMet,
    OutputError,
    SamplesError,
    StepFailed,
)
from edgesdk.events import Event, Listener, nobody
from edgesdk.evidence import Evidence
from edgesdk.farm.turns import MakingPlace
from edgesdk.files import check_free_place, new_folder, write_json, write_text
from edgesdk.last_resort import try_training
from edgesdk.making import prepare_model
from edgesdk.measure.result import Measurement
from edgesdk.measure.settings import Settings
from edgesdk.model import Model
from edgesdk.placing import look_inside, shares_inside
from edgesdk.plan.candidate import ORIGINAL, Plan
from edgesdk.plan.damage import SensitivityTable
from edgesdk.plan.refined import Refined
from edgesdk.precision import Precision
from edgesdk.profile import load_profile
from edgesdk.profile_values import Profile
from edgesdk.refine import refine
from edgesdk.report.document import DeployReport
from edgesdk.report.html import render_html
from edgesdk.reporting import build_report
from edgesdk.request import Request, place_of, plan_of, read_usable_model, samples_of
from edgesdk.savings import removed_by
from edgesdk.settle import secure, settle
from edgesdk.structural import FEWEST_ROWS
from edgesdk.structural_search import search_structure
from edgesdk.together import Tried, try_next
from edgesdk.trial import (
    measure_original,
    open_original,
    place,
)
from edgesdk.workshop import Limits, Workshop

REPORT_JSON, REPORT_HTML, BUNDLE = "report.json", "report.html", "bundle"
"""What an output folder holds."""
_FEWER = 0.99
"""A ratio of counts below which one is less than the other."""


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
    refresh: bool | float = False,
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
        refresh: run every step again instead of taking cached results, once; a number for only
            those from before that time (of `time.time`).
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
    check_target(target, force=force)
    facts = read_usable_model(request.model)
    workshop = Workshop(
        cache=cache or Cache(),
        limits=limits_of(limits or Limits(), facts),
        since=time.time() if refresh is True else float(refresh),
        clock=clock,
        host=MakingPlace() if request.farm else LocalDevice(),
    )
    device_profile = load_profile(request.profile)
    with closing(place_of(request, device_profile, workshop.cache, clock)) as device:
        return _deploy_on(
            device,
            request,
            facts,
            workshop,
            device_profile,
            settings or Settings(),
            listen,
            target=target,
            force=force,
        )


def preview(model: str | Path, *, profile: str, **options: Any) -> Plan:
    """The plan of a deploy, without running anything.

    Takes what `deploy` takes as `Request`, and raises what it raises for wrong input.
    """
    request = Request(model=Path(model), profile=profile, **options)
    facts = read_usable_model(request.model)
    samples = samples_of(request, facts, Cache())
    return plan_of(request, facts, load_profile(request.profile), samples)


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
    facts = read_usable_model(request.model)
    workshop = Workshop(cache=cache or Cache(), limits=limits_of(limits or Limits(), facts))
    samples = samples_of(request, facts, workshop.cache)
    if samples.synthetic or not len(samples.calibration):
        raise SamplesError("sensitivity is seen on real samples, at least two; give --samples")
    device_profile = load_profile(request.profile)
    plan = plan_of(request, facts, device_profile, samples)
    recipes = [candidate.single.recipe for candidate in plan.candidates]
    wanted = [Precision.of(recipe).name for recipe in recipes if recipe.mode != "float"]
    bench = bench_of(
        request, facts, samples, workshop, device_profile, Settings(), Evidence.UNKNOWN, listen
    )
    precisions = list(dict.fromkeys(wanted or ["w8a8"]))
    return sensitivity(bench, precisions, prepare_model(bench, plan))


def _deploy_on(
    device: Place,
    request: Request,
    facts: Model,
    workshop: Workshop,
    device_profile: Profile,
    settings: Settings,
    listen: Listener,
    *,
    target: Path,
    force: bool,
) -> Deployment:
    """From the plan to the output folder, with everything that runs on the device run there."""
    machine = device.machine()
    evidence = evidence_on(device_profile, device, machine)
    samples = samples_of(request, facts, workshop.cache)
    if (
        request.structure
        and len(samples.calibration if not samples.synthetic else ()) < FEWEST_ROWS
    ):
        raise SamplesError(
            f"structural steps need real samples to fit what is left, {FEWEST_ROWS} calibration rows at "
            "least; give --samples, or more of them"
        )
    engines = device.engines(request.backends or device_profile.backends)
    plan = plan_of(request, facts, device_profile, samples, engines)
    listen(
        Event(
            stage="plan",
            message=f"{len(plan.candidates)} candidates, {len(plan.rejected)} ruled out",
        )
    )
    for note in (*plan.notes, *samples.notes, *device.notes):
        listen(Event(stage="plan", message=note))

    bench = bench_of(
        request,
        facts,
        samples,
        workshop,
        device_profile,
        settings,
        evidence,
        listen,
        device=device,
        machine=machine,
    )
    with _time_for_one(workshop.clock):
        original = open_original(bench, plan)
        trials, baseline, refined, notes = _try_all(bench, plan, original, request)
    trials, baseline = with_elsewhere(bench, trials, baseline, original)
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
        refined=refined,
        notes=(*plan.notes, *samples.notes, *device.notes, *notes),
        target=target,
        force=force,
    )


def check_target(target: Path, *, force: bool) -> None:
    """Refuse an output place now rather than after minutes of work."""
    if force and target.is_dir() and any(target.iterdir()):
        if not (target / REPORT_JSON).is_file():
            raise OutputError(
                f"{target} holds no {REPORT_JSON}, so it is no output of edgesdk; "
                "--force replaces only those"
            )
        return
    check_free_place(target)


def _try_all(
    bench: Bench, plan: Plan, original: Original, request: Request
) -> tuple[list[Trial], Outcome, tuple[Refined, ...], tuple[str, ...]]:
    """Every candidate in plan order, the original's own outcome, what refining saw, and notes.

    Cleaning the graph has to pay like any other step: where the cleaned float model is slower than
    the original on the original's engine, that engine's further candidates start from a graph that
    is neither folded nor fused.
    """
    prepared = prepare_model(bench, plan)
    notes = (*original.built.notes, *prepared.notes)
    known = partial(sure_speed, budget=request.budget, accept_undecided=request.accept_undecided)
    start = dict.fromkeys((c.single.backend for c in plan.candidates), prepared)
    trials: list[Trial] = []
    # Where time is short, first what nothing can be decided without.
    bounded = bench.workshop.clock.budget_s is not None
    before = measure_original(bench, original) if bounded else None
    first = Trial(
        outcome=Outcome(
            name=ORIGINAL, candidate=plan.baseline, measurement=before, unfit=original.unfit
        ),
        built=original.built,
    )
    baseline = place(bench, first).outcome
    total = len(plan.candidates)
    ahead: dict[str, Tried] = {}
    for number, candidate in enumerate(plan.candidates):
        backend = candidate.single.backend
        so_far = replace(baseline, measurement=before)
        hopeless = max(bench.settings.hopeless, known(so_far, [trial.outcome for trial in trials]))
        if candidate.name not in ahead:
            waiting = [item for item in plan.candidates[number:] if item.name not in ahead]
            ahead |= try_next(bench, waiting, original, start, hopeless=hopeless)
        trial, beside = ahead.pop(candidate.name)
        before = before or beside
        trials.append(trial)
        if bounded:  # the time must not end with a leader whose check is not complete
            trials = secure(
                bench, trials, so_far, original, accept_undecided=request.accept_undecided
            )
        bench.listen(Event(stage="try", state="begin", done=len(trials), total=total))
        measured = trial.outcome.measurement
        if candidate.single == plan.baseline.single and measured and _is_slower(measured):
            notes += (
                f"folding and fusing the graph made it slower on {backend} ({measured.speedup} x), "
                "so the recipes for it start from the plain graph",
            )
            bench.listen(Event(stage="prepare", message=notes[-1]))
            start[backend] = prepare_model(bench, plan, fold=False)
            ahead = {
                name: it
                for name, it in ahead.items()
                if it[0].outcome.candidate.single.backend != backend
            }
    outcome = replace(baseline, measurement=before or measure_original(bench, original))
    if bench.device.name == LOCAL:  # the search converts parts of the model where it runs
        notes += blame_conversions(bench, trials, start)
    if request.structure:
        trials, told = search_structure(
            bench, trials, outcome, original, start, accept_undecided=request.accept_undecided
        )
        notes += told
    refined: tuple[Refined, ...] = ()
    if request.refine:
        trials, refined = refine(
            bench, trials, outcome, original, start, accept_undecided=request.accept_undecided
        )
    trials, told = try_training(
        bench, trials, outcome, original, start, accept_undecided=request.accept_undecided
    )
    notes += told
    trials = settle(bench, trials, outcome, original, accept_undecided=request.accept_undecided)
    return trials, outcome, refined, (*notes, *_left_out(bench, trials))


def _is_slower(measured: Measurement) -> bool:
    """Surely slower than the original; counts repeat within a thousandth, and have no interval for it."""
    return measured.speedup.high < (1.0 if measured.latency else _FEWER)


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
    refined: Sequence[Refined],
    notes: Sequence[str],
    target: Path,
    force: bool,
) -> Deployment:
    """Write the output folder, whole or not at all: the report, and the bundle of the winner."""
    built = {trial.outcome.name: trial.built for trial in trials} | {ORIGINAL: original.built}
    inside, placed = {}, {}
    for name in (ORIGINAL, decision.chosen):
        artifact = built.get(name) if name else None
        seen = look_inside(bench, artifact) if artifact else None
        if name and artifact and seen:
            inside[name] = seen.response
            placed[name] = shares_inside(bench, artifact, seen)
    outcomes = [replace(item, shares=placed.get(item.name, item.shares)) for item in outcomes]
    chosen = next((item for item in outcomes if item.name == decision.chosen), None)
    report = build_report(
        model=bench.model,
        profile=profile,
        samples=bench.samples,
        budget=bench.budget,
        plan=plan,
        decision=decision,
        outcomes=outcomes,
        inside=inside,
        refined=refined,
        notes=notes,
        remarks={name: artifact.notes for name, artifact in built.items() if artifact},
        removed=removed_by(
            trials,
            Trial(outcome=outcomes[0], built=original.built),
            decision.chosen,
            bench.samples.evaluation[0],
        ),
        bundle=str(target / BUNDLE) if chosen else None,
    )
    bench.listen(Event(stage="bundle", state="begin"))
    with replacing(target, force=force) as folder:
        artifact = built.get(chosen.name) if chosen else None
        if chosen and artifact:
            contents = bundle_contents(
                bench,
                chosen,
                artifact,
                reference=original.reference.folder / "outputs",
                environment=report.environment,
            )
            write_bundle(contents, folder / BUNDLE)
        write_json(folder / REPORT_JSON, report.to_json())
        write_text(folder / REPORT_HTML, render_html(report))
    bench.listen(Event(stage="bundle", state="done", message=f"wrote {target}"))
    if chosen is None:
        ruled_out = (
            ""
            if plan.candidates
            else "".join(f"; {item.name} was not tried: {item.reason}" for item in plan.rejected)
        )
        raise BudgetNotMet(
            f"{decision.headline}{ruled_out}; the report is {target / REPORT_HTML}", report=report
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
def replacing(target: Path, *, force: bool) -> Iterator[Path]:
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
