"""Making the plan: what is worth trying on a device, in order, and what is ruled out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgesdk.budget import Budget
from edgesdk.errors import BackendUnavailable, ModelError
from edgesdk.model import Model, check_readable
from edgesdk.pipeline import SINGLE, Pipeline
from edgesdk.plan.candidate import Candidate, Choice, Plan, Rejected
from edgesdk.plan.catalogue import recipes_worth_trying
from edgesdk.profile_values import Profile
from edgesdk.recipe import EXECUTIONS, Execution, Recipe


class EngineFacts(Protocol):
    """What the plan asks of a backend; `edgesdk.backend.Backend` offers it."""

    def rejects(self, recipe: Recipe) -> str | None:
        """Why the engine cannot run a recipe whatever the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A backend as the plan sees it.

    Attributes:
        name: the backend's name.
        facts: what it can run; None when the backend is not there at all.
        version: the engine's version here; empty when it is not usable.
        unavailable: why it cannot be used here, or None.
    """

    name: str
    facts: EngineFacts | None
    version: str = ""
    unavailable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """What the plan needs to know of the samples.

    Attributes:
        calibration_rows: rows that may be used to calibrate.
        uniform_shapes: the one shape that each input has in all rows; None when they vary.
        synthetic: True when the inputs were made up and quality cannot be known.
    """

    calibration_rows: int
    uniform_shapes: Mapping[str, tuple[int, ...]] | None
    synthetic: bool


def make_plan(
    pipeline: Pipeline,
    profile: Profile,
    engines: Sequence[Engine],
    samples: SampleFacts,
    *,
    budget: Budget,
    only: Sequence[str] = (),
    fix_shapes: bool = True,
) -> Plan:
    """Candidates worth trying on this device, best guess first, and what was ruled out.

    Args:
        pipeline: what is to be deployed.
        profile: the device.
        engines: the backends to consider, in order; the first usable one runs the baseline.
        samples: what is known of the samples.
        budget: whether a smaller form is worth anything by itself.
        only: recipe names, or `backend/recipe`, to try instead of the catalogue's.
        fix_shapes: deploy with the shapes of the samples where these are all equal.

    Raises:
        BackendUnavailable: no engine is usable; every reason is in the message.
        ModelError: no usable engine's version on the device reads the model.
        RecipeError: a name in `only` does not decode.
    """
    model = pipeline.single.model
    rejected: list[Rejected] = []
    usable: list[Engine] = []
    unreadable: list[str] = []
    for engine in engines:
        unread = None
        reason = _unusable(engine, profile)
        if reason is None:
            unread = _unreadable(engine, profile, model)
            reason = unread
        if reason is None:
            usable.append(engine)
        else:
            rejected.append(Rejected(name=f"{engine.name}/*", reason=reason))
        if unread is not None:
            unreadable.append(unread)
    if not usable:
        reasons = "; ".join(f"{item.name[:-2]}: {item.reason}" for item in rejected)
        if unreadable and len(unreadable) == len(rejected):
            raise ModelError(f"no runtime of profile {profile.name!r} reads this model: {reasons}")
        raise BackendUnavailable(f"no usable backend for profile {profile.name!r}: {reasons}")

    baseline = _candidate(Choice(recipe=Recipe(), backend=usable[0].name), "the float original")
    candidates: list[Candidate] = []
    for engine in usable:
        for choice, why in _choices(engine, model, profile, samples, budget, only, rejected):
            reason = _reason_against(choice, engine, profile)
            if reason is None:
                candidates.append(_candidate(choice, why))
                continue
            rejected.append(Rejected(name=choice.name, reason=reason))
            careful = _without_saturation(choice)
            if careful and _reason_against(careful, engine, profile) is None:
                candidates.append(_candidate(careful, f"{why}; 7-bit weights cannot saturate here"))
    return Plan(
        baseline=baseline,
        candidates=tuple(candidates),
        rejected=tuple(rejected),
        shapes=_fixed_shapes(samples) if fix_shapes else None,
        notes=tuple(_notes(samples)),
    )


def _unusable(engine: Engine, profile: Profile) -> str | None:
    """Why an engine cannot be used here, or is not the one that the device has."""
    if engine.unavailable or engine.facts is None:
        return engine.unavailable or "not registered"
    legal = [runtime.name for runtime in profile.runtimes]
    if engine.name not in legal:
        return f"profile {profile.name!r} has no such runtime; it has: {', '.join(legal)}"
    return profile.runtime(engine.name).refuses_version(engine.version)


def _unreadable(engine: Engine, profile: Profile, model: Model) -> str | None:
    """Why the device's version of the engine cannot read the model."""
    runtime = profile.runtime(engine.name)
    max_opset = int(runtime.max_opset.value) if runtime.max_opset else model.opset
    max_ir = int(runtime.max_ir.value) if runtime.max_ir else model.ir_version
    return check_readable(model, max_opset, max_ir, f"{engine.name} {engine.version}")


def _candidate(choice: Choice, why: str) -> Candidate:
    return Candidate(choices=((SINGLE, choice),), why=why)


def _choices(
    engine: Engine,
    model: Model,
    profile: Profile,
    samples: SampleFacts,
    budget: Budget,
    only: Sequence[str],
    rejected: list[Rejected],
) -> list[tuple[Choice, str]]:
    """The choices to consider for one engine: the user's, or the catalogue's."""
    calibration = samples.calibration_rows > 0
    if not only:
        suggestions, ruled_out = recipes_worth_trying(
            backend=engine.name,
            ops=model.op_histogram,
            calibration=calibration,
            storage=_wants_small(budget),
            executions=[e for e in EXECUTIONS if _executes(engine, profile, e)],
        )
        rejected.extend(
            Rejected(name=f"{engine.name}/{item.name}", reason=item.reason) for item in ruled_out
        )
        plain = (Choice(recipe=Recipe(), backend=engine.name), "the float model, graph cleaned")
        return [
            plain,
            *((Choice(recipe=s.recipe, backend=engine.name), s.why) for s in suggestions),
        ]
    chosen = []
    for wanted in only:
        backend, _, name = wanted.rpartition("/")
        if backend in ("", engine.name):
            choice = Choice(recipe=Recipe.parse(name), backend=engine.name)
            if choice.recipe.needs_calibration and not calibration:
                reason = "needs calibration samples, and there are none"
                rejected.append(Rejected(name=choice.name, reason=reason))
            else:
                chosen.append((choice, "asked for"))
    return chosen


def _wants_small(budget: Budget) -> bool:
    limited = any(limit.quantity in ("size", "memory") for limit in budget.limits)
    return limited or budget.objective in ("size", "memory")


def _executes(engine: Engine, profile: Profile, execution: Execution) -> bool:
    """Whether an engine natively executes in a float type on the device."""
    choice = Choice(recipe=Recipe(execution=execution), backend=engine.name)
    return _reason_against(choice, engine, profile) is None


def _reason_against(choice: Choice, engine: Engine, profile: Profile) -> str | None:
    if engine.facts is None:
        return "not registered"
    return engine.facts.rejects(choice.recipe) or profile.rejects(choice.recipe, choice.backend)


def _without_saturation(choice: Choice) -> Choice | None:
    """The form of an int8 choice for CPUs whose u8 x s8 sums saturate (those without VNNI)."""
    recipe = choice.recipe
    if recipe.mode not in ("static", "dynamic") or recipe.reduce_range:
        return None
    return replace(choice, recipe=replace(recipe, reduce_range=True))


def _fixed_shapes(samples: SampleFacts) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    if samples.synthetic or not samples.uniform_shapes:
        return None
    return tuple(sorted(samples.uniform_shapes.items()))


def _notes(samples: SampleFacts) -> list[str]:
    notes = []
    if samples.synthetic:
        notes.append(
            "no samples were given: inputs were synthesised from the model's signature, recipes that "
            "need calibration were left out, and quality on real data is UNKNOWN; pass --samples"
        )
    elif samples.calibration_rows == 0:
        notes.append("too few samples to set some aside for calibration; give at least 2")
    if not samples.synthetic and samples.uniform_shapes is None:
        notes.append("the samples' shapes differ, so the deployed model keeps its dynamic shapes")
    return notes
