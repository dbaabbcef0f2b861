"""What the user asked for, and what follows from it before anything runs: facts, samples, the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgesdk.backend import load_backend
from edgesdk.budget import Budget
from edgesdk.cache import Cache
from edgesdk.clock import Clock
from edgesdk.device.base import EngineThere, Place
from edgesdk.device.find import LOCAL, find_device, is_timed
from edgesdk.device.survey import look_at_engine
from edgesdk.errors import BackendUnavailable, BudgetError, ModelError
from edgesdk.farm.place import open_farm
from edgesdk.metrics import load_metric
from edgesdk.model import Model, model_work, read_model, unknown_ops
from edgesdk.pipeline import Pipeline
from edgesdk.plan.candidate import Plan
from edgesdk.plan.foresee import with_predictions
from edgesdk.plan.make import Engine, SampleFacts, make_plan
from edgesdk.plan.speeds import Speeds
from edgesdk.profile_values import Profile
from edgesdk.samples import Samples, assumed_lengths, read_samples, synthesise
from edgesdk.usercode import absolute_reference

SYNTHETIC_ROWS = 8
"""Inputs made up when no samples are given: enough to see that a candidate runs."""

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
        structure: also remove and factor parameters of the best form, as far as the check allows.
        accept_undecided: let a candidate win whose quality the samples cannot decide.
        lengths: of open axes in made-up inputs, by symbolic name or `input.axis`.
        seed: of the split into calibration and evaluation.
        device: where candidates are run; see `edgesdk.device.find`.
        farm: the scheduler of many devices to run them on; `device` then names which of these.
        time_budget_s: seconds for the whole search, above 0; what does not fit is not tried, and the
            best found so far is taken. None for no limit.
        training_s: seconds for each training of a candidate, above 0; None for as long as it gets
            better.
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
    structure: bool = False
    accept_undecided: bool = False
    lengths: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    time_budget_s: float | None = None
    training_s: float | None = None
    device: str = LOCAL
    farm: str | None = None


def read_usable_model(path: Path) -> Model:
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


def samples_of(request: Request, model: Model, cache: Cache) -> Samples:
    """The samples asked for, checked, stored and split; made up where there are none.

    Raises:
        SamplesError: they do not fit the model.
    """
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


def place_of(request: Request, profile: Profile, cache: Cache, clock: Clock) -> Place:
    """The device or the farm asked for, made ready with the engines that are asked for.

    Raises:
        DeviceError: there is none of that name, or it cannot be made ready.
        BudgetError: something is asked for that cannot be found out there.
        BackendUnavailable: a farm is asked for, and Dask is not installed.
    """
    backends = request.backends or profile.backends
    if request.farm is not None:
        place = open_farm(
            request.farm, profile, backends, device=request.device, left_s=lambda: clock.left_s
        )
        try:
            if place.tells != "times":
                _check_untimed(request)
        except BudgetError:
            place.close()
            raise
        return place
    if not is_timed(request.device):
        _check_untimed(request)
    return find_device(request.device, backends, cache)


def _check_untimed(request: Request) -> None:
    """Refuse what needs times or memory where neither is measured."""
    asked = [limit.text for limit in request.budget.limits if limit.quantity != "size"]
    if request.budget.objective == "memory":
        asked.append("objective memory")
    if request.refine:
        asked.append("--refine")
    if asked:
        raise BudgetError(
            f"{', '.join(asked)}: {request.device} tells neither times nor memory; "
            "leave that out, or deploy on the device itself"
        )


def plan_of(
    request: Request,
    model: Model,
    profile: Profile,
    samples: Samples,
    engines: Mapping[str, EngineThere] | None = None,
) -> Plan:
    """The candidates worth trying on the engines that are there, with predictions where there are any.

    Args:
        engines: what the device has; None for this machine.

    Raises:
        InputError: the recipes, backends or floors asked for make no sense here.
        EnvironmentProblem: no engine is usable.
    """
    shapes = {name: shape for name, shape in samples.uniform_shapes.items() if shape is not None}
    facts = SampleFacts(
        calibration_rows=len(samples.calibration),
        uniform_shapes=shapes if len(shapes) == len(samples.uniform_shapes) else None,
        synthetic=samples.synthetic,
    )
    plan = make_plan(
        Pipeline.of(model),
        profile,
        [_engine(name, engines) for name in request.backends or profile.backends],
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


def _engine(name: str, engines: Mapping[str, EngineThere] | None) -> Engine:
    try:
        backend = load_backend(name)
    except BackendUnavailable as exc:
        return Engine(name=name, facts=None, unavailable=str(exc))
    there = look_at_engine(name) if engines is None else engines[name]
    return Engine(
        name=name,
        facts=backend,
        version=there.version,
        unavailable=there.unavailable,
        simulated=there.simulated,
    )


def metrics_of(request: Request) -> tuple[str, ...]:
    """The metrics asked for, and those that only a floor names.

    Raises:
        SamplesError: one does not load.
    """
    asked = [absolute_reference(name) for name in request.metrics]
    known = {load_metric(name).name for name in asked}
    floors = [name for name in request.budget.metrics if name.rpartition(":")[2] not in known]
    return tuple(dict.fromkeys((*asked, *map(absolute_reference, floors))))
