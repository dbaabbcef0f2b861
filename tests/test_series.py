"""Figures and verdicts from series of times, on series whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.measure.series import (
    KEPT_RUNS,
    Window,
    across_processes,
    half_width,
    is_settled,
    noise,
    paired_speedup,
    remarks,
    spread_out,
    summarise,
)
from edgesdk.measure.settings import Settings

SETTINGS = Settings()
RNG = np.random.default_rng(1)
Levels = list[float]
TIMES = st.lists(st.floats(0.01, 1000), min_size=6, max_size=30)


def test_the_level_of_a_window_ignores_a_hiccup() -> None:
    assert Window(ms=(1.0, 1.0, 50.0), groups=(0, 0, 0)).level_ms == 1.0


def test_the_level_of_a_window_weighs_shapes_by_how_often_they_occur() -> None:
    window = Window(ms=(1.0, 1.2, 9.0, 1.1, 1.1, 10.0), groups=(0, 0, 1, 0, 0, 1))
    assert window.level_ms == pytest.approx((4 * 1.1 + 2 * 9.5) / 6)


@pytest.mark.parametrize(
    ("levels", "settled"),
    [
        ([1.0, 1.0], False),
        ([5.0, 2.0, 1.0, 1.04, 1.02], True),
        ([1.0, 1.0, 1.0, 1.2], False),
        ([], False),
    ],
)
def test_warm_up_ends_when_three_windows_agree(levels: list[float], settled: bool) -> None:
    assert is_settled(levels, 0.05) is settled


@settings(deadline=None, max_examples=20)
@given(times=TIMES, ratio=st.floats(0.05, 20))
def test_what_slows_both_sides_of_a_round_cancels(times: list[float], ratio: float) -> None:
    interval = paired_speedup([ratio * time for time in times], times)
    assert interval.value == pytest.approx(ratio)
    assert half_width(interval) < 1e-9


@settings(deadline=None, max_examples=20)
@given(old=TIMES, new=TIMES)
def test_swapping_the_sides_inverts_the_speedup(old: list[float], new: list[float]) -> None:
    count = min(len(old), len(new))
    there = paired_speedup(old[:count], new[:count])
    back = paired_speedup(new[:count], old[:count])
    assert there.value == pytest.approx(1 / back.value)
    assert there.low <= there.value * (1 + 1e-9)
    assert there.value <= there.high * (1 + 1e-9)


def simulated(rounds: int, *, noise: float, speedup: float = 1.0) -> tuple[Levels, Levels]:
    """Windows of both sides under a load that wanders, with independent noise on each."""
    load = np.exp(np.cumsum(RNG.normal(0, 0.05, rounds)))
    old, new = (load * np.exp(RNG.normal(0, noise, rounds)) for _ in range(2))
    return (10 * speedup * old).tolist(), (10 * new).tolist()


@pytest.mark.parametrize("rounds", [8, 20])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(rounds: int) -> None:
    hits = 0
    for _ in range(50):
        interval = paired_speedup(*simulated(rounds, noise=0.02, speedup=1.5))
        hits += interval.low <= 1.5 <= interval.high
    assert hits >= 43  # 47 or 48 expected


def test_the_interval_holds_the_truth_where_measuring_stops_as_soon_as_it_is_narrow() -> None:
    hits = 0
    for _ in range(100):
        old, new = simulated(120, noise=0.06)
        rounds = 16
        while rounds < 120 and half_width(paired_speedup(old[:rounds], new[:rounds])) > 0.03:
            rounds += 1
        interval = paired_speedup(old[:rounds], new[:rounds])
        hits += interval.low <= 1 <= interval.high
    assert hits >= 88  # 93 expected; the bootstrap of the median keeps 85


def test_a_short_model_is_known_only_as_well_as_its_processes_agree() -> None:
    interval = paired_speedup([1.0] * 20, [0.5] * 20)
    two, eight = (across_processes(interval, 0.1, processes) for processes in (2, 8))
    assert half_width(two) == pytest.approx(2 * half_width(eight), rel=0.01)
    assert 0.02 < half_width(two) < 0.05
    assert across_processes(interval, 3.0, 2) == interval
    assert two.value == interval.value == pytest.approx(2.0)


def test_steady_rounds_are_trusted_whatever_the_load_does() -> None:
    assert noise(*simulated(20, noise=0.01), settings=SETTINGS) == ()


def test_a_speedup_that_is_hardly_known_is_noisy() -> None:
    (reason,) = noise(*simulated(8, noise=0.2), settings=SETTINGS)[:1]
    assert "only known to" in reason


def test_a_speedup_that_drifts_is_noisy() -> None:
    old, new = simulated(30, noise=0.002)
    slowing = list(np.array(old) * np.linspace(1, 1.4, 30))
    assert any("drifted by" in reason for reason in noise(slowing, new, SETTINGS))
    assert noise(slowing, new, replace(SETTINGS, hopeless=1.5)) == ()  # too slow in any case


def test_windows_all_over_the_place_are_a_remark_while_the_ratio_holds() -> None:
    wild = [1.0, 3.0] * 10
    assert noise(wild, wild, SETTINGS) == ()
    assert any("window times differ" in note for note in remarks(wild, 1000))


def test_few_runs_and_uneven_windows_are_remarked() -> None:
    assert remarks([1.0, 1.0, 1.0], 1000) == ()
    uneven, few = remarks([1.0, 1.3, 1.6], 30)
    assert "window times differ" in uneven
    assert "30 runs" in few


def test_a_latency_keeps_a_sample_of_its_runs() -> None:
    ms = tuple(float(value) for value in range(5000))
    latency = summarise([Window(ms=ms, groups=(0,) * 5000)])
    assert latency.count == 5000
    assert latency.p50_ms == pytest.approx(2499.5)
    assert len(latency.runs_ms) == KEPT_RUNS
    assert (latency.runs_ms[0], latency.runs_ms[-1]) == (0, 4999)


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=30), count=st.integers(1, 10))
def test_the_rows_chosen_are_distinct_and_stand_for_all(sizes: list[int], count: int) -> None:
    chosen = spread_out(sizes, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(sizes))
    kept = [sizes[row] for row in chosen]
    assert kept == sorted(kept)
    middle = sorted(sizes)[len(sizes) // 2]
    if count % 2:
        assert middle in kept
