"""Which times contradict their neighbours, and what stands when they were taken again; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgesdk.plan.interpolate import Interpolation
from edgesdk.probe.series import Points, Timed, series_of

_DOUBTFUL = 1.3
"""Times what the rest of its series makes expect."""


def doubtful(timed: Sequence[Timed]) -> list[Timed]:
    """The experiments that differ most from what the others of their series foretell, worst first.

    Something else on the machine only ever adds time. A tail, the difference of two graphs, may also
    have come out too small that way.
    """
    points = series_of(timed)
    doubts = []
    for item in timed:
        others = points.get(item.experiment.series, [])
        sizes = tuple(map(float, item.experiment.sizes))
        own = [point for point in others if point[:-1] == sizes]
        rest: Points = [point for point in others if point[:-1] != sizes]
        if not own or len(rest) < 2:
            continue
        ratio = own[0][-1] / Interpolation(rest).at(sizes).us
        # Below the smallest of the rest nothing is foretold but an upper bound.
        foretold = sizes > min(point[:-1] for point in rest)
        too_small = "base_us" in item.answer and foretold
        doubt = max(ratio, 1 / ratio) if too_small else ratio
        if doubt > _DOUBTFUL:
            doubts.append((doubt, item))
    return [item for _, item in sorted(doubts, key=lambda pair: -pair[0])]


def settled(first: Timed, second: Timed) -> Timed:
    """Of two visits of one experiment the times that were disturbed less."""
    if "us" not in second.answer:
        return first
    lower = {
        name: min(first.answer[name], second.answer[name])
        for name in ("us", "base_us")
        if name in first.answer
    }
    return replace(first, answer={**first.answer, **lower})
