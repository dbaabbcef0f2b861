"""The whole path from `pipeline.toml` to a bundle, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesdk.begin import bench_of, evidence_on, limits_of
from edgesdk.bench import Bench
from edgesdk.bundle.write import write_bundle
from edgesdk.cache import Cache
from edgesdk.clock import Clock
from edgesdk.comparison import Record
from edgesdk.coverage import (
    InputCoverage,
    component_coverage,
    pipeline_coverage,
    require_coverage,
)
from edgesdk.decide import Decision, Outcome, decide
from edgesdk.deployment import BUNDLE, REPORT_HTML, REPORT_JSON, check_target, replacing
from edgesdk.device.base import Place
from edgesdk.device.find import LOCAL
from edgesdk.device.local import LocalDevice
from edgesdk.errors import BudgetError, BudgetNotMet, DeviceError, PipelineError, SamplesError
from edgesdk.events import Event, Listener, nobody
from edgesdk.files import write_json, write_text
from edgesdk.joint.allocate import Option
from edgesdk.joint.combine import (
    ALONE,
    UNIFORM,
    Combination,
    joint_plan,
    run_combination,
    single_damages,
)
from edgesdk.joint.contents import pipeline_contents
from edgesdk.joint.document import PipelineReport
from edgesdk.joint.explore import (
    Explored,
    each_alone,
    explore,
    named,
    uniform,
    without_limits,
)
from edgesdk.joint.floors import CLOSE, pipeline_floors
from edgesdk.joint.page import render_page
from edgesdk.joint.reporting import pipeline_report, told_of
from edgesdk.joint.variants import variants_of
from edgesdk.joint.whole import Whole, facts_of, open_whole
from edgesdk.machine import Machine
from edgesdk.measure.settings import Settings
from edgesdk.measuring import measure_pair
from edgesdk.metrics import own_names
from edgesdk.pipeline import Pipeline
from edgesdk.pipeline_reader import read_pipeline
from edgesdk.pipeline_samples import Observed, observe, read_pipeline_samples
from edgesdk.plan.candidate import ORIGINAL, Candidate
from edgesdk.profile import load_profile
from edgesdk.profile_values import Profile
from edgesdk.request import Request, place_of, plan_of, read_usable_model
from edgesdk.samples import Samples
from edgesdk.workshop import Limits, Workshop

FIDELITY_ROWS = 16
"""Evaluation rows that stages are compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineDeployment:
    """What came of it.

    Attributes:
        decision: the winner among the combinations, and why the others lost.
        combinations: what was run end to end, the joint plan's first.
        folder, bundle: the output folder, and the bundle in it.
    """

    pipeline: Pipeline
    decision: Decision
    combinations: tuple[Combination, ...]
    report: PipelineReport
    folder: Path
    bundle: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What all stages share."""

    request: Request
    pipeline: Pipeline
    samples: Samples
    workshop: Workshop
    profile: Profile
    settings: Settings
    device: Place
    machine: Machine
    listen: Listener

    def bench(self, request: Request, samples: Samples, listen: Listener, model: Any) -> Bench:
        evidence = evidence_on(self.profile, self.device, self.machine)
        return bench_of(
            request,
            model,
            samples,
            self.workshop,
            self.profile,
            self.settings,
            evidence,
            listen,
            device=self.device,
            machine=self.machine,
        )


def deploy_pipeline(
    model: str | Path,
    *,
    profile: str,
    floors: Sequence[str] = (),
    out: str | Path | None = None,
    cache: Cache | None = None,
    limits: Limits | None = None,
    settings: Settings | None = None,
    force: bool = False,
    refresh: bool | float = False,
    listen: Listener = nobody,
    **options: Any,
) -> PipelineDeployment:
    """Plan all components of a pipeline under one budget, prove and measure the whole, and bundle it.

    Args:
        model: a `pipeline.toml`.
        profile: an installed profile's name or a `.toml` file.
        floors: quality floors as text; those of a modality stand for all outputs that follow from it
            (`edgesdk.joint.floors`). Floors of the budget count as well.
        out: the output folder, which must be new or empty; default `NAME-PROFILE` here.
        cache: where finished steps are kept; default the user's cache folder.
        limits: time and memory that a single step may take.
        settings: how long and how carefully to measure.
        force: replace an earlier output folder of edgesdk.
        refresh: run every step again, as for `edgesdk.deploy`.
        listen: called with each `Event`; its subject begins with the component.
        options: other fields of `Request`. Samples are needed; what only works for single models is refused.

    Raises:
        PipelineError: it cannot run as written, or has loops, which are not planned jointly.
        InputError: samples, profile, budget or output place cannot be used.
        EnvironmentProblem: no engine is usable, or this machine is not the profile's device.
        BudgetNotMet: nothing meets the budget; the report is written (and is the error's `report`),
            a bundle is not.
    """
    request = Request(model=Path(model), profile=profile, **options)
    pipeline = read_pipeline(request.model)
    _check_request(request, pipeline)
    texts = (*floors, *(floor.text for floor in request.budget.floors))
    own = own_names(request.metrics)
    wanted = pipeline_floors(texts, pipeline.wiring, request.metrics, own)
    request = replace(request, budget=replace(request.budget, floors=wanted))
    clock = Clock(request.time_budget_s)
    target = Path(out) if out else Path(f"{pipeline.name}-{Path(profile).stem}")
    check_target(target, force=force)
    facts = facts_of(pipeline)
    workshop = Workshop(
        cache=cache or Cache(),
        limits=limits_of(limits or Limits(), facts),
        since=time.time() if refresh is True else float(refresh),
        clock=clock,
        host=LocalDevice(),
    )
    device_profile = load_profile(request.profile)
    samples = read_pipeline_samples(
        str(request.samples),
        pipeline,
        workshop.cache,
        calibration_source=request.calibration,
        seed=request.seed,
    )
    with closing(place_of(request, device_profile, workshop.cache, clock)) as device:
        job = _Job(
            request=request,
            pipeline=pipeline,
            samples=samples,
            workshop=workshop,
            profile=device_profile,
            settings=settings or Settings(),
            device=device,
            machine=device.machine(),
            listen=listen,
        )
        return _deploy(job, target, force=force)


def _check_request(request: Request, pipeline: Pipeline) -> None:
    """Refuse now what is not done for pipelines."""
    if pipeline.wiring.loops:
        names = ", ".join(loop.name for loop in pipeline.wiring.loops)
        raise PipelineError(
            f"{request.model}: loop {names} runs its components again and again, which joint planning does "
            "not weigh; deploy the ONNX files of the components one by one, or take the loop out"
        )
    if request.samples is None:
        raise SamplesError(
            "a pipeline is planned on real samples, as what a component gets follows from them; give "
            "--samples"
        )
    if request.device != LOCAL or request.farm is not None:
        raise DeviceError(
            f"{request.device}: pipelines are deployed on the device itself (--device {LOCAL})"
        )
    asked = {
        "--max-fallback": request.budget.max_fallback is not None,
        "--structure": request.structure,
        "--refine": request.refine,
        # The first component would use all of it up.
        "--time-budget": request.time_budget_s is not None,
        "--training-time": request.training_s is not None,
    }
    refused = [name for name, given in asked.items() if given]
    if refused:
        raise BudgetError(
            f"{', '.join(refused)}: for single models only; deploy a component's ONNX file by itself "
            "with it, and name the result in the pipeline"
        )


def _deploy(job: _Job, target: Path, *, force: bool) -> PipelineDeployment:
    request, pipeline, listen = job.request, job.pipeline, job.listen
    variants = variants_of(job.workshop, pipeline, job.samples)
    observed = [_observed(job, variant.samples) for variant in variants[1:]]
    first = _observed(job, job.samples)
    coverage = _coverage(job, first)
    notes = [*pipeline.warnings, *job.samples.notes, *require_coverage(coverage)]
    for note in notes:
        listen(Event(stage="plan", message=note))
    explored = _explored(job, first, observed)
    bench = job.bench(request, job.samples, listen, facts_of(pipeline))
    listen(Event(stage="check", subject=ORIGINAL, state="begin"))
    originals = {item.name: item.original.built for item in explored}
    whole = open_whole(bench, pipeline, originals, variants)
    listen(Event(stage="check", subject=ORIGINAL, state="done", message="float pipeline ran"))
    options = single_damages(whole, explored)
    combinations = _combinations(whole, explored, options)
    baseline = _baseline(whole, explored, combinations)
    outcomes = [item.outcome for item in combinations]
    decision = decide(baseline, outcomes, request.budget, accept_undecided=request.accept_undecided)
    listen(
        Event(
            stage="decide", state="done", subject=decision.chosen or "", message=decision.headline
        )
    )
    return _finish(
        job,
        whole,
        explored,
        options,
        combinations,
        baseline,
        decision,
        coverage=coverage,
        notes=notes,
        target=target,
        force=force,
    )


def _observed(job: _Job, samples: Samples) -> Observed:
    job.listen(Event(stage="observe", state="begin", subject=job.pipeline.name))
    return observe(job.workshop, job.pipeline, samples)


def _coverage(job: _Job, observed: Observed) -> tuple[InputCoverage, ...]:
    """Of the pipeline's inputs, and of what every component gets."""
    wiring = job.pipeline.wiring
    found = [*pipeline_coverage(wiring, job.samples.calibration)]
    require_coverage(tuple(found))
    for component in job.pipeline.components:
        rows = observed.component(component.name).calibration
        found += component_coverage(wiring, component.name, rows)
    return tuple(found)


def _explored(job: _Job, observed: Observed, others: Sequence[Observed]) -> tuple[Explored, ...]:
    """Every component by itself; its shapes are fixed where they are equal in all variants."""
    engines = job.device.engines(job.request.backends or job.profile.backends)
    found = []
    for component in job.pipeline.components:
        model = read_usable_model(component.model.path)
        samples = _with_shapes(observed, others, component.name)
        budget = without_limits(job.request.budget, model)
        request = replace(job.request, model=model.path, budget=budget, metrics=())
        listen = named(job.listen, component.name)
        plan = plan_of(request, model, job.profile, samples, engines)
        told = f"{len(plan.candidates)} candidates, {len(plan.rejected)} ruled out"
        listen(Event(stage="plan", message=told))
        found.append(explore(job.bench(request, samples, listen, model), component, plan))
    return tuple(found)


def _with_shapes(observed: Observed, others: Sequence[Observed], name: str) -> Samples:
    """A component's rows; an input has a uniform shape only where it has it with any input missing."""
    samples = observed.component(name)
    shapes = dict(samples.uniform_shapes)
    for other in others:
        seen: Mapping[str, Any] = other.done.response["shapes"].get(name, {})
        for input_, shape in seen.items():
            if shapes.get(input_) is not None and (shape is None or tuple(shape) != shapes[input_]):
                shapes[input_] = None
    return replace(samples, uniform_shapes=shapes)


def _combinations(
    whole: Whole, explored: Sequence[Explored], options: Mapping[str, Sequence[Option]]
) -> tuple[Combination, ...]:
    """The joint plan, and what it is compared with: one recipe for all, and each component's own best."""
    objective = whole.bench.budget.objective
    done = joint_plan(whole, explored, options)
    others = {
        UNIFORM: uniform(explored, objective),
        ALONE: each_alone(explored, objective, CLOSE),
    }
    for name, forms in others.items():
        if forms is None or all(form.name == ORIGINAL for form in forms.values()):
            continue
        done.append(run_combination(whole, explored, name, forms, recalibrate=False))
    return tuple(done)


def _baseline(
    whole: Whole, explored: Sequence[Explored], combinations: Sequence[Combination]
) -> Outcome:
    """The float pipeline's own outcome, measured beside the first combination, else beside itself."""
    choices = tuple((item.name, item.plan.baseline.single) for item in explored)
    built = next(
        (item.built for item in combinations if item.built and item.outcome.measurement),
        whole.built,
    )
    before, _, _ = measure_pair(whole.bench, whole.built, built)
    same = replace(before.speedup, value=1.0, low=1.0, high=1.0)
    unfit = next((item.original.unfit for item in explored if item.original.unfit), None)
    return Outcome(
        name=ORIGINAL,
        candidate=Candidate(choices=choices),
        measurement=replace(before, speedup=same),
        unfit=unfit,
    )


def _finish(
    job: _Job,
    whole: Whole,
    explored: Sequence[Explored],
    options: Mapping[str, Sequence[Option]],
    combinations: Sequence[Combination],
    baseline: Outcome,
    decision: Decision,
    *,
    coverage: Sequence[InputCoverage],
    notes: Sequence[str],
    target: Path,
    force: bool,
) -> PipelineDeployment:
    """Write the output folder, whole or not at all: the report, and the bundle of the winner."""
    told = told_of(decision, combinations)
    stages: dict[str, Record] = {}
    if told is not None and told.built is not None:
        seen = whole.fidelity(told.built, FIDELITY_ROWS).response["stages"]
        stages = {name: Record.from_json(record) for name, record in seen.items()}
    report = pipeline_report(
        whole=whole,
        profile=job.profile,
        explored=explored,
        options=options,
        decision=decision,
        baseline=baseline,
        combinations=combinations,
        stages=stages,
        coverage=coverage,
        notes=notes,
        bundle=str(target / BUNDLE) if decision.chosen else None,
    )
    chosen = next((item for item in combinations if item.name == decision.chosen), None)
    job.listen(Event(stage="bundle", state="begin"))
    with replacing(target, force=force) as folder:
        if decision.chosen is not None:
            contents = pipeline_contents(
                whole,
                explored,
                chosen.outcome if chosen else baseline,
                chosen.parts if chosen else whole.parts,
                chosen.judged if chosen else None,
                environment=report.environment,
            )
            write_bundle(contents, folder / BUNDLE)
        write_json(folder / REPORT_JSON, report.to_json())
        write_text(folder / REPORT_HTML, render_page(report))
    job.listen(Event(stage="bundle", state="done", message=f"wrote {target}"))
    if decision.chosen is None:
        raise BudgetNotMet(
            f"{decision.headline}; the report is {target / REPORT_HTML}", report=report
        )
    return PipelineDeployment(
        pipeline=job.pipeline,
        decision=decision,
        combinations=tuple(combinations),
        report=report,
        folder=target,
        bundle=target / BUNDLE,
    )
