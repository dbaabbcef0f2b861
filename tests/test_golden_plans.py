"""Plans for all shipped profiles and reference models are as stored; a change of them is reviewed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgesdk.model import Model
from tools.golden_plans import (
    GOLDEN,
    REWRITE,
    SETTINGS,
    difference,
    facts,
    models,
    profiles,
    replay,
)


@pytest.fixture(scope="module")
def known() -> Mapping[str, Model]:
    return models()


@pytest.mark.parametrize("profile", profiles())
def test_the_plans_for_a_profile_are_as_stored(profile: str, known: Mapping[str, Model]) -> None:
    changed = difference(profile, known)
    if changed:
        pytest.fail(
            f"{changed}\nIf this is meant, run `{REWRITE}` and review the difference", pytrace=False
        )


def test_nothing_is_stored_that_no_profile_or_model_stands_for() -> None:
    assert {file.stem for file in (GOLDEN / "plans").iterdir()} == set(profiles())
    assert len(models()) >= 7


def test_facts_of_a_model_come_back_as_they_were(known: Mapping[str, Model]) -> None:
    for model in known.values():
        assert facts(model)["ops"] == dict(sorted(model.op_histogram.items()))
        assert model.parameters > 0
        assert model.inputs


def test_every_case_is_in_exactly_one_order_or_failure(known: Mapping[str, Model]) -> None:
    for profile in profiles():
        document = replay(profile, {"minilm": known["minilm"]})
        rows = [*document.get("order", ()), *document.get("fails", ())]
        spelt = [word for row in rows for word in row["in"]]
        assert spelt == ["all"] or sorted(spelt) == sorted(SETTINGS)
