"""One artifact by itself: cold starts in fresh processes, then warm runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesdk.device.base import Device
from edgesdk.measure.bench import Bench, ColdStart, Side
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.series import half_width, spread
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.statistics import middle_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What one artifact does on its own.

    Attributes:
        measurement: its speedup is 1, there is nothing to compare with.
        cold: one for each fresh process; the first one may have read the engine from the disk.
    """

    measurement: Measurement
    cold: tuple[ColdStart, ...]


def measure_alone(
    target: Target,
    inputs: Inputs,
    settings: Settings,
    device: Device,
    folder: Path,
    *,
    cold_starts: int = 3,
) -> Alone:
    """Cold and warm figures of one artifact.

    Args:
        target: what to measure.
        inputs: what to run it on.
        settings: how carefully; a round is one window here.
        device: where.
        folder: takes the logs of the runners.
        cold_starts: fresh processes to open it in; at least 1.

    Raises:
        StepFailed: a runner crashed, hung or took too much memory; none is left behind.
        EdgeSdkError: an adapter refused, with its own error.
    """
    with Bench(inputs, settings, device, folder, threads=target.threads) as bench:
        side = Side("alone", target, bench)
        for _ in range(cold_starts):
            side.stop()
            side.start()
        side.warm_up()
        _time_windows(side, settings)
        side.sense()
        side.stop()
        environment, warnings = bench.environment()
    same = Interval(value=1.0, low=1.0, high=1.0)
    noise = _noise(side, settings)
    return Alone(
        measurement=side.result(same, noise, environment, warnings), cold=tuple(side.starts)
    )


def _time_windows(side: Side, settings: Settings) -> None:
    begun = time.monotonic()
    while len(side.windows) < settings.max_rounds:
        side.time_window()
        if len(side.windows) < settings.min_rounds:
            continue
        if time.monotonic() - begun >= settings.max_seconds:
            return
        if half_width(_typical(side)) <= settings.precise:
            return


def _typical(side: Side) -> Interval:
    value, low, high = middle_interval(np.array(side.levels_ms))
    return Interval(value=value, low=low, high=high)


def _noise(side: Side, settings: Settings) -> tuple[str, ...]:
    """The rule of `edgesdk.measure.series.noise` for a side without a partner."""
    reasons = []
    width, range_ = half_width(_typical(side)), spread(side.levels_ms)
    if side.unsettled and width > settings.steady_interval:
        reasons.append("noisy: times did not become steady during warm-up")
    if width > settings.noisy_interval:
        reasons.append(f"noisy: the time of a run is only known to ±{width:.0%}")
    if range_ > settings.noisy_spread:
        reasons.append(f"noisy: windows differ by {range_:.0%}")
    return tuple(reasons)
