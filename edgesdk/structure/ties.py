"""Indices of axes that can only go together, and those that cannot go at all.

Every index of a traced axis is an atom, a number. Tying two atoms says that one cannot be removed without
the other (a residual sum has one channel of each operand in it); fixing one says that it must stay, and why.
Both are kept in a disjoint-set forest, so the order in which a graph is walked makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Atoms = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something must stay.

    Attributes:
        text: a clause, without a full stop.
        node: name of the node that demands it; empty for inputs and outputs.
    """

    text: str
    node: str = ""


class Ties:
    """A growing set of atoms."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, tuple[int, Reason]] = {}

    def fresh(self, count: int) -> Atoms:
        """New atoms, tied to nothing."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def tie(self, left: Atoms, right: Atoms) -> None:
        """Tie two rows of atoms of one length, position by position."""
        if left is right:
            return
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            self._join(one, other)

    def tie_all(self, atoms: Atoms) -> None:
        """Tie these atoms to each other."""
        first, *rest = atoms.ravel().tolist()
        for other in rest:
            self._join(first, other)

    def fix(self, atoms: Atoms, reason: Reason) -> None:
        """Say that these must stay; the first reason that was given for a set is the one kept."""
        for atom in {self._find(atom) for atom in atoms.ravel().tolist()}:
            self._reasons.setdefault(atom, (len(self._reasons), reason))

    def roots(self) -> Atoms:
        """int64[atoms], one atom of each set, the same for all that are tied."""
        return np.array([self._find(atom) for atom in range(len(self._parent))], np.int64)

    def any_fixed(self, atoms: Atoms) -> bool:
        """Whether one of these must stay."""
        return any(self._find(atom) in self._reasons for atom in atoms.ravel().tolist())

    def reasons(self) -> dict[int, Reason]:
        """Why sets must stay, by their roots."""
        return {atom: reason for atom, (_, reason) in self._reasons.items()}

    def _find(self, atom: int) -> int:
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def _join(self, one: int, other: int) -> None:
        one, other = self._find(one), self._find(other)
        if one == other:
            return
        # The smaller number is the root: what comes out depends on the graph alone.
        root, child = min(one, other), max(one, other)
        self._parent[child] = root
        known = [self._reasons.pop(atom) for atom in (one, other) if atom in self._reasons]
        if known:
            self._reasons[root] = min(known, key=lambda pair: pair[0])
