"""From timed micro-graphs to series of single operations; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesdk.plan.interpolate import Interpolation
from edgesdk.probe.points import Experiment

Series = tuple[str, str, str]
"""Backend, precision and kind."""
Points = list[tuple[float, ...]]

_FIRST = ("run", "softmax", "add", "copy", "reduce")
"""Kinds that others are corrected by, in the order in which they need each other."""
_LEAST_US = 0.01
_LEAST_SHARE = 0.1
"""What is left after subtracting may not be less than this share of the whole: below, it is noise.
The share stands instead."""
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One experiment and what the child said of it: see `edgesdk.probe.child.time_experiments`."""

    experiment: Experiment
    answer: Mapping[str, Any]


def series_of(timed: Sequence[Timed]) -> dict[Series, Points]:
    """Sizes and microseconds of one operation, by series, in the order in which they were measured.

    What a run costs by itself, and what else a graph holds, is subtracted; so a series can only be as
    good as those it is corrected by. Failed experiments are left out.
    """
    found: dict[Series, Points] = {}
    fits: dict[Series, Interpolation] = {}

    def time_of(backend: str, precision: str, kind: str, sizes: Sequence[float]) -> float:
        for typed in (precision, "fp32"):
            key = backend, typed, kind
            if key in found and key not in fits:
                fits[key] = Interpolation(found[key])
            if key in fits:
                return fits[key].at(sizes).us
        return 0.0

    rank = {kind: number for number, kind in enumerate(_FIRST)}
    ordered = sorted(timed, key=lambda item: rank.get(item.experiment.kind, len(rank)))
    for item in ordered:
        point = _single(item, time_of)
        if point is not None:
            found.setdefault(item.experiment.series, []).append(point)
    return found


def _single(item: Timed, time_of: Any) -> tuple[float, ...] | None:
    experiment, answer = item.experiment, item.answer
    if "us" not in answer:
        return None
    backend, precision = experiment.backend, experiment.precision
    whole = float(answer["us"])
    if experiment.kind == "run":
        return (float(answer["bytes"]), _rounded(whole))
    if "base_us" in answer:
        us = (whole - float(answer["base_us"])) / answer["units"]
        return (*map(float, experiment.sizes), _rounded(max(us, _LEAST_US)))
    rest = whole - time_of(backend, precision, "run", (float(answer["bytes"]),))
    for kind, sizes, count in answer["extra"]:
        rest -= count * time_of(backend, precision, kind, sizes)
    us = max(rest, _LEAST_SHARE * whole) / answer["units"]
    return (*map(float, experiment.sizes), _rounded(max(us, _LEAST_US)))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
