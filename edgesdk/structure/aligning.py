"""How the axes of a reshaped tensor correspond: both are products of the same factors, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from operator import mul

Dim = int | str | None
"""A length, a name of one that is the same wherever it stands, or nothing known."""
Factors = list[list[tuple[int, int]]]
"""For each axis: the number and the length of the factors that it is the product of."""


def align(source: Sequence[Dim], target: Sequence[Dim]) -> tuple[Factors, Factors]:
    """The factors of each axis before and after a reshape, numbered alike on both sides.

    An axis that could not be aligned, or of length 1, has none. An axis that stays what it is has one,
    even where its length is only known by name (its length is then given as 0).
    """
    before: Factors = [[] for _ in source]
    after: Factors = [[] for _ in target]
    left = [axis for axis, dim in enumerate(source) if dim != 1]
    right = [axis for axis, dim in enumerate(target) if dim != 1]
    number = 0
    for side in (0, -1):
        while left and right and _same(source[left[side]], target[right[side]]):
            one, other = left.pop(side), right.pop(side)
            length = source[one]
            factor = (number, length if isinstance(length, int) else 0)
            before[one], after[other] = [factor], [factor]
            number += 1
    for one_end, other_end in _matching(left, right, source, target):
        number = _refine(one_end, other_end, source, target, before, after, number)
    return before, after


def _same(one: Dim, other: Dim) -> bool:
    return one is not None and one == other


def _matching(
    left: list[int], right: list[int], source: Sequence[Dim], target: Sequence[Dim]
) -> list[tuple[list[int], list[int]]]:
    """Runs of axes whose products are equal: all, else as many as can be from either end."""
    if all(isinstance(source[a], int) for a in left) and all(
        isinstance(target[a], int) for a in right
    ):
        return [(left, right)]
    runs = []
    tail = _longest(left[::-1], right[::-1], source, target)
    if tail:
        one, other = (run[::-1] for run in tail)
        runs.append((one, other))
        left, right = left[: -len(one)], right[: -len(other)]
    head = _longest(left, right, source, target)
    if head:
        runs.append(head)
    return runs


def _longest(
    left: list[int], right: list[int], source: Sequence[Dim], target: Sequence[Dim]
) -> tuple[list[int], list[int]] | None:
    """The longest runs from the start, all lengths known, with equal products."""
    ends = {}
    for length in range(1, len(left) + 1):
        dims = [source[axis] for axis in left[:length]]
        if not all(isinstance(dim, int) for dim in dims):
            break
        ends[prod(dim for dim in dims if isinstance(dim, int))] = length
    best = None
    for length in range(1, len(right) + 1):
        dims = [target[axis] for axis in right[:length]]
        if not all(isinstance(dim, int) for dim in dims):
            break
        size = prod(dim for dim in dims if isinstance(dim, int))
        if size in ends:
            best = (left[: ends[size]], right[:length])
    return best


def _refine(
    left: list[int],
    right: list[int],
    source: Sequence[Dim],
    target: Sequence[Dim],
    before: Factors,
    after: Factors,
    number: int,
) -> int:
    """Cut both sides wherever either ends an axis; nothing is aligned where the cuts do not nest."""
    one = [dim for dim in (source[axis] for axis in left) if isinstance(dim, int)]
    other = [dim for dim in (target[axis] for axis in right) if isinstance(dim, int)]
    if prod(one) != prod(other) or 0 in one:
        return number
    cuts = sorted({1, *accumulate(one, mul), *accumulate(other, mul)})
    if any(high % low for low, high in pairwise(cuts)):
        return number
    sizes = [high // low for low, high in pairwise(cuts)]
    for axes, dims, out in ((left, one, before), (right, other, after)):
        place = 0
        for axis, dim in zip(axes, dims, strict=True):
            taken = 1
            while taken < dim:
                out[axis].append((number + place, sizes[place]))
                taken *= sizes[place]
                place += 1
    return number + len(sizes)
