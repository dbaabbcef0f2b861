"""What can be removed from a graph, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesdk.structure.axes import Axes
    from edgesdk.structure.tracer import Reader

Selection = Mapping[str, Iterable[int]]
"""Numbers of the units that go, by the name of their group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a unit owns of one axis of a stored tensor.

    Attributes:
        tensor: its name.
        axis: counted from the first.
        indices: ascending.
        read: these weights multiply the unit where it is read: zero them, and it is masked.
    """

    tensor: str
    axis: int
    indices: tuple[int, ...]
    read: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What goes together.

    Attributes:
        atom: the root of its atoms in the traced graph.
        parts: what it owns.
        parameters: stored values that go if it goes alone.
    """

    atom: int
    parts: tuple[Part, ...]
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that are exchangeable: each owns as many indices of the same axes.

    Attributes:
        name: of the first node that makes its channels; unique among groups.
        units: in the order of their indices there.
        width: channels of a unit there: 1, or the size of a head or of a convolution's group.
        hidden: they are hidden units of a recurrent cell.
        readers: the sums that read it.
    """

    name: str
    units: tuple[Unit, ...]
    width: int
    hidden: bool
    readers: tuple[Reader, ...]

    @property
    def tensors(self) -> tuple[tuple[str, int], ...]:
        """The axes of stored tensors that shrink with it."""
        return tuple((part.tensor, part.axis) for part in self.units[0].parts)

    @property
    def what(self) -> str:
        """What a unit is, for people."""
        if self.hidden:
            return "hidden unit"
        return "channel" if self.width == 1 else f"block of {self.width} channels"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """Channels that cannot be proved safe to remove.

    Attributes:
        name: of the first node that makes them.
        channels: how many.
        reason: a clause, without a full stop.
        node: the node that demands it; empty for inputs and outputs of the model.
    """

    name: str
    channels: int
    reason: str
    node: str

    def __str__(self) -> str:
        """One line for the report."""
        where = f" (node {self.node!r})" if self.node else ""
        return f"{self.channels} channels of {self.name!r} are left alone: {self.reason}{where}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Structure:
    """A graph, seen as what can be removed from it.

    Attributes:
        groups: in the order of the nodes that make them.
        left: likewise.
        axes: the traced graph.
        shapes: of the stored tensors, in their order.
        weights: those of float type: the parameters.
        inner: float values stored inside loops, and branches that are not traced.
    """

    groups: tuple[Group, ...]
    left: tuple[LeftAlone, ...]
    axes: Axes
    shapes: Mapping[str, tuple[int, ...]]
    weights: frozenset[str]
    inner: int

    @property
    def parameters(self) -> int:
        """Float values in the file."""
        return sum(prod(self.shapes[name]) for name in self.weights) + self.inner

    @property
    def removable(self) -> int:
        """Parameters that lie on an axis of some group."""
        gone = np.zeros(len(self.axes.roots), bool)
        gone[[unit.atom for group in self.groups for unit in group.units]] = True
        return self.parameters - self.parameters_without(gone)

    @property
    def notes(self) -> tuple[str, ...]:
        """What can be removed and what is left alone, for the report."""
        units = sum(len(group.units) for group in self.groups)
        share = self.removable / max(1, self.parameters)
        found = f"{share:.1%} of {self.parameters} parameters lie on the {units} units of "
        return (f"{found}{len(self.groups)} groups", *(str(left) for left in self.left))

    def group(self, name: str) -> Group:
        """The group of that name.

        Raises:
            ModelError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        legal = ", ".join(group.name for group in self.groups) or "none"
        raise ModelError(f"no group of channels named {name!r}; this graph has: {legal}")

    def gone(self, selection: Selection) -> NDArray[np.bool_]:
        """bool[atoms], which go with the units of a selection.

        Raises:
            ModelError: a group or unit that does not exist, or a group that would lose all its units.
        """
        gone = np.zeros(len(self.axes.roots), bool)
        for name, numbers in selection.items():
            units = self.group(name).units
            chosen = set(numbers)
            if not chosen <= set(range(len(units))):
                raise ModelError(
                    f"units {sorted(chosen - set(range(len(units))))} of group {name!r}; legal: 0 to "
                    f"{len(units) - 1}"
                )
            if len(chosen) == len(units):
                raise ModelError(
                    f"all {len(units)} units of group {name!r} would go; keep at least one"
                )
            gone[[units[number].atom for number in chosen]] = True
        return gone

    def kept(self, tensor: str, axis: int, selection: Selection) -> NDArray[np.int64]:
        """int64, the indices of an axis, of an activation or a stored tensor, that a removal leaves.

        Index i of the pruned tensor is index kept[i] of the original one.

        Raises:
            ModelError: the selection does not fit, or the length of the axis is not known.
        """
        atoms = self.axes.labels[tensor][axis] if tensor in self.axes.labels else None
        if atoms is not None:
            return np.flatnonzero(self.axes.kept(atoms, self.gone(selection)))
        length = self.axes.dims[tensor][axis] if tensor in self.axes.dims else None
        if not isinstance(length, int):
            raise ModelError(
                f"the length of axis {axis} of {tensor!r} is not known; fix the shapes"
            )
        return np.arange(length)

    def parameters_without(self, gone: NDArray[np.bool_]) -> int:
        """Float values that are left, exactly."""
        total = self.inner
        for name in self.weights:
            sizes = []
            for axis, size in enumerate(self.shapes[name]):
                atoms = self.axes.labels[name][axis]
                kept = size if atoms is None else int(self.axes.kept(atoms, gone).sum())
                sizes.append(kept)
            total += prod(sizes)
        return total
