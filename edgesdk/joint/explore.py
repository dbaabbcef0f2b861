"""Each component by itself: its candidates made, compared and measured on what the pipeline gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from edgesdk.bench import Bench, Built, Original, Prepared, Trial
from edgesdk.budget import Budget, Floor
from edgesdk.decide import quality_loss
from edgesdk.events import Event, Listener
from edgesdk.joint.allocate import Option, undominated
from edgesdk.making import prepare_model
from edgesdk.measure.result import Measurement
from edgesdk.model import Model
from edgesdk.pipeline import Component
from edgesdk.plan.candidate import ORIGINAL, Candidate, Plan
from edgesdk.trial import measure_original, open_original, try_candidate

MOST_FORMS = 8
"""Forms of one component that are run in the whole pipeline; more are thinned to the fastest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of a component that can be taken.

    Attributes:
        name: `original` or `backend/recipe`.
        candidate: what it is.
        built: its artifact.
        ms: of a run on the rows that the pipeline gives it: the original's time, by the ratio of both.
        loss: how far its outputs are from the original's on these rows: 1 - cosine of the worst.
    """

    name: str
    candidate: Candidate
    built: Built
    ms: float
    bytes: int
    loss: float
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """What was found out about a component.

    Attributes:
        plan, bench: of its own, with its own rows.
        prepared: the graph that its recipes start from.
        original: the float form that everything is compared with.
        trials: of all candidates.
        forms: the original first; then all that can be taken, by their names.
    """

    component: Component
    plan: Plan
    bench: Bench
    prepared: Prepared
    original: Original
    trials: tuple[Trial, ...]
    forms: Mapping[str, Form]

    @property
    def name(self) -> str:
        """Of the component."""
        return self.component.name

    @property
    def worth(self) -> tuple[Form, ...]:
        """The forms worth running in the pipeline: none is beaten in time, bytes and closeness at once."""
        options = [
            Option(name=name, ms=form.ms, bytes=form.bytes, damages={"loss": form.loss})
            for name, form in self.forms.items()
        ]
        good = [self.forms[option.name] for option in undominated(options)]
        good = [form for form in good if form.name != ORIGINAL]
        return tuple(sorted(good, key=lambda form: form.ms)[:MOST_FORMS])


def any_closeness(model: Model) -> tuple[Floor, ...]:
    """Floors that everything finite keeps: what a component may lose, the pipeline's outputs tell."""
    found = []
    for info in model.outputs:
        quantity = "cosine" if info.dtype.startswith("float") else "agreement"
        text = f"{info.name}.{quantity}=0"
        floor = Floor(quantity=quantity, output=info.name, kind="value", bound=0.0, text=text)
        found.append(floor)
    return tuple(found)


def named(listen: Listener, component: str) -> Listener:
    """A listener whose events say which component they are about."""
    return lambda event: listen(replace(event, subject=f"{component} {event.subject}".strip()))


def explore(bench: Bench, component: Component, plan: Plan) -> Explored:
    """Make and measure every candidate of a component beside its float original.

    Args:
        bench: of this component: its model, its rows, and a budget without limits.
        component: which one.
        plan: its candidates.

    Raises:
        ModelError: its float original does not run.
    """
    original = open_original(bench, plan)
    prepared = prepare_model(bench, plan)
    trials: list[Trial] = []
    befores: list[Measurement] = []
    total = len(plan.candidates)
    for candidate in plan.candidates:
        hopeless = bench.settings.hopeless
        trial, before = try_candidate(bench, candidate, original, prepared, hopeless=hopeless)
        trials.append(trial)
        befores += [before] if before else []
        bench.listen(Event(stage="try", state="begin", done=len(trials), total=total))
    befores = befores or [measure_original(bench, original)]
    base = befores[0]
    base_ms = float(median(item.timed.mean_ms for item in befores))
    forms = {
        ORIGINAL: Form(
            name=ORIGINAL,
            candidate=plan.baseline,
            built=original.built,
            ms=base_ms,
            bytes=base.artifact_bytes,
            loss=0.0,
            measurement=base,
        )
    }
    for trial in trials:
        measured, built = trial.outcome.measurement, trial.built
        if measured is None or built is None or trial.outcome.error:
            continue
        forms[trial.outcome.name] = Form(
            name=trial.outcome.name,
            candidate=trial.outcome.candidate,
            built=built,
            ms=base_ms / measured.speedup.value,
            bytes=measured.artifact_bytes,
            loss=max(0.0, quality_loss(trial.outcome)),
            measurement=measured,
        )
    return Explored(
        component=component,
        plan=plan,
        bench=bench,
        prepared=prepared,
        original=original,
        trials=tuple(trials),
        forms=forms,
    )


def without_limits(budget: Budget, model: Model) -> Budget:
    """The budget of a component: no limits, no floors of its own, the pipeline's objective."""
    return replace(budget, limits=(), floors=any_closeness(model))


def each_alone(explored: Sequence[Explored], objective: str, close: float) -> dict[str, Form]:
    """What deploying each component by itself would take: its best form whose own outputs stay close."""
    return {
        item.name: min(
            (form for form in item.forms.values() if form.loss <= close),
            key=lambda form: _first(form, objective),
        )
        for item in explored
    }


def uniform(explored: Sequence[Explored], objective: str) -> dict[str, Form] | None:
    """One 8-bit recipe on one backend for all components: the best of those that most of them take.

    A component that does not take it stays as the same backend runs its float form, or as it was.
    """
    offers: dict[str, int] = {}
    for item in explored:
        for form in item.forms.values():
            choice = form.candidate.single
            if choice.recipe.mode != "float" and choice.recipe.weight_bits == 8:
                offers[form.name] = offers.get(form.name, 0) + 1
    best: tuple[tuple[float, ...], dict[str, Form]] | None = None
    for name, count in offers.items():
        backend = name.partition("/")[0]
        taken = {item.name: _uniform_form(item, name, backend) for item in explored}
        costs = np.sum([_first(form, objective) for form in taken.values()], axis=0)
        key = (-float(count), *map(float, costs))
        if best is None or key < best[0]:
            best = key, taken
    return best[1] if best else None


def _uniform_form(item: Explored, name: str, backend: str) -> Form:
    return item.forms.get(name) or item.forms.get(f"{backend}/fp32") or item.forms[ORIGINAL]


def _first(form: Form, objective: str) -> tuple[float, ...]:
    """Smaller is better."""
    if objective in ("size", "memory"):
        return (float(form.bytes), form.ms)
    if objective == "quality":
        return (form.loss if math.isfinite(form.loss) else 1.0, form.ms)
    return (form.ms, float(form.bytes))
