"""Names of structural steps, and of recipes behind them."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.errors import RecipeError
from edgesdk.recipe import Recipe
from edgesdk.structural import Importance, Step, Structure, form_name, parse_form, parse_step

shares = st.integers(1, 95)
healed = st.booleans()
steps = st.tuples(
    st.none()
    | st.builds(
        Step,
        kind=st.just("prune"),
        share=shares,
        importance=st.sampled_from(get_args(Importance)),
        healed=healed,
    ),
    st.none() | st.builds(Step, kind=st.just("rank"), share=shares, healed=healed),
    st.none()
    | st.builds(Step, kind=st.just("sparse"), share=shares, healed=healed)
    | st.builds(Step, kind=st.just("sparse2of4"), healed=healed),
    st.none() | st.builds(Step, kind=st.just("distill"), labels=st.booleans()),
).map(lambda found: tuple(step for step in found if step))
recipes = st.sampled_from(["fp32", "bf16", "fp32-w16", "w8a8-static-nncf-bf16", "w4b32-only"])


@given(structure=steps, recipe=recipes)
def test_a_name_decodes_to_what_it_was_made_of(structure: Structure, recipe: str) -> None:
    name = form_name(structure, Recipe.parse(recipe))
    assert parse_form(name) == (structure, Recipe.parse(recipe))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prune", "no structural step 'prune'"),
        ("prune0", "no structural step"),
        ("prune96", "legal: 1 to 95"),
        ("prune100", "no structural step"),
        ("rank30-l1", "takes no importance"),
        ("distill-raw", "itself what heals"),
        ("sparse2of4-taylor", "takes no importance"),
        ("prune30-labels", "takes no labels"),
        ("distill-labels-raw", "itself what heals"),
        ("prune30-raw-l1", "no structural step"),
    ],
)
def test_a_step_without_meaning_is_refused(name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_step(name)


@pytest.mark.parametrize("name", ["rank20+prune30", "prune30+prune20", "sparse50+sparse2of4"])
def test_steps_come_once_and_in_order(name: str) -> None:
    with pytest.raises(RecipeError, match="each once and in this order"):
        parse_form(f"{name}+fp32")


def test_what_a_step_needs_is_known() -> None:
    assert parse_step("prune30").needs_samples
    assert not parse_step("prune30-raw").needs_samples
    assert parse_step("prune30-activation-raw").needs_samples
    assert parse_step("rank30-raw").needs_samples
    assert parse_step("prune30-taylor").trains
    assert parse_step("distill").trains
    assert not parse_step("sparse2of4").trains
