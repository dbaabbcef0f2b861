"""Which nodes of a quantized form to keep in float: the least cost for the most quality; pure.

Damages of single nodes add up (noise powers of independent errors do), and so do their times and
bytes. The best sets then follow from one order, by damage a millisecond (or byte), that of the
knapsack problem's linear relaxation (Dantzig, Discrete-Variable Extremum Problems, 1957): sets cut
from it are nested, each is optimal for its own cost, and a handful of them can be tried for real.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SHARES_LEFT = (0.5, 0.25, 0.1)
"""Of the whole form's damage: where the order is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Nodes to keep in float, and what that is expected to change.

    Attributes:
        kept: their names, the most worthwhile first.
        damage_left: share of the whole form's damage that remains, 0 to 1.
        extra: time (or bytes) that it adds to the whole form's; below 0 when it gets faster.
        why: in a sentence.
    """

    kept: tuple[str, ...]
    damage_left: float
    extra: float
    why: str


def order_by_worth(damage: Mapping[str, float], gain: Mapping[str, float]) -> tuple[str, ...]:
    """Nodes in the order in which keeping them in float is worthwhile.

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


def propose(
    damage: Mapping[str, float],
    gain: Mapping[str, float],
    *,
    shares_left: Sequence[float] = _SHARES_LEFT,
) -> tuple[Proposal, ...]:
    """Nested sets of nodes to keep in float, smallest first.

    Where quantizing some nodes saves nothing these are the first set. The others are the shortest
    beginnings of the order that leave at most a given share of the damage.

    Args:
        damage: of quantizing each node alone, 0 up; nodes without damage are never worth keeping
            unless they save nothing either.
        gain: time (or bytes) that quantizing each saves.
        shares_left: descending, each between 0 and 1.
    """
    order = order_by_worth(damage, gain)
    total = sum(damage.values())
    if total <= 0:
        return ()
    free = sum(1 for node in order if gain.get(node, 0.0) <= 0)
    cuts: dict[int, str] = {}
    if 0 < free < len(order):
        cuts[free] = "what quantizing gains nothing at stays float"
    for share in shares_left:
        count = max(free, _shortest(order, damage, share * total))
        if 0 < count < len(order):
            cuts.setdefault(count, f"float where {1 - share:.0%} of the error arises")
    return tuple(_proposal(order[:count], damage, gain, cuts[count]) for count in sorted(cuts))


def _shortest(order: Sequence[str], damage: Mapping[str, float], allowed: float) -> int:
    left = sum(damage.values())
    for count, node in enumerate(order):
        if left <= allowed:
            return count
        left -= damage[node]
    return len(order)


def _proposal(
    kept: Sequence[str], damage: Mapping[str, float], gain: Mapping[str, float], why: str
) -> Proposal:
    total = sum(damage.values())
    return Proposal(
        kept=tuple(kept),
        damage_left=1.0 - sum(damage[node] for node in kept) / total,
        extra=sum(gain.get(node, 0.0) for node in kept),
        why=why,
    )
