"""The decision: floors and limits rule out, the objective orders, the original is never beaten by luck."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.budget import Budget, Objective, parse_budget
from edgesdk.decide import Outcome, Status, contenders, decide, finalists, rivals
from edgesdk.evidence import Evidence
from edgesdk.measure.result import Interval, Latency, Measurement
from edgesdk.pipeline import SINGLE
from edgesdk.placement import Basis, NodeShare, UnitShares
from edgesdk.plan.candidate import ORIGINAL, Candidate, Choice
from edgesdk.quality import Closeness, Quality, Score, Verdict
from edgesdk.recipe import Recipe

MB = 1_000_000


def measured(
    p95_ms: float = 10.0,
    speed: float = 1.0,
    *,
    spread: float = 0.01,
    size: int = 10 * MB,
    peak_mib: float = 100.0,
    stable: bool = True,
) -> Measurement:
    latency = Latency(
        count=100, mean_ms=p95_ms, p50_ms=p95_ms, p90_ms=p95_ms, p95_ms=p95_ms, p99_ms=p95_ms
    )
    return Measurement(
        latency=latency,
        speedup=Interval(value=speed, low=speed * (1 - spread), high=speed * (1 + spread)),
        stable=stable,
        import_ms=1.0,
        load_ms=1.0,
        first_run_ms=1.0,
        base_mib=50.0,
        peak_load_mib=peak_mib,
        peak_run_mib=peak_mib,
        artifact_bytes=size,
        threads=2,
        evidence=Evidence.MEASURED,
        warnings=() if stable else ("noisy: windows differ",),
    )


def quality(verdict: Verdict = Verdict.PASS, cosine: float = 0.999) -> Quality:
    closeness = Closeness(
        output="y",
        rows=20,
        pooled=False,
        cosine=cosine,
        cosine_low=cosine,
        cosine_high=cosine,
        cosine_min=cosine,
        sqnr_db=40.0,
        sqnr_min_db=40.0,
        max_error=0.1,
        agreement=None,
        agreement_low=None,
        agreement_high=None,
        bad_values=0,
        problem=None,
        equal=False,
    )
    return Quality(
        rows=20,
        verdict=verdict,
        reason=f"it is a {verdict}",
        evidence=Evidence.MEASURED,
        closeness=(closeness,),
        scores=(),
        floors=(),
    )


def outcome(name: str, measurement: Measurement | None, checked: Quality | None = None) -> Outcome:
    choice = Choice(recipe=Recipe(), backend="onnxruntime")
    return Outcome(
        name=name,
        candidate=Candidate(choices=((SINGLE, choice),)),
        measurement=measurement,
        quality=checked or quality(),
    )


BASELINE = replace(outcome(ORIGINAL, measured()), quality=None)


def statuses(decision_of: tuple[Outcome, ...], budget: Budget | None = None) -> dict[str, Status]:
    decision = decide(BASELINE, decision_of, budget or Budget())
    return {item.name: item.status for item in decision.judged}


def test_the_fastest_that_keeps_the_floors_wins() -> None:
    found = statuses(
        (
            outcome("fast but wrong", measured(1.0, 10.0), quality(Verdict.FAIL)),
            outcome("fast", measured(2.0, 5.0)),
            outcome("faster", measured(1.5, 6.0)),
        )
    )
    assert found["faster"] == Status.CHOSEN
    assert found["fast"] == Status.PASSED
    assert found["fast but wrong"] == Status.FAILED


def test_a_speedup_within_noise_is_never_chosen() -> None:
    found = statuses((outcome("maybe", measured(9.9, 1.01, spread=0.05)),))
    assert found == {ORIGINAL: Status.CHOSEN, "maybe": Status.NOT_BETTER}


def test_a_noisy_measurement_is_never_chosen() -> None:
    found = statuses((outcome("wild", measured(1.0, 9.0, stable=False)),))
    assert found == {ORIGINAL: Status.CHOSEN, "wild": Status.NOISY}


def test_noise_does_not_matter_where_no_time_is_asked_for() -> None:
    small = (outcome("small", measured(10.0, 1.0, size=MB, stable=False)),)
    assert statuses(small, Budget(objective="size"))["small"] == Status.CHOSEN
    bounded = Budget(objective="size", limits=parse_budget("latency=20ms"))
    assert statuses(small, bounded)["small"] == Status.NOISY
    assert contenders(BASELINE, small, Budget(objective="size")) == ()
    assert contenders(BASELINE, small, bounded) == ("small",)


def test_a_noisy_candidate_gets_a_second_chance_only_where_it_could_win() -> None:
    noisy = measured(4.0, 2.6, spread=0.2, stable=False)
    candidates = (
        outcome("good", measured(3.0, 3.0)),
        outcome("wide", noisy),
        outcome("wide and wrong", noisy, quality(Verdict.FAIL)),
        outcome("hopeless", measured(9.0, 1.1, spread=0.2, stable=False)),
    )
    assert contenders(BASELINE, candidates, Budget()) == ("wide",)


@pytest.mark.parametrize(
    ("objective", "found"),
    [
        ("latency", ("close", "fast")),
        ("size", ("small",)),
        ("quality", ("slow", "close", "fast", "small")),
    ],
)
def test_the_winner_and_what_only_quality_sets_apart_from_it_are_finalists(
    objective: Objective, found: tuple[str, ...]
) -> None:
    candidates = (
        outcome("close", measured(2.0, 4.95), quality(cosine=0.9999)),
        outcome("fast", measured(2.0, 5.0), quality(cosine=0.995)),
        outcome("small", measured(5.0, 2.0, size=MB), quality(cosine=0.992)),
        outcome("slow", measured(5.0, 2.0), quality(cosine=0.99999)),
        outcome("wrong", measured(1.0, 9.0, size=1), quality(Verdict.FAIL)),
    )
    assert finalists(BASELINE, candidates, Budget(objective=objective)) == found


def test_rivals_are_closer_to_the_original_and_perhaps_no_slower() -> None:
    candidates = (
        outcome("winner", measured(2.0, 5.0), quality(cosine=0.992)),
        outcome("closer", measured(2.4, 4.2), quality(cosine=0.998)),
        outcome("as close", measured(2.3, 4.3), quality(cosine=0.992)),
        outcome("as fast", measured(2.0, 4.95), quality(cosine=0.991)),
        outcome("slower", measured(3.3, 3.0), quality(cosine=0.9999)),
        outcome("wrong", measured(2.1, 4.8), quality(Verdict.FAIL)),
    )
    assert rivals(BASELINE, candidates, Budget()) == ("winner", "closer")
    assert rivals(BASELINE, candidates, Budget(objective="size")) == ()
    assert rivals(BASELINE, (), Budget()) == ()


def test_the_original_needs_no_final_check() -> None:
    candidates = (outcome("no faster", measured(9.9, 1.01, spread=0.05)),)
    assert finalists(BASELINE, candidates, Budget()) == ()


def test_undecided_quality_needs_consent() -> None:
    candidates = (outcome("maybe", measured(1.0, 9.0), quality(Verdict.UNDECIDED)),)
    assert decide(BASELINE, candidates, Budget()).chosen == ORIGINAL
    assert decide(BASELINE, candidates, Budget(), accept_undecided=True).chosen == "maybe"


def test_of_equally_fast_ones_the_closer_wins() -> None:
    found = statuses(
        (
            outcome("rough", measured(2.0, 5.05, spread=0.02), quality(cosine=0.991)),
            outcome("close", measured(2.0, 5.0, spread=0.02), quality(cosine=0.9999)),
        )
    )
    assert found["close"] == Status.CHOSEN


def test_a_metric_that_is_better_by_luck_does_not_outweigh_distance() -> None:
    def scored(cosine: float, change: float) -> Quality:
        score = Score(
            metric="top1",
            higher_is_better=True,
            reference=0.9,
            candidate=0.9 + change,
            change=change,
            low=change - 0.02,
            high=change + 0.02,
            rows=20,
        )
        return replace(quality(cosine=cosine), scores=(score,))

    found = statuses(
        (
            outcome("lucky", measured(2.0, 5.05, spread=0.02), scored(0.98, 0.02)),
            outcome("close", measured(2.0, 5.0, spread=0.02), scored(0.999, 0.0)),
        )
    )
    assert found["close"] == Status.CHOSEN


def test_a_missed_limit_says_by_how_much_and_by_whom() -> None:
    budget = Budget(limits=parse_budget("latency=1ms"))
    decision = decide(BASELINE, [outcome("nearest", measured(2.0, 5.0))], budget)
    assert decision.chosen is None
    (miss,) = decision.misses
    assert miss.candidate == "nearest"
    assert miss.factor == pytest.approx(2.0)
    assert "2.00 x" in decision.headline
    assert "nearest" in decision.headline


def test_a_slower_one_may_win_when_the_original_misses_the_size() -> None:
    budget = Budget(limits=parse_budget("size=5MB"))
    small = outcome("small", measured(11.0, 0.9, size=3 * MB))
    assert decide(BASELINE, [small], budget).chosen == "small"
    assert decide(BASELINE, [small], Budget()).chosen == ORIGINAL


@pytest.mark.parametrize(
    ("objective", "winner"), [("latency", "quick"), ("size", "small"), ("memory", "lean")]
)
def test_the_objective_orders(objective: Objective, winner: str) -> None:
    candidates = (
        outcome("quick", measured(1.0, 9.0, size=9 * MB, peak_mib=90)),
        outcome("small", measured(5.0, 2.0, size=1 * MB, peak_mib=80)),
        outcome("lean", measured(5.0, 2.0, size=5 * MB, peak_mib=10)),
    )
    assert decide(BASELINE, candidates, Budget(objective=objective)).chosen == winner


def test_a_failed_step_is_shown_with_its_reason() -> None:
    broken = replace(outcome("broken", None), quality=None, error="convert: it crashed")
    decision = decide(BASELINE, [broken], Budget())
    assert decision.chosen == ORIGINAL
    assert decision.judged[1].reason == "convert: it crashed"


def test_what_there_was_no_time_for_is_shown_with_its_reason_and_never_chosen() -> None:
    late = replace(
        outcome("late", measured(1.0, 9.0)), out_of_time="measure not finished: the time is over"
    )
    decision = decide(BASELINE, [late], Budget())
    assert decision.chosen == ORIGINAL
    assert decision.judged[1].status == Status.NO_TIME
    assert "no time for 1 of 1" in decision.headline
    assert decision.judged[1].reason == "measure not finished: the time is over"


def placed(name: str, fallback: float, why: str = "no kernel", speed: float = 2.0) -> Outcome:
    """A candidate of which a share of the time is not on the NPU."""
    softmax = NodeShare(node="softmax", op="Softmax", unit="cpu", share=fallback, why=why)
    shares = UnitShares(
        wanted="npu",
        by=Basis.TIME,
        evidence=Evidence.MEASURED,
        units={"npu": 1.0 - fallback, "cpu": fallback},
        elsewhere=(softmax,) if fallback else (),
    )
    return replace(outcome(name, measured(5.0, speed)), shares=shares)


def test_the_gate_holds_at_its_very_share() -> None:
    candidates = [placed("at", 0.05), placed("above", 0.05001, speed=9.0)]
    decision = decide(BASELINE, candidates, Budget(max_fallback=0.05))
    original, at, above = decision.judged
    assert at.status == Status.CHOSEN
    assert above.status == Status.OVER_BUDGET
    assert above.reason == (
        "5.001 % of the time not on npu, limit 5 %: Softmax 'softmax' 5 % on cpu (no kernel)"
    )
    assert original.status == Status.OVER_BUDGET
    assert "cannot be proved: onnxruntime does not tell" in original.reason


def test_the_nearest_to_the_gate_is_named_where_nobody_keeps_it() -> None:
    candidates = [placed("far", 0.5), placed("near", 0.34)]
    decision = decide(BASELINE, candidates, Budget(max_fallback=0.05))
    assert decision.chosen is None
    assert decision.headline == (
        "no candidate meets the budget: 34 % of the time not on npu, limit 5 % (closest: near)"
    )
    (miss,) = decision.misses
    assert miss.factor == pytest.approx(6.8)
    strict = decide(BASELINE, candidates, Budget(max_fallback=0.0))
    assert math.isinf(strict.misses[0].factor)


@given(
    st.lists(st.none() | st.floats(0.0, 1.0), max_size=5),
    st.none() | st.floats(0.0, 1.0),
)
def test_nothing_that_misses_the_gate_or_cannot_be_proved_wins(
    fallbacks: list[float | None], most: float | None
) -> None:
    candidates = [
        outcome(f"c{i}", measured(5.0, 2.0)) if fallback is None else placed(f"c{i}", fallback)
        for i, fallback in enumerate(fallbacks)
    ]
    decision = decide(BASELINE, candidates, Budget(max_fallback=most))
    chosen = next((one for one in candidates if one.name == decision.chosen), None)
    kept = [f for f in fallbacks if most is None or (f is not None and f <= most)]
    assert (chosen is None) == (not kept)
    if chosen is not None and most is not None:
        assert chosen.shares is not None
        assert chosen.shares.fallback <= most


SPEEDS = st.floats(min_value=0.1, max_value=20.0)
VERDICTS = st.sampled_from(list(Verdict))


@given(st.lists(st.tuples(SPEEDS, VERDICTS, st.booleans()), max_size=6))
def test_what_is_chosen_is_never_slower_nor_worse(
    cases: list[tuple[float, Verdict, bool]],
) -> None:
    candidates = [
        outcome(f"c{i}", measured(10.0 / speed, speed, stable=stable), quality(verdict))
        for i, (speed, verdict, stable) in enumerate(cases)
    ]
    decision = decide(BASELINE, candidates, Budget())
    assert len(decision.judged) == len(cases) + 1
    assert sum(item.status == Status.CHOSEN for item in decision.judged) == 1
    for item, (speed, verdict, stable) in zip(decision.judged[1:], cases, strict=True):
        if item.status == Status.CHOSEN:
            assert speed > 1.0
            assert verdict == Verdict.PASS
            assert stable
