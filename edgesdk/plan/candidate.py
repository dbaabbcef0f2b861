"""Candidates and plans: frozen values that every later stage takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgesdk.cause import Cause
from edgesdk.files import sha256_json
from edgesdk.plan.cost import Prediction
from edgesdk.recipe import Recipe
from edgesdk.structural import Structure, form_name

ORIGINAL = "original"
"""The name of the baseline in tables: the float model as the user gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one component becomes: its recipe on its backend.

    Attributes:
        kept: names of nodes of the prepared graph that get `recipe.spared` instead, sorted.
        structure: structural steps that come before the recipe.
    """

    recipe: Recipe
    backend: str
    kept: tuple[str, ...] = ()
    structure: Structure = ()

    @property
    def form(self) -> str:
        """The steps and the recipe, by name, without the backend."""
        return form_name(self.structure, self.recipe)

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be there to make it, in words."""
        wants = list(self.recipe.needs)
        if any(step.needs_samples for step in self.structure):
            wants.insert(0, "calibration samples")
        if any(step.trains for step in self.structure):
            wants.append("edgesdk[train]")
        return tuple(dict.fromkeys(wants))

    @property
    def needs_calibration(self) -> bool:
        """Whether real samples are needed to make it."""
        return self.recipe.needs_calibration or any(step.needs_samples for step in self.structure)

    @property
    def name(self) -> str:
        """`backend/recipe`, steps before the recipe; with `+keepN-HASH` where N nodes are spared."""
        name = f"{self.backend}/{self.form}"
        if not self.kept:
            return name
        return f"{name}+keep{len(self.kept)}-{sha256_json(self.kept)[:4]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One choice for every component.

    Attributes:
        choices: component name and choice, in pipeline order.
        why: why it is worth trying, in a sentence.
    """

    choices: tuple[tuple[str, Choice], ...]
    why: str = ""

    @property
    def name(self) -> str:
        """`backend/recipe`, with `component=` before each where there are several."""
        if len(self.choices) == 1:
            return self.choices[0][1].name
        return "+".join(f"{component}={choice.name}" for component, choice in self.choices)

    @property
    def single(self) -> Choice:
        """The choice of a pipeline of one."""
        ((_, choice),) = self.choices
        return choice

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be there to make it, in words."""
        return tuple(dict.fromkeys(need for _, choice in self.choices for need in choice.needs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What to do instead of a rejected candidate.

    Attributes:
        name: the nearest legal candidate, or the rejected one itself where it only lacks something.
        options: what to add to the command line of `edgesdk deploy`.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A candidate that the plan ruled out before trying it, and why.

    Attributes:
        name: `backend/recipe`, or `backend/*` for a backend that cannot be used at all.
        reason: in a sentence.
        causes: the facts behind it; at least one.
        alternative: what to do instead, where there is something.
    """

    name: str
    reason: str
    causes: tuple[Cause, ...]
    alternative: Alternative | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        instead = self.alternative
        return {
            "name": self.name,
            "reason": self.reason,
            "causes": [cause.to_json() for cause in self.causes],
            "alternative": {"name": instead.name, "options": list(instead.options)}
            if instead
            else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Candidates worth trying, in order, and what was ruled out.

    Attributes:
        baseline: the float original on the first backend that runs it; everything is compared with it.
        candidates: best guesses first, the backends in turns; the baseline is not among them.
        rejected: each with its reason.
        shapes: fixed input shapes that the deployed form takes, or None where they stay dynamic.
        notes: what the user should know (no calibration data, a missing engine, …).
        predictions: by name, of the candidates and of the baseline (`ORIGINAL`); empty where the
            profile has no speeds.
    """

    baseline: Candidate
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    notes: tuple[str, ...] = ()
    predictions: tuple[tuple[str, Prediction], ...] = ()

    def prediction(self, name: str) -> Prediction | None:
        """What a candidate, or `ORIGINAL`, is expected to take."""
        return dict(self.predictions).get(name)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document; predictions where there are any."""
        told = {name: {"predicted": item.to_json()} for name, item in self.predictions}
        return {
            "baseline": self.baseline.name,
            **({"baseline_predicted": told[ORIGINAL]["predicted"]} if ORIGINAL in told else {}),
            "candidates": [
                {
                    "name": item.name,
                    "why": item.why,
                    "needs": list(item.needs),
                    **told.get(item.name, {}),
                }
                for item in self.candidates
            ],
            "rejected": [item.to_json() for item in self.rejected],
            "shapes": {name: list(shape) for name, shape in self.shapes} if self.shapes else None,
            "notes": list(self.notes),
        }
