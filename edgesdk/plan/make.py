"""Making the plan: what is worth trying on a device, in order, and what is ruled out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from edgesdk.budget import Budget
from edgesdk.cause import Cause, reason
from edgesdk.errors import BackendUnavailable, ModelError
from edgesdk.model import Model
from edgesdk.pipeline import SINGLE, Pipeline
from edgesdk.plan.alternatives import nearest
from edgesdk.plan.candidate import Alternative, Candidate, Choice, Plan, Rejected
from edgesdk.plan.catalogue import recipes_worth_trying
from edgesdk.plan.engine import (
    Engine,
    EngineFacts,
    against_choice,
    against_engine,
    against_model,
)
from edgesdk.plan.sparsity import against_zeros
from edgesdk.profile_values import Profile
from edgesdk.recipe import Recipe
from edgesdk.structural import parse_form

__all__ = ["Engine", "EngineFacts", "SampleFacts", "make_plan"]

_REFERENCE = "onnxruntime"
"""Runs the float original where no runtime of the device computes in float."""
_SAMPLES = Alternative(name="", options=("--samples", "SAMPLES"))
_SMALLER = Alternative(name="", options=("--objective", "size"))
"""What makes a recipe worth trying that only lacks something."""


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
        engines: the backends to consider, in order; the first usable one that computes in float runs
            the baseline.
        samples: what is known of the samples.
        budget: whether a smaller form is worth anything by itself.
        only: recipe names, with structural steps before them where wanted, or `backend/recipe`, to try
            instead of the catalogue's.
        fix_shapes: deploy with the shapes of the samples where these are all equal.

    Raises:
        BackendUnavailable: no engine is usable; every reason is in the message.
        ModelError: no usable engine's version on the device reads the model.
        RecipeError: a name in `only` does not decode.
    """
    model = pipeline.single.model
    asked = _Asked(model=model, profile=profile, samples=samples, budget=budget, only=only)
    usable, unusable = _usable(engines, asked)
    baseline = _candidate(_original(usable, asked), "the float original")
    drafts = [_draft(engine, asked) for engine in usable]
    candidates = tuple(_in_turns([draft.candidates for draft in drafts]))
    refused = [item for draft in drafts for item in draft.refused]
    return Plan(
        baseline=baseline,
        candidates=candidates,
        rejected=(
            *unusable,
            *(_rejected(choice, causes, usable, candidates, asked) for choice, causes in refused),
        ),
        shapes=_fixed_shapes(samples) if fix_shapes else None,
        notes=tuple(_notes(samples)),
    )


def _original(usable: Sequence[Engine], asked: _Asked) -> Choice:
    """The float original on the first engine that computes in float, else beside the device."""
    choices = [Choice(recipe=Recipe(), backend=engine.name) for engine in usable]
    legal = [
        choice
        for choice, engine in zip(choices, usable, strict=True)
        if not against_choice(choice, engine, asked.profile)
    ]
    return next(iter(legal), Choice(recipe=Recipe(), backend=_REFERENCE))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a plan is made for."""

    model: Model
    profile: Profile
    samples: SampleFacts
    budget: Budget
    only: Sequence[str]

    @property
    def calibration(self) -> bool:
        return self.samples.calibration_rows > 0

    @property
    def wants_small(self) -> bool:
        limited = any(limit.quantity in ("size", "memory") for limit in self.budget.limits)
        return limited or self.budget.objective in ("size", "memory")


_Refused = tuple[Choice, tuple[Cause, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """What there is to try on one engine, best guess first, and what not."""

    candidates: tuple[Candidate, ...]
    refused: tuple[_Refused, ...]


def _usable(engines: Sequence[Engine], asked: _Asked) -> tuple[list[Engine], list[Rejected]]:
    """The engines that can be used for the model, and the others.

    Raises:
        BackendUnavailable, ModelError: as `make_plan`.
    """
    usable: list[Engine] = []
    rejected: list[Rejected] = []
    unreadable = 0
    for engine in engines:
        causes = against_engine(engine, asked.profile)
        said = reason(causes, asked.profile.name)
        if not causes:
            causes = against_model(engine, asked.profile, asked.model)
            unreadable += bool(causes)
            said = causes[0].why if causes else ""
        if causes:
            rejected.append(Rejected(name=f"{engine.name}/*", reason=said, causes=causes))
        else:
            usable.append(engine)
    if not usable:
        name = asked.profile.name
        reasons = "; ".join(f"{item.name[:-2]}: {item.reason}" for item in rejected)
        if unreadable and unreadable == len(rejected):
            raise ModelError(f"no runtime of profile {name!r} reads this model: {reasons}")
        raise BackendUnavailable(f"no usable backend for profile {name!r}: {reasons}")
    return usable, rejected


def _draft(engine: Engine, asked: _Asked) -> _Draft:
    """What to try on one engine: of the user's choices, or of the catalogue's."""
    wanted, refused = _wanted(engine, asked) if asked.only else _suggested(engine, asked)
    found: dict[Choice, str] = {}
    for choice, why in wanted:
        idle = () if asked.wants_small else against_zeros(choice, asked.profile)
        if idle:
            refused.append((choice, idle))
            continue
        causes = against_choice(choice, engine, asked.profile)
        if not causes:
            found.setdefault(choice, why)
            continue
        refused.append((choice, causes))
        careful = _without_saturation(choice)
        if careful and not against_choice(careful, engine, asked.profile):
            found.setdefault(careful, f"{why}; 7-bit weights cannot saturate here")
    return _Draft(
        candidates=tuple(_candidate(choice, why) for choice, why in found.items()),
        refused=tuple(refused),
    )


def _suggested(engine: Engine, asked: _Asked) -> tuple[list[tuple[Choice, str]], list[_Refused]]:
    suggestions, ruled_out = recipes_worth_trying(
        backend=engine.name,
        ops=asked.model.op_histogram,
        calibration=asked.calibration,
        storage=asked.wants_small,
    )
    plain = (Choice(recipe=Recipe(), backend=engine.name), "the float model, graph cleaned")
    return (
        [plain, *((Choice(recipe=s.recipe, backend=engine.name), s.why) for s in suggestions)],
        [(Choice(recipe=r.recipe, backend=engine.name), (r.cause,)) for r in ruled_out],
    )


def _wanted(engine: Engine, asked: _Asked) -> tuple[list[tuple[Choice, str]], list[_Refused]]:
    chosen: list[tuple[Choice, str]] = []
    refused: list[_Refused] = []
    for wanted in asked.only:
        backend, _, name = wanted.rpartition("/")
        if backend not in ("", engine.name):
            continue
        structure, recipe = parse_form(name)
        choice = Choice(recipe=recipe, backend=engine.name, structure=structure)
        if choice.needs_calibration and not asked.calibration:
            why = "needs calibration samples, and there are none"
            refused.append((choice, (_no_rows(why),)))
        else:
            chosen.append((choice, "asked for"))
    return chosen, refused


def _no_rows(why: str) -> Cause:
    return Cause(kind="samples", key="calibration_rows", value=0, why=why)


def _in_turns(lists: Sequence[Sequence[Candidate]]) -> Iterator[Candidate]:
    """The first of every engine, then the second of every one: the best guesses come early."""
    turns = chain.from_iterable(zip_longest(*lists))
    return (candidate for candidate in turns if candidate is not None)


def _candidate(choice: Choice, why: str) -> Candidate:
    return Candidate(choices=((SINGLE, choice),), why=why)


def _rejected(
    choice: Choice,
    causes: tuple[Cause, ...],
    usable: Sequence[Engine],
    candidates: Sequence[Candidate],
    asked: _Asked,
) -> Rejected:
    """A choice that was ruled out, with what to do instead."""
    told = tuple(
        replace(cause, value=asked.budget.objective) if cause.kind == "budget" else cause
        for cause in causes
    )
    return Rejected(
        name=choice.name,
        reason=reason(told, asked.profile.name),
        causes=told,
        alternative=_alternative(choice, told, usable, candidates, asked),
    )


def _alternative(
    choice: Choice,
    causes: tuple[Cause, ...],
    usable: Sequence[Engine],
    candidates: Sequence[Candidate],
    asked: _Asked,
) -> Alternative | None:
    """What to give, or the nearest choice that works; None where the model itself speaks against it."""
    kinds = {cause.kind for cause in causes}
    if "model" in kinds:
        return None
    if "samples" in kinds:
        return replace(_SAMPLES, name=choice.name)
    if "budget" in kinds:
        return replace(_SMALLER, name=choice.name)
    planned = {candidate.name for candidate in candidates}
    by_name = {engine.name: engine for engine in usable}

    def is_legal(other: Choice) -> bool:
        if other.name in planned or "catalogue" in kinds:
            return other.name in planned  # what the catalogue did not suggest, it does not advise
        if other.needs_calibration and not asked.calibration:
            return False
        return not against_choice(other, by_name[other.backend], asked.profile)

    found = nearest(choice, tuple(by_name), is_legal)
    return Alternative(name=found.name, options=("--recipe", found.name)) if found else None


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
