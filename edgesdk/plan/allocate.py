"""Which nodes of a quantized form to spare: the least cost for the most quality; pure.

Damages of single nodes add up where their errors are independent, and so do their times and bytes.
The best sets then follow from one order, by damage a millisecond (or byte), that of the knapsack
problem's linear relaxation (Dantzig, Discrete-Variable Extremum Problems, 1957): sets cut from it are
nested, each is optimal for its own cost, and a handful of them can be tried for real.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_STEP = 1.5
"""Each set is at least so many times as large as the one before, past the free nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Nodes to spare, and what that is expected to change.

    Attributes:
        kept: their names, the most worthwhile first.
        damage_left: share of the whole form's damage that remains; 0 up, 1 for no gain.
        extra: time (or bytes) that it adds to the whole form's; below 0 when it gets faster.
    """

    kept: tuple[str, ...]
    damage_left: float
    extra: float


def order_by_worth(damage: Mapping[str, float], gain: Mapping[str, float]) -> tuple[str, ...]:
    """Nodes in the order in which sparing them is worthwhile.

    First those that quantizing gains nothing at, then by damage for each millisecond (or byte) that
    quantizing them saves; equal ones by name.

    Args:
        damage: of quantizing each node alone, 0 up.
        gain: time (or bytes) that quantizing it saves; what is missing saves nothing.
    """

    def worth(node: str) -> tuple[float, float, str]:
        saved = gain.get(node, 0.0)
        if saved <= 0:
            return (-math.inf, -damage[node], node)
        return (-damage[node] / saved, 0.0, node)

    return tuple(sorted(damage, key=worth))


def ladder(damage: Mapping[str, float], gain: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    """Nested sets of nodes to spare, smallest first, each a beginning of the order of worth.

    Where quantizing some nodes saves nothing these are the first set, and part of all others. Sets
    grow by a factor, so that a few dozen span any number of nodes. Neither none nor all are a set.

    Args:
        damage: of quantizing each node alone, 0 up.
        gain: time (or bytes) that quantizing each saves.
    """
    order = order_by_worth(damage, gain)
    free = sum(1 for node in order if gain.get(node, 0.0) <= 0)
    counts = [free] if free else []
    added = 1
    while free + added < len(order):
        counts.append(free + added)
        added = max(added + 1, int(added * _STEP))
    return tuple(order[:count] for count in counts if count < len(order))
