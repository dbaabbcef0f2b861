"""The search for culprits: right, near-minimal and within its limit of checks, whatever the ranking."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.errors import InputError
from edgesdk.plan.culprits import Culprits, find_culprits, most_evaluations


class AdditiveCheck:
    """Passes while the damages of all nodes that are not kept sum up to little enough."""

    def __init__(self, damages: dict[str, float], most: float) -> None:
        self.damages = damages
        self.most = most
        self.asked: list[frozenset[str]] = []

    def __call__(self, kept: frozenset[str]) -> bool:
        self.asked.append(kept)
        return self.passes(kept)

    def passes(self, kept: frozenset[str]) -> bool:
        return sum(d for node, d in self.damages.items() if node not in kept) <= self.most


def _faults(count: int, culprits: set[int], harmless: float = 0.01) -> AdditiveCheck:
    """Each culprit alone fails the check; all others together do not."""
    damages = {f"n{i}": 1.0 if i in culprits else harmless / count for i in range(count)}
    return AdditiveCheck(damages, most=0.5)


def _ranked(check: AdditiveCheck) -> list[str]:
    return sorted(check.damages, key=lambda node: -check.damages[node])


@st.composite
def faults(draw: st.DrawFn, most: int) -> tuple[int, set[int]]:
    count = draw(st.integers(1, 400))
    return count, draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=most))


@given(faults(most=3))
@settings(deadline=None)
def test_a_right_ranking_finds_exactly_the_culprits(case: tuple[int, set[int]]) -> None:
    count, culprits = case
    check = _faults(count, culprits)
    found = find_culprits(_ranked(check), check)
    assert found.keep is not None
    assert {int(node[1:]) for node in found.keep} == culprits
    assert found.minimal
    assert len(check.asked) == len(found.evaluations) <= most_evaluations(count)


@given(faults(most=1), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_one_culprit_is_found_alone_under_any_ranking(
    case: tuple[int, set[int]], rng: random.Random
) -> None:
    count, culprits = case
    check = _faults(count, culprits)
    ranked = sorted(check.damages)
    rng.shuffle(ranked)
    found = find_culprits(ranked, check)
    assert found.keep == (f"n{culprits.pop()}",)
    assert found.minimal
    assert len(found.evaluations) <= math.ceil(math.log2(count)) + 8


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200),
    st.floats(0.0, 0.99),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)  # others use the machine
def test_any_damages_and_any_ranking(
    damages: list[float], share: float, rng: random.Random
) -> None:
    total = sum(damages)
    check = AdditiveCheck({f"n{i}": d for i, d in enumerate(damages)}, most=share * total)
    ranked = list(check.damages)
    rng.shuffle(ranked)
    if check.passes(frozenset()):
        return
    found = find_culprits(ranked, check)
    _hold_together(found, check, ranked)
    assert found.keep is not None
    assert check.passes(frozenset(found.keep))
    if found.minimal:
        assert all(not check.passes(frozenset(found.keep) - {node}) for node in found.keep)


def test_a_wrong_ranking_with_several_culprits_ends_at_the_limit_with_a_set_that_passes() -> None:
    check = _faults(300, {7, 90, 180, 299})
    found = find_culprits([f"n{i}" for i in range(300)], check)
    _hold_together(found, check, [f"n{i}" for i in range(300)])
    assert found.keep is not None
    assert not found.minimal
    assert {"n7", "n90", "n180", "n299"} <= set(found.keep)
    patient = find_culprits([f"n{i}" for i in range(300)], check, limit=100)
    assert patient.keep == ("n7", "n90", "n180", "n299")
    assert patient.minimal


def test_damage_that_is_spread_over_many_nodes_ends_the_search_early() -> None:
    """Sixty equal damages, of which half may stay: no smaller set than the shortest front exists."""
    check = AdditiveCheck({f"n{i}": 1.0 for i in range(60)}, most=30.0)
    found = find_culprits(_ranked(check), check)
    assert found.keep is not None
    assert len(found.keep) == 30
    assert not found.minimal
    assert len(found.evaluations) <= most_evaluations(60) - 3


def test_a_set_that_is_not_worth_shrinking_is_taken_as_it_is() -> None:
    check = _faults(100, {3, 40})
    ranked = [f"n{i}" for i in range(100)]
    found = find_culprits(ranked, check, worth_shrinking=lambda kept: len(kept) > 60)
    assert found.keep is not None
    assert 41 <= len(found.keep) <= 60
    assert not found.minimal
    assert found.evaluations[-1].good, "it ends with the first that is small enough"
    assert sum(one.good for one in found.evaluations) == 1


def test_a_fault_that_lies_elsewhere_is_said_so() -> None:
    found = find_culprits([f"n{i}" for i in range(50)], lambda kept: False)
    assert found.keep is None
    assert not found.minimal
    assert found.evaluations[-1].kept == tuple(f"n{i}" for i in range(50))
    assert len(found.evaluations) <= most_evaluations(50)


@pytest.mark.parametrize("seed", range(30))
def test_a_check_that_contradicts_itself_still_ends(seed: int) -> None:
    rng = random.Random(seed)
    passed: list[frozenset[str]] = []

    def is_good(kept: frozenset[str]) -> bool:
        good = rng.random() < 0.5
        if good:
            passed.append(kept)
        return good

    found = find_culprits([f"n{i}" for i in range(40)], is_good)
    assert len(found.evaluations) <= most_evaluations(40)
    assert found.keep is None or frozenset(found.keep) in passed


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="each once"):
        find_culprits([], lambda kept: True)
    with pytest.raises(InputError, match="each once"):
        find_culprits(["a", "a"], lambda kept: True)
    with pytest.raises(InputError, match="3 checks for 64 nodes; legal: 11 and more"):
        find_culprits([f"n{i}" for i in range(64)], lambda kept: True, limit=3)


def _hold_together(found: Culprits, check: AdditiveCheck, ranked: list[str]) -> None:
    """Within the limit, no set twice, never the empty one, and every check is on record."""
    assert len(check.asked) <= most_evaluations(len(ranked))
    assert [frozenset(item.kept) for item in found.evaluations] == check.asked
    assert len(set(check.asked)) == len(check.asked)
    assert frozenset() not in check.asked
