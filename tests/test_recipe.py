from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.errors import RecipeError
from edgesdk.recipe import Execution, Granularity, Mode, Quantizer, Ranges, Recipe

_VALUES: dict[str, tuple[Any, ...]] = {
    "mode": get_args(Mode),
    "weight_bits": (32, 16, 8, 4),
    "activation_bits": (32, 16, 8),
    "block": (None, 32),
    "quantizer": get_args(Quantizer),
    "granularity": get_args(Granularity),
    "ranges": get_args(Ranges),
    "execution": get_args(Execution),
}
_SETTINGS = {field.name: _VALUES.get(field.name, (False, True)) for field in fields(Recipe)}


def _legal(settings: dict[str, Any]) -> Recipe | None:
    try:
        return Recipe(**settings)
    except RecipeError:
        return None


ALL = tuple(
    recipe
    for values in itertools.product(*_SETTINGS.values())
    if (recipe := _legal(dict(zip(_SETTINGS, values, strict=True)))) is not None
)
recipes = st.sampled_from(ALL)


def test_every_name_decodes_to_the_recipe_it_names() -> None:
    assert all(Recipe.parse(recipe.name) == recipe for recipe in ALL)


def test_no_two_recipes_share_a_name() -> None:
    assert len({recipe.name for recipe in ALL}) == len(ALL)


def test_every_setting_matters_to_some_recipe() -> None:
    for name, values in _SETTINGS.items():
        assert {getattr(recipe, name) for recipe in ALL} == set(values)


@given(st.text(alphabet="wab0123456789-fpdynamicstol", max_size=30))
def test_any_text_decodes_to_its_own_name_or_is_refused(text: str) -> None:
    try:
        recipe = Recipe.parse(text)
    except RecipeError as refusal:
        assert text in str(refusal)  # noqa: PT017
    else:
        assert recipe.name == text


@given(recipes, st.data())
def test_options_out_of_order_or_repeated_are_refused(recipe: Recipe, data: st.DataObject) -> None:
    head, *options = recipe.name.split("-")
    if len(options) < 2:
        return
    shuffled = data.draw(st.permutations(options))
    name = "-".join((head, *shuffled))
    if name != recipe.name:
        with pytest.raises(RecipeError):
            Recipe.parse(name)
    with pytest.raises(RecipeError):
        Recipe.parse(f"{recipe.name}-{options[-1]}")


@given(recipes)
def test_what_is_stored_does_not_depend_on_how_it_is_executed(recipe: Recipe) -> None:
    stored = recipe.stored
    assert stored.stored == stored
    if recipe.mode != "float":
        assert {replace(recipe, execution=e).stored for e in get_args(Execution)} == {stored}


def test_a_float16_graph_is_not_stored_as_a_float32_one() -> None:
    assert Recipe.parse("fp16").stored != Recipe.parse("fp32").stored
    assert Recipe.parse("bf16").stored == Recipe.parse("fp32").stored


@given(recipes)
def test_only_calibrated_recipes_need_samples(recipe: Recipe) -> None:
    assert recipe.needs_calibration == (recipe.mode == "static" or recipe.smooth or recipe.qat)
    assert ("calibration samples" in recipe.needs) == recipe.needs_calibration
    assert recipe.needs_ranges == (recipe.mode == "static" and recipe.quantizer == "ort")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("w8a8-dynamic-nncf", "no dynamic"),
        ("w4-only", "need a block"),
        ("w8b32a8-static", "need mode 'only'"),
        ("w4b33-only", "legal: 16, 32"),
        ("w8a8-static-mixed", "need 'nncf'"),
        ("w8a16-static-nncf", "8 bits"),
        ("w8a8-static-nncf-weighted", "takes no 'weighted'"),
        ("w8a8-static-nncf-mse", "takes no 'weighted'.*or 'mse'"),
        ("w8-only-reduce", "7-bit"),
        ("w8-only-smooth", "mode 'only' has none"),
        ("w8a8-static-nncf-smooth", "smooths by itself"),
        ("w8a8-static-tensor-smooth", "a weight scale per channel"),
        ("w8a8-dynamic-qat", "mode 'dynamic' has none"),
        ("w4b32-only-qat", "with 'nncf' only"),
        ("w8a8-dynamic-percentile", "need mode 'static'"),
        ("w8a16-dynamic", "activations of 8 bits"),
        ("fp32-w8", "'-w16'"),
        ("int8", "a name looks like"),
        ("", "a name looks like"),
        ("w8a8-static-best", "'best' is unknown"),
    ],
)
def test_a_wrong_name_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        Recipe.parse(name)
