"""Which layers to shrink how far: the least damage for what has to be saved; pure.

Every layer offers options, each with a cost (milliseconds, bytes or multiply-accumulates) and a
damage. Where damages and costs add up over layers, the best assignments follow from the lower convex
hull of each layer's options: walking all hulls at once by damage for each unit that is saved passes
only assignments that are optimal for their own cost, mixtures included (Shoham and Gersho, Efficient
Bit Allocation for an Arbitrary Set of Quantizers, 1988). What lies between two of them costs at
most the last step more than it had to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T]):
    """One form that a layer may take.

    Attributes:
        choice: what it is.
        cost: of the layer in this form, 0 up.
        damage: that the form does, 0 up.
    """

    choice: T
    cost: float
    damage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung(Generic[T]):
    """An option for every layer.

    Attributes:
        changed: the layer whose option differs from that of the rung before; empty for the first.
        options: by layer.
        cost, damage: sums over the layers.
    """

    changed: str
    options: Mapping[str, Option[T]]
    cost: float
    damage: float


def hull(options: Sequence[Option[T]]) -> list[Option[T]]:
    """The options on the lower convex hull, the least damage first, each cheaper than the one before.

    Args:
        options: at least one.
    """
    found: list[Option[T]] = []
    for option in sorted(options, key=lambda o: (o.damage, o.cost)):
        if found and option.cost >= found[-1].cost:
            continue
        while len(found) > 1 and _price(found[-2], option) <= _price(found[-2], found[-1]):
            found.pop()
        found.append(option)
    return found


def ladder(options: Mapping[str, Sequence[Option[T]]]) -> list[Rung[T]]:
    """Optimal assignments from the least damage to the least cost, one layer changing at a time.

    Args:
        options: of every layer, at least one each.
    """
    hulls = {name: hull(choices) for name, choices in options.items()}
    taken = {name: choices[0] for name, choices in hulls.items()}
    steps = [
        (_price(choices[0], choices[1]), name, 1)
        for name, choices in hulls.items()
        if len(choices) > 1
    ]
    heapify(steps)
    rungs = [_rung("", taken)]
    while steps:
        _, name, place = heappop(steps)
        choices = hulls[name]
        taken = {**taken, name: choices[place]}
        rungs.append(_rung(name, taken))
        if place + 1 < len(choices):
            heappush(steps, (_price(choices[place], choices[place + 1]), name, place + 1))
    return rungs


def allocate(
    options: Mapping[str, Sequence[Option[T]]],
    most: float,
    of: Callable[[Rung[T]], float] = lambda rung: rung.cost,
) -> Rung[T] | None:
    """The first assignment on the ladder with at most so much; None where even the last has more.

    Args:
        options: of every layer, at least one each.
        most: in the unit of `of`.
        of: what is limited; the cost, unless another sum over the layers.
    """
    return next((rung for rung in ladder(options) if of(rung) <= most), None)


def _price(before: Option[T], after: Option[T]) -> float:
    """Damage for each unit that the second saves over the first."""
    return (after.damage - before.damage) / (before.cost - after.cost)


def _rung(changed: str, taken: Mapping[str, Option[T]]) -> Rung[T]:
    return Rung(
        changed=changed,
        options=taken,
        cost=sum(option.cost for option in taken.values()),
        damage=sum(option.damage for option in taken.values()),
    )
