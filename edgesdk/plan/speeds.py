"""Asking a profile how long an operation takes: its probed series, else its stated peaks; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from math import prod

from edgesdk.plan.interpolate import Guess, Interpolation
from edgesdk.profile_speeds import KINDS, Speed
from edgesdk.profile_values import Figure, Profile

_STAND_INS = {
    "sigmoid": ("gelu", "swish", "relu"),
    "hardswish": ("swish", "gelu", "relu"),
    "swish": ("hardswish", "gelu", "relu"),
    "gelu": ("swish", "sigmoid", "relu"),
    "add": ("scale", "relu", "copy"),
    "scale": ("relu", "add"),
    "relu": ("add", "copy"),
    "copy": ("transpose", "add"),
    "transpose": ("copy", "add"),
    "pool": ("copy", "add"),
    "reduce": ("copy", "add"),
    "reshape": ("relu",),
    "border": ("copy", "add"),
}
"""What a kind that was not measured is most like, among those with the same sizes or `elements`."""

_STAND_IN_SPREAD = 0.4
_WORK = {"conv": 1.0, "depthwise": 1.0, "product": 1.0, "batched": 1.0, "lstm": 4.0}
"""Multiply-accumulates for each unit of the product of the sizes."""
_PEAK_SHARE = 0.3
"""Of a stated peak that real layers reach; between 0.05 and 0.8 were seen, hence the spread."""
_PEAK_SPREAD = 0.8
_DISPATCH_US = 4.0
"""Starting one operation where nothing was measured: between 1 and 20 us were seen."""
_RUN_US = 20.0
_BYTES = 8.0
"""Moved for each element by an element-wise operation in float32: one read, one written."""
_BANDWIDTH = 10e9
"""Bytes a second where a profile states none: what the slowest shipped board has."""


class Speeds:
    """How fast a device is, as far as its profile says.

    Attributes:
        probed: whether the profile has measured series for any backend.
    """

    def __init__(self, profile: Profile, threads: int | None = None) -> None:
        """Of a profile, for runs with that many threads; None for those that were probed."""
        self._profile = profile
        self._series: dict[tuple[str, str, str], Speed] = {}
        for speed in sorted(profile.speeds, key=lambda s: s.threads != threads, reverse=True):
            self._series[speed.backend, speed.precision, speed.op] = speed
        self._fits: dict[tuple[str, str, str], Interpolation] = {}
        self.probed = bool(profile.speeds)

    def covers(self, backend: str) -> bool:
        """Whether a backend was probed."""
        return any(key[0] == backend for key in self._series)

    def footprint_bytes(self, backend: str) -> float | None:
        """Peak memory of a process that has opened next to nothing; None where unknown."""
        return _base(self._profile.runtime(backend).footprint)

    def weight_copies(self, backend: str) -> float | None:
        """How often weights count in peak memory; None where unknown."""
        return _base(self._profile.runtime(backend).weight_copies)

    def guess(self, backend: str, precision: str, kind: str, sizes: Sequence[float]) -> Guess:
        """The time of one operation, in microseconds, and how sure that is.

        What was not measured in a precision is taken from fp32, what was not measured at all from
        the most similar kind; without any series it follows from the stated peaks.
        """
        plain = kind.rpartition(">")[2]
        for asked, extra in _alternatives(kind):
            # A tail that was not measured after its anchor costs what it costs alone.
            for typed in dict.fromkeys((precision, "fp32")):
                fit = self._fit((backend, typed, asked))
                if fit is not None:
                    found = fit.at(sizes if asked == kind else _adapted(sizes, asked))
                    return Guess(us=found.us, spread=math.hypot(found.spread, extra))
        return self._stated(backend, precision, plain, sizes)

    def measured(self, backend: str, precision: str, kind: str) -> bool:
        """Whether there is a series of just that."""
        return (backend, precision, kind) in self._series

    def _fit(self, key: tuple[str, str, str]) -> Interpolation | None:
        if key not in self._fits and key in self._series:
            self._fits[key] = Interpolation(self._series[key].points)
        return self._fits.get(key)

    def _stated(self, backend: str, precision: str, kind: str, sizes: Sequence[float]) -> Guess:
        if kind == "run":
            return Guess(us=_RUN_US, spread=_PEAK_SPREAD)
        bandwidth = _base(self._profile.memory.bandwidth) or _BANDWIDTH
        if kind not in _WORK:
            us = prod(sizes) * _BYTES / bandwidth * 1e6
            return Guess(us=_DISPATCH_US + us, spread=_PEAK_SPREAD)
        number = "int8" if precision.startswith("w") else precision
        operations = 2 * prod(sizes) * _WORK[kind]
        compute = operations / (self._peak(backend, number) * _PEAK_SHARE) * 1e6
        weights = prod(sizes[1:]) * (1 if number == "int8" else 4) / bandwidth * 1e6
        return Guess(us=_DISPATCH_US + max(compute, weights), spread=_PEAK_SPREAD)

    def _peak(self, backend: str, number: str) -> float:
        """Operations a second of the first unit that a backend reaches, by number type."""
        unit = self._profile.unit(self._profile.runtime(backend).units[0])
        peaks = {name: figure.base for name, figure in unit.peak}
        if number in peaks:
            return peaks[number]
        if peaks:
            return min(peaks.values())
        clock = _base(unit.clock) or 1.5e9
        cores = _base(unit.cores) or 1.0
        return clock * cores * (32.0 if number == "int8" else 8.0)


def _alternatives(kind: str) -> Iterator[tuple[str, float]]:
    yield kind, 0.0
    anchor, _, plain = kind.rpartition(">")
    stand_ins = _STAND_INS.get(plain, ())
    if anchor:
        yield from ((f"{anchor}>{other}", _STAND_IN_SPREAD) for other in stand_ins)
        yield plain, _STAND_IN_SPREAD
    yield from ((other, _STAND_IN_SPREAD) for other in stand_ins)


def _adapted(sizes: Sequence[float], kind: str) -> Sequence[float]:
    """Sizes of one kind for another that counts elements, or elements and taps."""
    return sizes if len(sizes) == len(KINDS[kind]) else (prod(sizes),)


def _base(figure: Figure | None) -> float | None:
    return figure.base if figure else None
