"""Structural steps: parameters removed, factored or set to zero before a recipe is applied.

    name      := (step "+")* recipe            edgesdk.recipe has the grammar of recipes
    step      := "prune" share importance? raw?   whole channels, heads and hidden units go
               | "rank" share raw?             matrices and convolutions become two thin ones
               | "sparse" share raw?           single weights become zero
               | "sparse2of4" raw?             two of four in a row become zero
               | "distill" ["-labels"]         what is left learns from the original (edgesdk[train]),
                                               and from the labels of the calibration rows
    share     := 1 to 95                       percent of the model's parameters that are saved; of
                                               `sparse`, of the weights of each layer
    importance := "-l1" | "-l2" | "-activation" | "-taylor"   by what units are ranked, else by their
                                               share of the weights that read them
    raw       := "-raw"                        not healed: the next layers are not fitted anew

A step comes once, in this order. So `prune30+w8a8-static` is: 30 % of the parameters removed in whole
units, the layers after them fitted anew to what the original computes, then int8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgesdk.errors import RecipeError
from edgesdk.recipe import Recipe

Kind = Literal["prune", "rank", "sparse", "sparse2of4", "distill"]
Importance = Literal["weights", "l1", "l2", "activation", "taylor"]

_ORDER: tuple[tuple[Kind, ...], ...] = (
    ("prune",),
    ("rank",),
    ("sparse", "sparse2of4"),
    ("distill",),
)
_STEP = re.compile(
    r"(?:(?P<shared>prune|rank|sparse)(?P<share>[1-9]\d?)|(?P<plain>sparse2of4|distill))"
    r"(?:-(?P<importance>l1|l2|activation|taylor))?(?P<labels>-labels)?(?P<raw>-raw)?"
)
_MOST = 95
FEWEST_ROWS = 10
"""Calibration rows that healing needs at least: some are fitted, the others judge it."""
_EXAMPLES = "prune30, prune50-taylor, rank25, sparse50, sparse2of4, distill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One structural step; `name` is canonical.

    Attributes:
        kind: what is done.
        share: percent of the model's parameters that it saves (of `sparse`, of each layer's weights that
            become zero), 1 to 95; None where that follows.
        importance: which units of `prune` go first.
        healed: the layers after it are fitted anew to what the original computes.
        labels: `distill` learns the labels of its rows as well, which are classes then.
    """

    kind: Kind
    share: int | None = None
    importance: Importance = "weights"
    healed: bool = True
    labels: bool = False

    def __post_init__(self) -> None:
        """Refuse a combination that means nothing.

        Raises:
            RecipeError: names what contradicts.
        """
        shared = self.kind in ("prune", "rank", "sparse")
        if shared and not (self.share is not None and 1 <= self.share <= _MOST):
            raise RecipeError(f"{self.kind} of {self.share} %; legal: 1 to {_MOST}")
        if not shared and self.share is not None:
            raise RecipeError(f"{self.kind} takes no share")
        if self.importance != "weights" and self.kind != "prune":
            raise RecipeError(f"{self.kind} takes no importance; only prune does")
        if self.labels and self.kind != "distill":
            raise RecipeError(f"{self.kind} takes no labels; only distill does")
        if self.kind == "distill" and not self.healed:
            raise RecipeError("'distill-raw' would be nothing: it is itself what heals")

    @property
    def name(self) -> str:
        """The canonical name."""
        share = "" if self.share is None else str(self.share)
        importance = "" if self.importance == "weights" else f"-{self.importance}"
        labels = "-labels" if self.labels else ""
        return f"{self.kind}{share}{importance}{labels}{'' if self.healed else '-raw'}"

    @property
    def needs_samples(self) -> bool:
        """Whether real inputs are needed for it."""
        return self.healed or self.kind == "rank" or self.importance in ("activation", "taylor")

    @property
    def trains(self) -> bool:
        """Whether it needs `edgesdk[train]`."""
        return self.kind == "distill" or self.importance == "taylor"


Structure = tuple[Step, ...]


def parse_step(name: str) -> Step:
    """The step that a name stands for.

    Raises:
        RecipeError: it does not follow the grammar at the top of this module.
    """
    match = _STEP.fullmatch(name)
    if not match:
        raise RecipeError(f"no structural step {name!r}; a name looks like: {_EXAMPLES}")
    return Step(
        kind=match["shared"] or match["plain"],  # type: ignore[arg-type]
        share=int(match["share"]) if match["share"] else None,
        importance=match["importance"] or "weights",  # type: ignore[arg-type]
        healed=not match["raw"],
        labels=bool(match["labels"]),
    )


def parse_form(name: str) -> tuple[Structure, Recipe]:
    """Structural steps and the recipe after them; no steps where a recipe stands alone.

    Raises:
        RecipeError: a part has no meaning, or a step is out of order or comes twice.
    """
    *steps, recipe = name.split("+")
    structure = tuple(parse_step(step) for step in steps)
    check_order(structure)
    return structure, Recipe.parse(recipe)


def form_name(structure: Structure, recipe: Recipe) -> str:
    """The name of both; `parse_form` reads it."""
    return "+".join((*(step.name for step in structure), recipe.name))


def check_order(structure: Structure) -> None:
    """Refuse steps that are out of order or come twice.

    Raises:
        RecipeError: names the steps.
    """
    places = [next(n for n, kinds in enumerate(_ORDER) if step.kind in kinds) for step in structure]
    if places != sorted(set(places)):
        legal = ", ".join("|".join(kinds) for kinds in _ORDER)
        told = "+".join(step.name for step in structure)
        raise RecipeError(f"steps {told!r}: each once and in this order: {legal}")
