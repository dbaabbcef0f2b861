"""Culprits: the few nodes to spare so that a recipe that failed its check passes it. Pure.

A check is costly, so the number of checks is what counts. It is taken for granted that sparing more
nodes never makes a check fail that passed. Then

1. the shortest passing front part of the ranking is found, trying 1, 4 and 16 nodes and then by
   halving: 3 + log2(N) checks at most, and very few when the ranking is right;
2. its last node is a culprit. The shortest front part that passes together with the culprits known
   so far ends with the next one, and so on until they pass alone (QuickXplain with a given order;
   Junker, AAAI 2004), or until the limit of checks: then the smallest set that passed is the answer.
   So it is when a culprit's neighbour is the next one, with more before it: damage that is spread
   over many nodes leaves nothing to find.

A ranking that is wrong costs checks, never correctness: only what was seen to pass is answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgesdk.errors import InputError

_SPARE = 8
_LEAPS = (1, 4, 16)
"""Front parts tried before halving: culprits are few, and a good ranking has them in front."""
_FEW = 4
"""Where more nodes than these are left and not one can be left out, damage is spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One check: the nodes that were spared, in ranking order, and whether it passed."""

    kept: tuple[str, ...]
    good: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprits:
    """What was found.

    Attributes:
        keep: nodes to spare, in ranking order; None when the check fails with all of them
            kept, so that the fault lies elsewhere.
        minimal: each of them was shown to be needed beside the others; a single one is.
        evaluations: every check made, in order.
    """

    keep: tuple[str, ...] | None
    minimal: bool
    evaluations: tuple[Evaluation, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, by way of JSON."""
        made = (
            Evaluation(kept=tuple(one["kept"]), good=one["good"]) for one in data["evaluations"]
        )
        keep = None if data["keep"] is None else tuple(data["keep"])
        return cls(keep=keep, minimal=data["minimal"], evaluations=tuple(made))


def most_evaluations(count: int) -> int:
    """The default limit of checks for `count` nodes: log2(count), rounded up, and 8."""
    return math.ceil(math.log2(max(count, 1))) + _SPARE


def find_culprits(
    ranked: Sequence[str],
    is_good: Callable[[frozenset[str]], bool],
    *,
    limit: int | None = None,
    worth_shrinking: Callable[[tuple[str, ...]], bool] = lambda kept: True,
) -> Culprits:
    """Find a small set of nodes that makes the check pass when spared.

    Args:
        ranked: all nodes that the recipe quantizes, the most damaging first; no name twice.
        is_good: whether the check passes with these nodes spared and all others as the recipe says;
            never asked about the empty set, which is known to fail, nor twice about one set.
        limit: checks at most, by default `most_evaluations`; at least log2(N) + 5, rounded up, so
            that a passing set is always found.
        worth_shrinking: whether to look for a smaller set than one that passes.

    Raises:
        InputError: no nodes, a name twice, or a limit that is too low.
    """
    fewest = most_evaluations(len(ranked)) - 3
    most = most_evaluations(len(ranked)) if limit is None else limit
    if not ranked or len(set(ranked)) != len(ranked):
        raise InputError(f"a ranking of {len(ranked)} nodes; it needs at least one, each once")
    if most < fewest:
        raise InputError(f"{most} checks for {len(ranked)} nodes; legal: {fewest} and more")
    search = _Search(tuple(ranked), is_good, most, worth_shrinking)
    length = search.shortest_front(())
    if length is None:
        return Culprits(keep=None, minimal=False, evaluations=tuple(search.made))
    known: tuple[int, ...] = ()
    shorter: int | None = length
    while shorter and not search.is_enough:
        known = (shorter - 1, *known)
        shorter = search.shortest_front(known)
        if shorter == known[0] and shorter > _FEW:
            break
    minimal = len(search.best) == 1 or (shorter == 0 and not search.is_enough)
    return Culprits(keep=search.names(search.best), minimal=minimal, evaluations=tuple(search.made))


class _Search:
    """Sets are tuples of places in the ranking."""

    def __init__(
        self,
        ranked: tuple[str, ...],
        is_good: Callable[[frozenset[str]], bool],
        most: int,
        worth_shrinking: Callable[[tuple[str, ...]], bool],
    ) -> None:
        self.is_enough = False
        self.made: list[Evaluation] = []
        self.best: tuple[int, ...] = ()
        self._ranked = ranked
        self._is_good = is_good
        self._most = most
        self._worth_shrinking = worth_shrinking
        self._seen: dict[frozenset[int], bool] = {}

    def names(self, places: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self._ranked[place] for place in sorted(places))

    def shortest_front(self, known: tuple[int, ...]) -> int | None:
        """Length of the shortest front part before `known` that passes with it.

        None when there is none, or when the limit was reached first.
        """
        end = known[0] if known else len(self._ranked)
        fails = -1 if known else 0
        passes: int | None = end if known else None
        while passes is None or passes - fails > 1:
            front = self._from_the_end(fails, passes, end) if known else self._next(fails, passes)
            good = self._check(frozenset((*range(front), *known)))
            if good is None:
                return None
            if good:
                passes = front
                if self.is_enough:
                    break
            elif front == end:
                return None
            else:
                fails = front
        return passes

    def _next(self, fails: int, passes: int | None) -> int:
        """By leaps first, then by halving."""
        most = len(self._ranked) if passes is None else passes
        for leap in _LEAPS:
            if fails < leap < most:
                return leap
        return (fails + most + 1) // 2 if passes is None else (fails + most) // 2

    def _from_the_end(self, fails: int, passes: int | None, end: int) -> int:
        """None at all, then leaving out 1, 3, 7, … of the last while that passes, then by halving."""
        assert passes is not None
        if fails < 0:
            return 0
        longer = 2 * (end - passes) + 1
        return max(end - longer, fails + 1) if fails == 0 else (fails + passes) // 2

    def _check(self, places: frozenset[int]) -> bool | None:
        """Whether the check passes with these kept; None when no check is left."""
        known = self._implied(places)
        if known is not None:
            return known
        if len(self.made) >= self._most:
            return None
        good = self._is_good(frozenset(self._ranked[place] for place in places))
        self._seen[places] = good
        self.made.append(Evaluation(kept=self.names(tuple(places)), good=good))
        if good and (not self.best or len(places) < len(self.best)):
            self.best = tuple(places)
            self.is_enough = not self._worth_shrinking(self.names(self.best))
        return good

    def _implied(self, places: frozenset[int]) -> bool | None:
        """What earlier checks say: more than a passing set passes, less than a failing one fails."""
        if not places:
            return False
        for seen, good in self._seen.items():
            if good and seen <= places:
                return True
            if not good and places <= seen:
                return False
        return None
