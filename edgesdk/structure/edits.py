"""Numbers inside a graph that follow from how many channels there are.

A Conv names its groups, a Reshape its target, a Split its sizes. Each such number equals the count of
certain indices of a traced axis, so what it must become is the count of those that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesdk.structure.ties import Atoms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttributeCount:
    """An integer attribute, as `group` of a Conv.

    Attributes:
        node: its place among the nodes of the graph.
        name: of the attribute.
        atoms: what it counts.
    """

    node: int
    name: str
    atoms: Atoms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttributeCounts:
    """A list attribute, as `split` of a Split, or the bounds of an old Slice.

    Attributes:
        node: its place among the nodes of the graph.
        name: of the attribute.
        counted: what the entry at a position counts.
        axis: the axis that they divide; without removals there the attribute stays as it is.
    """

    node: int
    name: str
    counted: tuple[tuple[int, Atoms], ...]
    axis: Atoms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputCounts:
    """Entries of an integer input, as the target of a Reshape.

    Attributes:
        node: its place among the nodes of the graph.
        input: position among its inputs.
        counted: what the entry at a position counts.
        axis: the axis that they divide; without removals there the input stays as it is.
        drop: an attribute that says the same and has to go.
    """

    node: int
    input: int
    counted: tuple[tuple[int, Atoms], ...]
    axis: Atoms
    drop: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picks:
    """Indices that a Gather picks from a traced axis; picks of what is removed go as well.

    Attributes:
        node: its place among the nodes of the graph.
        indices: what it picks, each at least 0; one entry if `scalar`.
        axis: what it picks from.
        scalar: the indices have no axis.
    """

    node: int
    indices: tuple[int, ...]
    axis: Atoms
    scalar: bool


Edit = AttributeCount | AttributeCounts | InputCounts | Picks
