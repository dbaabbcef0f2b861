"""The nearest form of a ruled-out choice that the device and its engines can run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from edgesdk.errors import RecipeError
from edgesdk.plan.candidate import Choice
from edgesdk.recipe import EXECUTIONS, Recipe

_COSTS = {"reduce_range": 1, "symmetric": 1, "activation_bits": 4, "execution": 8}
"""How far a change of one field goes: how numbers are rounded, how many they are, what computes."""
_OTHER_BACKEND = 2


def nearest(
    choice: Choice, backends: Sequence[str], is_legal: Callable[[Choice], bool]
) -> Choice | None:
    """The legal choice that differs least from one that is not, or None.

    What may change: 7-bit weights, symmetric activations, 8-bit instead of 16-bit activations, the
    execution type, the backend. The kind of recipe stays.

    Args:
        choice: what was ruled out.
        backends: where it might run instead, in order of preference.
        is_legal: what rules out.
    """
    found = sorted(_variants(choice, backends), key=lambda pair: pair[0])
    return next((variant for distance, variant in found if distance and is_legal(variant)), None)


def _variants(choice: Choice, backends: Sequence[str]) -> list[tuple[int, Choice]]:
    recipe = choice.recipe
    integer = recipe.mode in ("static", "dynamic")
    options: dict[str, Sequence[object]] = {
        "reduce_range": (False, True) if integer else (False,),
        "symmetric": (recipe.symmetric, True) if recipe.mode == "static" else (False,),
        "activation_bits": (recipe.activation_bits, 8) if integer else (32,),
        "execution": tuple(dict.fromkeys((recipe.execution, "fp32", *EXECUTIONS))),
    }
    found = []
    for backend, *values in product(dict.fromkeys((choice.backend, *backends)), *options.values()):
        changed = {
            name: value
            for name, value in zip(options, values, strict=True)
            if value != getattr(recipe, name)
        }
        variant = _changed(recipe, changed)
        if variant is not None:
            distance = sum(_COSTS[name] for name in changed)
            distance += _OTHER_BACKEND * (backend != choice.backend)
            found.append((distance, replace(choice, recipe=variant, backend=backend)))
    return found


def _changed(recipe: Recipe, changed: dict[str, object]) -> Recipe | None:
    """The recipe with other fields, or None where they contradict the rest."""
    try:
        return replace(recipe, **changed)  # type: ignore[arg-type]
    except RecipeError:
        return None
