"""A candidate against its baseline, side by side: a speedup that holds on a noisy machine.

Both are open at once, each in a process of its own, and take turns. The one that is not timed is
frozen, because the idle threads of engines spin and take the cores of whoever runs next.
"""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

from edgesdk.device.base import Device
from edgesdk.measure.bench import Bench, Side
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.series import across_processes, half_width, noise, paired_speedup
from edgesdk.measure.settings import Inputs, Settings, Target

FEWEST_ROUNDS = 5
"""Below that an interval says nothing."""
_MEMORY_PER_BYTE = 3
"""A loaded artifact takes its size for the file as read, for the weights, and for packed copies."""
_MEMORY_SHARE = 0.25
"""Of the free memory; above that the cost of starting each of them anew is the smaller evil."""
_MIB = 1 << 20


def measure_candidate(
    baseline: Target,
    candidate: Target,
    inputs: Inputs,
    settings: Settings,
    device: Device,
    folder: Path,
) -> tuple[Measurement, Measurement]:
    """Baseline and candidate, measured alternately on one device.

    Args:
        baseline: what speed is compared with.
        candidate: what is compared.
        inputs: the same for both.
        settings: how carefully.
        device: where.
        folder: takes the logs of the runners.

    Returns:
        The baseline's measurement, whose speedup is exactly 1, and the candidate's.

    Raises:
        StepFailed: a runner crashed, hung or took too much memory; none is left behind.
        EdgeSdkError: an adapter refused, with its own error.
    """
    threads = max(baseline.threads, candidate.threads)
    with Bench(inputs, settings, device, folder, threads=threads) as bench:
        sides = Side("baseline", baseline, bench), Side("candidate", candidate, bench)
        if settings.sequential or not fit_together(baseline, candidate, bench.free_mib):
            _take_turns_alone(sides, settings)
            how = "one process after the other"
        else:
            _take_turns(sides, settings)
            how = "both resident, one frozen"
        environment, warnings = bench.environment()
    old, new = sides
    reasons = noise(old.levels_ms, new.levels_ms, settings)
    environment["alternation"] = how
    run_ms = min(*old.levels_ms, *new.levels_ms)
    speedup = across_processes(
        paired_speedup(old.levels_ms, new.levels_ms), run_ms, len(new.starts)
    )
    # A warm-up that ran out of time is forgiven when the speedup is well known after all.
    unsettled = (old.unsettled or new.unsettled) and speedup.high >= settings.hopeless
    if unsettled and half_width(speedup) > settings.steady_interval:
        reasons = ("noisy: times did not become steady during warm-up", *reasons)
    same = Interval(value=1.0, low=1.0, high=1.0)
    return (
        old.result(same, reasons, environment, warnings),
        new.result(speedup, reasons, environment, warnings),
    )


def _take_turns(sides: tuple[Side, Side], settings: Settings) -> None:
    """Rounds with both processes alive; fresh ones now and then."""
    each = _rounds_each(settings)
    spent_s = 0.0
    for number in itertools.count():
        if number % each == 0 and number < each * settings.processes:
            for side in sides:
                side.thaw()
                side.stop()
                side.start()
                side.warm_up()
                side.freeze()
        begun = time.monotonic()
        for side in _order(sides, number):
            side.thaw()
            side.time_window()
            side.freeze()
        spent_s += time.monotonic() - begun
        if _is_enough(sides, settings, spent_s):
            break
    for side in sides:
        side.thaw()
        side.sense()
        side.stop()


def _take_turns_alone(sides: tuple[Side, Side], settings: Settings) -> None:
    """Rounds of two processes one after the other, for artifacts that do not fit together."""
    begun = time.monotonic()
    for number in itertools.count():
        for side in _order(sides, number):
            side.start()
            side.warm_up()
            side.time_window()
            if number == 0:
                side.sense()
            side.stop()
        if _is_enough(sides, settings, time.monotonic() - begun):
            return


def _order(sides: tuple[Side, Side], number: int) -> tuple[Side, Side]:
    """Who comes first takes turns too, so that a steady drift favours neither side."""
    old, new = sides
    return (old, new) if number % 2 == 0 else (new, old)


def _is_enough(sides: tuple[Side, Side], settings: Settings, spent_s: float) -> bool:
    """Whether another round would not help, or costs too much."""
    old, new = sides
    rounds = len(new.windows)
    if rounds >= settings.max_rounds:
        return True
    if rounds < FEWEST_ROUNDS:
        return False
    speedup = paired_speedup(old.levels_ms, new.levels_ms)
    if speedup.high < settings.hopeless and rounds >= _rounds_each(settings):
        return True
    if rounds < settings.min_rounds and spent_s < settings.max_seconds:
        return False
    patience = 1.0 if half_width(speedup) <= settings.steady_interval else 2.0
    if spent_s >= settings.max_seconds * patience:
        return True
    return half_width(speedup) <= settings.precise


def _rounds_each(settings: Settings) -> int:
    """Rounds before the runners are replaced by fresh ones."""
    return math.ceil(settings.min_rounds / settings.processes)


def fit_together(baseline: Target, candidate: Target, free_mib: float | None) -> bool:
    """Whether both artifacts can be open at once without taking much of the free memory."""
    files = (*baseline.all_files(), *candidate.all_files())
    size = sum(file.stat().st_size for file in files)
    return free_mib is None or size * _MEMORY_PER_BYTE / _MIB <= free_mib * _MEMORY_SHARE
