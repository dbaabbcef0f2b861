"""From series of run times to figures and verdicts. Pure; numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesdk.measure.result import Interval, Latency
from edgesdk.measure.settings import Settings
from edgesdk.statistics import middle_interval

KEPT_RUNS = 2000
"""Times kept in a record."""
FEW_RUNS = 100
"""Below that a 99th percentile is the slowest run."""
_STEADY_WINDOWS = 3
_SHORT_MS, _LAYOUT = 1.0, 0.024
"""How far two processes of one short model differ by where their memory happens to lie: the
standard deviation of their log time ratio. Seen with a model of 0.12 ms beside itself in 80 pairs
of processes (x86, onnxruntime, 2026-11-22); one of 3 ms showed nothing of it."""
_NOTABLE_SPREAD = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive runs of one process.

    Attributes:
        ms: time of each run, whole cycles over the inputs.
        groups: which inputs have equal shapes: a number for each run.
    """

    ms: tuple[float, ...]
    groups: tuple[int, ...]

    @property
    def level_ms(self) -> float:
        """Typical time of a run: the median, or where shapes differ the mean of their medians.

        Each shape counts as often as it occurs, so that any two windows can be compared.
        """
        ms, groups = np.array(self.ms), np.array(self.groups)
        kinds, counts = np.unique(groups, return_counts=True)
        medians = [np.median(ms[groups == kind]) for kind in kinds]
        return float(np.average(medians, weights=counts))


def is_settled(levels_ms: Sequence[float], tolerance: float) -> bool:
    """Whether the last three windows differ by at most `tolerance` of the fastest of them."""
    last = levels_ms[-_STEADY_WINDOWS:]
    return len(last) == _STEADY_WINDOWS and max(last) <= min(last) * (1 + tolerance)


def paired_speedup(baseline_ms: Sequence[float], candidate_ms: Sequence[float]) -> Interval:
    """Baseline time / candidate time from windows taken side by side.

    The middle of the rounds' log ratios, with its interval over rounds. What slows both windows of
    a round (another process, a lower clock) cancels; a round in which only one was hit is one
    outlier, which the middle ignores.
    """
    logs = np.log(np.array(baseline_ms) / np.array(candidate_ms))
    value, low, high = middle_interval(logs)
    return Interval(value=math.exp(value), low=math.exp(low), high=math.exp(high))


def across_processes(speedup: Interval, run_ms: float, processes: int) -> Interval:
    """The interval of rounds widened by what fresh processes would add to it.

    Rounds of one pair of processes share its memory layout, so more of them do not average it out.

    Args:
        speedup: from `paired_speedup`.
        run_ms: time of a run of the faster side.
        processes: pairs of processes that the rounds come from, at least 1.
    """
    if run_ms >= _SHORT_MS or not math.isfinite(speedup.high):
        return speedup
    layout = 1.96 * _LAYOUT / math.sqrt(processes)
    middle = math.log(speedup.value)
    below, above = middle - math.log(speedup.low), math.log(speedup.high) - middle
    return Interval(
        value=speedup.value,
        low=math.exp(middle - math.hypot(below, layout)),
        high=math.exp(middle + math.hypot(above, layout)),
    )


def half_width(interval: Interval) -> float:
    """Half the interval as a fraction of its value."""
    return (interval.high - interval.low) / 2 / interval.value


def drift(baseline_ms: Sequence[float], candidate_ms: Sequence[float]) -> float:
    """By which fraction the speedup of the later half of the rounds differs from the earlier."""
    logs = np.log(np.array(baseline_ms) / np.array(candidate_ms))
    middle = len(logs) // 2
    if middle == 0:
        return 0.0
    return float(np.expm1(abs(np.median(logs[middle:]) - np.median(logs[:middle]))))


def spread(levels_ms: Sequence[float]) -> float:
    """From the 10th to the 90th percentile of windows, as a fraction of their median."""
    low, middle, high = np.quantile(np.array(levels_ms), [0.1, 0.5, 0.9])
    return float((high - low) / middle)


def noise(
    baseline_ms: Sequence[float], candidate_ms: Sequence[float], settings: Settings
) -> tuple[str, ...]:
    """Why paired windows cannot be trusted; empty when they can.

    The rule: the speedup's 95 % interval is wider than `noisy_interval` on either side; or the
    speedup drifts by more than that between the halves of the measurement. Windows of one side that
    spread are a remark only: what is decided on is the ratio of paired windows. Nor does noise matter
    where the whole interval is below `hopeless`.
    """
    reasons = []
    speedup = paired_speedup(baseline_ms, candidate_ms)
    if speedup.high < settings.hopeless:
        return ()
    width = half_width(speedup)
    if not width <= settings.noisy_interval:
        reasons.append(f"noisy: the speedup is only known to ±{width:.0%}")
    moved = drift(baseline_ms, candidate_ms)
    if moved > settings.noisy_interval:
        reasons.append(f"noisy: the speedup drifted by {moved:.0%} while it was measured")
    return tuple(reasons)


def remarks(levels_ms: Sequence[float], runs: int) -> tuple[str, ...]:
    """What a reader of one side's times should know."""
    notes = []
    if spread(levels_ms) > _NOTABLE_SPREAD:
        notes.append(f"window times differ by {spread(levels_ms):.0%}; the speedup is paired")
    if runs < FEW_RUNS:
        notes.append(f"{runs} runs were timed: p95 and p99 rest on the slowest few")
    return tuple(notes)


def summarise(windows: Sequence[Window]) -> Latency:
    """All runs of all windows as one latency."""
    runs = np.array([ms for window in windows for ms in window.ms])
    p50, p90, p95, p99 = (float(value) for value in np.quantile(runs, [0.5, 0.9, 0.95, 0.99]))
    kept = np.linspace(0, len(runs) - 1, min(len(runs), KEPT_RUNS)).round().astype(int)
    return Latency(
        count=len(runs),
        mean_ms=float(runs.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        runs_ms=tuple(round(float(ms), 5) for ms in runs[kept]),
    )


def spread_out(sizes: Sequence[int], count: int) -> list[int]:
    """At most `count` positions that stand for all: evenly spaced in order of size.

    Where all sizes are equal they are evenly spaced in the order given.
    """
    order = sorted(range(len(sizes)), key=lambda position: (sizes[position], position))
    if len(order) <= count:
        return order
    steps = (np.arange(count) + 0.5) * len(order) / count
    return [order[int(step)] for step in steps]
