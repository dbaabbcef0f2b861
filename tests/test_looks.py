"""Repeated looks: what they may decide, and how often they are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.bounds import VERDICT_TAIL, Tails, rate_bounds
from edgesdk.budget import parse_floor
from edgesdk.closeness import OutputRecord
from edgesdk.comparison import Comparison, MetricRecord, Record, merge
from edgesdk.figures import Figure, change_figure, cosine_figure
from edgesdk.looks import FIRST_ROWS, Look, plan_looks, shuffled
from edgesdk.metrics import load_metric
from edgesdk.quality import Verdict, judge
from edgesdk.statistics import Floats

TOP1 = load_metric("top1")
ROWS, TRIALS = 1024, 400
SURE = 1e-3
"""Chance that a simulation of an honest rule is called dishonest."""

Figures = Callable[[int], Figure]
"""From a number of rows to the figure of the first of them."""


@given(rows=st.integers(1, 100_000))
def test_looks_grow_to_all_rows_and_share_the_error_between_them(rows: int) -> None:
    looks = plan_looks(rows)
    counts = [look.rows for look in looks]
    assert counts == sorted(set(counts))
    assert counts[-1] == rows
    assert [look.last for look in looks] == [False] * (len(looks) - 1) + [True]
    assert len(looks) == 1 or counts[0] >= FIRST_ROWS
    assert sum(look.tails.failing for look in looks) == pytest.approx(VERDICT_TAIL)
    assert looks[-1].tails.passing == VERDICT_TAIL
    assert all(look.tails.passing < VERDICT_TAIL / 10 for look in looks[:-1])


@pytest.mark.parametrize(("rows", "counts"), [(63, [63]), (64, [32, 64]), (200, [50, 100, 200])])
def test_few_rows_are_looked_at_less_often(rows: int, counts: list[int]) -> None:
    assert [look.rows for look in plan_looks(rows)] == counts


@given(rows=st.integers(0, 600))
@settings(max_examples=20, deadline=None)
def test_every_row_is_looked_at_once_and_sorted_samples_are_mixed(rows: int) -> None:
    order = shuffled(rows)
    assert sorted(order) == list(range(rows))
    for part in (8, 4, 2):
        first = order[: rows // part]
        if len(first) >= FIRST_ROWS:
            error = np.sqrt(rows**2 / 12 / len(first))
            assert abs(np.mean(first) - rows / 2) < 4 * error


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_parts_looked_at_in_any_order_make_the_record_of_one_check(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    order = data.draw(st.permutations(range(rows)))
    cuts = sorted(data.draw(st.sets(st.integers(1, rows), max_size=3)) | {0, rows})
    rng = np.random.default_rng(rows)
    pairs = [rng.standard_normal((2, 1, 8)).astype(np.float32) for _ in range(rows)]

    def compared(numbers: Sequence[int]) -> Record:
        comparison = Comparison([TOP1])
        for number in numbers:
            before, after = pairs[number]
            label = {"label": np.array([number % 8])}
            comparison.add({"y": before}, {"y": after}, label, number=number)
        return comparison.record

    parts = [compared(order[a:b]) for a, b in pairwise(cuts)]
    assert merge(parts, order).to_json() == compared(range(rows)).to_json()


def test_a_problem_is_named_by_the_row_of_the_samples() -> None:
    comparison = Comparison()
    fine = {"y": np.zeros((1, 8), np.float32)}
    comparison.add(fine, fine, {}, number=40)
    assert not comparison.broken
    comparison.add(fine, {"y": np.zeros((2, 8), np.float32)}, {}, number=7)
    assert comparison.broken
    assert str(comparison.record.outputs["y"].problem).endswith("(row 7)")


def test_only_what_is_certain_ends_a_check_early() -> None:
    early, last = plan_looks(64)
    cosine, error = parse_floor("cosine=0.99"), parse_floor("max_error=0.1")
    assert early.settles(Verdict.FAIL, cosine)
    assert early.settles(Verdict.PASS, cosine)
    assert not early.settles(Verdict.UNDECIDED, cosine)
    assert early.settles(Verdict.FAIL, error)
    assert not early.settles(Verdict.PASS, error)
    assert all(last.settles(verdict, error) for verdict in Verdict)


def closeness(loss: Floats) -> OutputRecord:
    """Rows with a cosine of 1 - loss."""
    table = np.stack([1.0 - loss, *np.ones((2, len(loss))), *np.zeros((3, len(loss)))], axis=1)
    table[:, 3] = 0.1  # so that no row counts as equal within rounding
    return OutputRecord(is_float=True, pooled=False, bad_values=0, problem=None, table=table)


def normal(rng: np.random.Generator) -> Figures:
    output = closeness(0.01 + 0.003 * rng.standard_normal(ROWS))
    return lambda rows: some(cosine_figure(replace(output, table=output.table[:rows])))


def skewed(rng: np.random.Generator) -> Figures:
    output = closeness(0.01 * np.exp(rng.standard_normal(ROWS) - 0.5))
    return lambda rows: some(cosine_figure(replace(output, table=output.table[:rows])))


def classified(rng: np.random.Generator) -> Figures:
    """Float is 95 % right; the candidate loses 4 points and gains 3."""
    kinds = rng.random(ROWS)
    before, after = kinds < 0.95, (kinds >= 0.04) & (kinds < 0.98)
    scores = [side.astype(np.float64)[:, None] for side in (before, after)]

    def of(rows: int) -> Figure:
        return change_figure(
            TOP1, MetricRecord(reference=scores[0][:rows], candidate=scores[1][:rows])
        )

    return of


def some(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def ever_fails(figure: Figures, floor: float, looks: Sequence[Look]) -> bool:
    """Whether any look breaks the floor: at least as often as the looks before the check ends."""
    return any(figure(look.rows).bounds(look.tails.failing)[1] < floor for look in looks)


KINDS = [(normal, 0.99), (skewed, 0.99), (classified, -0.01)]


@pytest.mark.parametrize(("draw", "floor"), KINDS)
def test_at_the_floor_neither_verdict_is_wrong_more_often_than_stated(
    draw: Callable[[np.random.Generator], Figures], floor: float
) -> None:
    """The truth lies exactly on the floor, where PASS and FAIL are both wrong, and likeliest.

    What is chosen has passed the last look, whatever the others said.
    """
    rng, looks = np.random.default_rng(0), plan_looks(ROWS)
    fails = passes = 0
    for _ in range(TRIALS):
        figure = draw(rng)
        fails += ever_fails(figure, floor, looks)
        passes += figure(ROWS).bounds(looks[-1].tails.passing)[0] >= floor
    assert rate_bounds(fails, TRIALS, SURE)[0] <= VERDICT_TAIL
    assert rate_bounds(passes, TRIALS, SURE)[0] <= VERDICT_TAIL


def test_the_simulation_catches_looks_that_are_not_made_stricter() -> None:
    rng = np.random.default_rng(0)
    looks = [replace(look, tails=Tails()) for look in plan_looks(ROWS)]
    fails = sum(ever_fails(classified(rng), -0.01, looks) for _ in range(TRIALS))
    assert rate_bounds(fails, TRIALS, SURE)[0] > VERDICT_TAIL


@pytest.mark.parametrize(("loss", "found"), [(0.03, Verdict.FAIL), (0.003, Verdict.PASS)])
def test_what_is_far_from_the_floor_needs_an_eighth_of_the_rows(
    loss: float, found: Verdict
) -> None:
    rng, looks = np.random.default_rng(1), plan_looks(256)
    output = closeness(loss * np.exp(0.3 * rng.standard_normal(256)))
    floors = parse_floor("cosine=0.99")
    for look in (looks[0], looks[-1]):
        part = replace(output, table=output.table[: look.rows])
        record = Record(rows=look.rows, outputs={"y": part}, metrics={})
        verdict = judge(record, floors, [], tails=look.tails).verdict
        assert verdict == found
        assert look.settles(verdict, floors)


def test_each_verdict_rests_on_the_bound_of_its_own_tail() -> None:
    output = closeness(0.01 + 0.003 * np.random.default_rng(2).standard_normal(64))
    record = Record(rows=64, outputs={"y": output}, metrics={})
    floors = parse_floor("cosine=0.99")
    figure = some(cosine_figure(output))
    (result,) = judge(record, floors, [], tails=Tails(passing=0.05, failing=0.001)).floors
    assert (result.low, result.high) == (figure.bounds(0.05)[0], figure.bounds(0.001)[1])
    assert judge(record, floors, []) == judge(record, floors, [], tails=Tails())
