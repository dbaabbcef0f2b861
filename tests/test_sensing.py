"""Sensors watched while an artifact runs: what is made of their readings, and a real watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.device.local import LocalDevice
from edgesdk.measure.alone import measure_alone
from edgesdk.measure.result import Measurement
from edgesdk.measure.sensing import Watched, summarise_sensors, throttled
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.profile_values import Sensor

QUICK = Settings(min_rounds=5, max_rounds=5, warmup_seconds=0.2, sense_seconds=1.0)


def moments(kind: str, unit: str, *points: tuple[float, float]) -> Watched:
    return [
        {"at_s": at, "readings": [{"name": "it", "kind": kind, "unit": unit, "value": value}]}
        for at, value in points
    ]


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=20), st.floats(1e-5, 10))
def test_the_energy_of_a_run_is_the_mean_power_times_its_time(
    milliwatts: list[float], run_s: float
) -> None:
    loaded = moments("power", "mW", *((0.1 * n, value) for n, value in enumerate(milliwatts)))
    (told,) = summarise_sensors(moments("power", "mW", (0, 100.0)), loaded, run_s)
    assert told.idle == 100.0
    assert told.loaded == pytest.approx(np.mean(milliwatts))
    assert told.run_mj == pytest.approx(np.mean(milliwatts) * run_s)
    assert told.readings == len(milliwatts)


def test_a_counter_of_energy_is_told_as_power() -> None:
    loaded = moments("energy", "J", (10.0, 5.0), (11.0, 8.0), (12.0, 13.0))
    (told,) = summarise_sensors([], loaded, 0.5)
    assert (told.loaded, told.unit, told.run_mj) == (4000.0, "mW", 2000.0)
    assert told.idle is None


@pytest.mark.parametrize("values", [(5.0, 1.0), (5.0, 5.0), (5.0, 9.0, 2.0, 10.0), (5.0,)])
def test_a_counter_that_stands_still_or_began_anew_tells_nothing(values: tuple[float, ...]) -> None:
    assert summarise_sensors([], moments("energy", "J", *enumerate(values)), 1.0) == ()


def test_heat_has_no_energy() -> None:
    (told,) = summarise_sensors([], moments("temperature", "°C", (0, 40.0), (1, 50.0)), 1.0)
    assert (told.loaded, told.run_mj) == (45.0, None)


@pytest.mark.parametrize(
    ("before", "after", "warns"),
    [
        (0x0, 0x0, False),
        (0x50000, 0x50000, False),  # long ago, not while it was measured
        (0x0, 0x40000, True),
        (0x50000, 0x50004, True),
    ],
)
def test_clocks_held_back_now_or_meanwhile_are_a_warning(
    before: int, after: int, warns: bool
) -> None:
    flags = [moments("throttling", "flags", (0, value)) for value in (before, after)]
    assert bool(throttled(*flags)) == warns
    assert throttled([], []) == ()


def measure(small_cnn: Path, folder: Path, *sensors: Sensor) -> Measurement:
    row = folder / "row.npz"
    np.savez(row, image=np.zeros((1, 3, 32, 32), np.float32))
    target = Target(backend="onnxruntime", artifact=small_cnn)
    inputs = Inputs(names=("image",), rows=(row,))
    return measure_alone(
        target,
        inputs,
        replace(QUICK, sensors=sensors),
        LocalDevice(),
        folder / "logs",
        cold_starts=1,
    ).measurement


def test_a_counter_that_goes_like_a_clock_is_read_as_its_power(
    small_cnn: Path, tmp_path: Path
) -> None:
    """A microjoule a nanosecond is a kilowatt; the clock of the machine stands for a meter."""
    meter = Sensor(name="meter", kind="energy", read="command", at="date +=%s%N", unit="uJ")
    found = measure(small_cnn, tmp_path, meter)
    (told,) = found.sensed
    assert told.loaded == pytest.approx(1e6, rel=0.2)
    assert told.idle == pytest.approx(1e6, rel=0.2)
    assert found.run_mj == told.run_mj
    assert Measurement.from_json(found.to_json()) == found


def test_a_rail_is_watched_at_rest_and_while_it_runs(small_cnn: Path, tmp_path: Path) -> None:
    rail = tmp_path / "rail"
    rail.write_text("2500000\n")
    power = Sensor(name="rail", kind="power", read="sysfs", at=str(rail), unit="uW")
    heat = Sensor(name="zone", kind="temperature", read="sysfs", at="/nowhere*/temp", unit="m°C")
    found = measure(small_cnn, tmp_path, power, heat)
    (told,) = found.sensed
    assert (told.idle, told.loaded, told.unit) == (2500.0, 2500.0, "mW")
    assert told.readings > 3
    assert told.run_mj is not None
    assert told.run_mj >= 2.5 * found.timed.p50_ms / 2


def test_without_a_sensor_of_power_nothing_is_watched(small_cnn: Path, tmp_path: Path) -> None:
    zone = tmp_path / "temp"
    zone.write_text("40000")
    heat = Sensor(name="zone", kind="temperature", read="sysfs", at=str(zone), unit="m°C")
    assert measure(small_cnn, tmp_path, heat).sensed == ()
