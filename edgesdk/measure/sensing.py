"""What the sensors of a device tell while an artifact runs, beside what they tell at rest.

Watched apart from the timed windows, because reading a sensor takes processor time itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Self

from edgesdk.measure.sensors import read_sensors
from edgesdk.profile_values import Sensor, SensorKind

WATCHED: frozenset[SensorKind] = frozenset(("power", "energy", "current"))
"""Kinds for which it is worth running an artifact a while longer."""
_EVERY_S = 0.1
_NOW = 0xFFFF

Watched = list[dict[str, Any]]
"""Moments of a watch: `at_s` by the device's own clock, and the `readings` as plain values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensed:
    """One sensor, at rest and while an artifact ran without pause.

    Attributes:
        name: of the rail, the zone or the sensor.
        kind: what it tells; a counter of energy is told as the power between its ends.
        unit: of both values.
        idle: mean while nothing of ours ran; None if it gave no reading then.
        loaded: mean while the artifact ran.
        readings: that `loaded` is the mean of.
        run_mj: millijoules that a run takes at that power, what the device takes at rest included;
            None for what is no power.
    """

    name: str
    kind: SensorKind
    unit: str
    idle: float | None
    loaded: float
    readings: int
    run_mj: float | None = None


class Watch:
    """Reads sensors again and again in a thread, until it is left. Runs on the device."""

    def __init__(self, sensors: Iterable[Sensor]) -> None:
        self.seen: Watched = []
        self._sensors = tuple(sensors)
        self._over = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        readings = [
            {"name": item.name, "kind": item.kind, "unit": item.unit, "value": item.value}
            for item in read_sensors(self._sensors)
        ]
        self.seen.append({"at_s": time.monotonic(), "readings": readings})


def summarise_sensors(idle: Watched, loaded: Watched, run_s: float) -> tuple[Sensed, ...]:
    """What was watched, sensor by sensor.

    Args:
        idle: seen while nothing of ours ran.
        loaded: seen while an artifact ran.
        run_s: seconds that one of its runs took meanwhile.
    """
    rest = {key: mean for key, mean, _ in _means(idle)}
    return tuple(
        Sensed(
            name=name,
            kind=kind,
            unit=unit,
            idle=rest.get((name, kind, unit)),
            loaded=mean,
            readings=count,
            run_mj=mean * run_s if unit == "mW" else None,
        )
        for (name, kind, unit), mean, count in _means(loaded)
    )


_Key = tuple[str, SensorKind, str]


def _means(watched: Watched) -> list[tuple[_Key, float, int]]:
    """Each sensor with the mean of its readings, and how many there were."""
    series: dict[_Key, list[tuple[float, float]]] = {}
    for moment in watched:
        for item in moment["readings"]:
            key = item["name"], item["kind"], item["unit"]
            series.setdefault(key, []).append((moment["at_s"], item["value"]))
    found: list[tuple[_Key, float, int]] = []
    for (name, kind, unit), points in series.items():
        if kind == "energy":
            power = _power(points)
            if power is not None:
                found.append(((name, kind, "mW"), power, len(points)))
            continue
        mean = sum(value for _, value in points) / len(points)
        found.append(((name, kind, unit), mean, len(points)))
    return found


def _power(points: Sequence[tuple[float, float]]) -> float | None:
    """Milliwatts from a counter of joules; None where it did not advance, or began anew."""
    (begun_s, first), (ended_s, last) = points[0], points[-1]
    rising = all(after >= before for (_, before), (_, after) in itertools.pairwise(points))
    if not rising or last == first or ended_s <= begun_s:
        return None
    return 1e3 * (last - first) / (ended_s - begun_s)


def throttled(before: Watched, after: Watched) -> tuple[str, ...]:
    """Warnings of sensors that tell of clocks held back, now or since `before`.

    Flags are those of a Raspberry Pi: the lower 16 bits are about now, the upper ones about all the
    time since it was started (documentation of `vcgencmd get_throttled`).
    """
    known = {item["name"]: int(item["value"]) for item in _throttling(before)}
    told = []
    for item in _throttling(after):
        flags = int(item["value"])
        if flags & _NOW or flags & ~known.get(item["name"], flags):
            told.append(f"the device held its clocks back ({item['name']}: flags {flags:#x})")
    return tuple(told)


def _throttling(watched: Watched) -> list[dict[str, Any]]:
    readings = watched[-1]["readings"] if watched else []
    return [item for item in readings if item["kind"] == "throttling"]
