"""What is known of a graph's tensors while their axes are traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.ties import Reason, Ties

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.structure.aligning import Dim
    from edgesdk.structure.edits import Edit
    from edgesdk.structure.ties import Atoms

    Labels = list[Atoms | None]
    """For each axis the atom of every index; None where the axis is not traced."""

Choice = tuple[int, str, int]
"""A reshape (its place among the nodes), `in` or `out`, and the axis that it splits or merges."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Number:
    """One entry of an integer vector that says something about shapes.

    Attributes:
        value: what it is; None where only a run tells.
        counted: the indices that it counts, where it was read off a traced axis.
        of: the tensor and the axis whose length it is.
        stored: it stands in the file, and can be rewritten there.
    """

    value: int | None
    counted: Atoms | None = None
    of: tuple[str, int] | None = None
    stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A sum over a traced axis with stored weights: what keeps a channel has to say from being heard.

    Attributes:
        node: its name.
        activation: the tensor that it reads; empty for the state inside a recurrent cell.
        axis: of the activation, that it sums over.
        weight: name of the stored tensor.
        weight_axis: of that tensor, along which the same channels lie.
    """

    node: str
    activation: str
    axis: int
    weight: str
    weight_axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An axis of a stored tensor that makes channels.

    Attributes:
        node: name of the node that uses the weights.
        weight: name of the stored tensor.
        axis: of that tensor.
        hidden: its channels are the hidden units of a recurrent cell.
    """

    node: str
    weight: str
    axis: int
    hidden: bool = False


@dataclass(slots=True)
class Tracer:
    """The state of one walk over a graph.

    Attributes:
        dims: lengths of the axes of every tensor whose rank is known.
        opset: of the standard operators.
        choices: which factor of a reshaped axis is traced on, decided by an earlier walk; None during
            that walk, in which every factor is traced as if it were alone.
        labels: of every tensor met so far whose rank is known.
        stored: tensors that follow from the file alone.
        origins: stored tensors that only rearrange another one, and that one, which is in the file.
        numbers: integer vectors about shapes.
        folded: values of small tensors that are the same in every run.
        options: what could be chosen, by reshape and axis.
    """

    dims: Mapping[str, tuple[Dim, ...]]
    folded: Mapping[str, NDArray[np.generic]]
    opset: int
    choices: Mapping[Choice, int | None] | None
    ties: Ties = field(default_factory=Ties)
    labels: dict[str, Labels] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    origins: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    options: dict[Choice, list[Atoms | None]] = field(default_factory=dict)

    def store(self, name: str, shape: Sequence[int]) -> None:
        """Take in a tensor of the file."""
        self.labels[name] = [self.ties.fresh(size) if size > 1 else None for size in shape]
        self.stored.add(name)
        self.origins[name] = name

    def of(self, name: str) -> Labels | None:
        """The labels of a tensor; None where its rank is not known."""
        if name in self.labels:
            return self.labels[name]
        return [None] * len(self.dims[name]) if name in self.dims else None

    def length(self, name: str, axis: int) -> Dim:
        """The length of an axis: a number, a name, or a name of its own where nothing is known."""
        known = self.dims[name][axis] if name in self.dims else None
        atoms = self.labels[name][axis] if name in self.labels else None
        if atoms is not None:
            return len(atoms)
        return f"{name}@{axis}" if known is None else known

    def give(self, name: str, labels: Labels, node: str = "") -> None:
        """Say what the axes of an output hold; where inference disagrees, they must stay."""
        dims = self.dims.get(name, (None,) * len(labels))
        if len(dims) == len(labels) and all(
            atoms is None or not isinstance(dim, int) or dim == len(atoms)
            for dim, atoms in zip(dims, labels, strict=True)
        ):
            self.labels[name] = list(labels)
            return
        for atoms in labels:
            self.fix(atoms, "the shapes behind it contradict each other", node)
        self.labels[name] = [None] * len(dims)

    def fix(self, atoms: Atoms | None, text: str, node: str = "") -> None:
        """Say that these must stay."""
        if atoms is not None:
            self.ties.fix(atoms, Reason(text, node))

    def fix_tensor(self, name: str, text: str, node: str = "") -> None:
        """Say that every axis of a tensor must stay, and what was counted in it."""
        for atoms in self.labels.get(name, ()):
            self.fix(atoms, text, node)
        for number in self.numbers.get(name, ()):
            self.fix(number.counted, text, node)

    def tie(self, left: Atoms | None, right: Atoms | None, node: str) -> Atoms | None:
        """Tie two axes that hold the same channels; what is left traced."""
        if left is None or right is None or len(left) != len(right):
            for atoms in (left, right):
                self.fix(atoms, "it meets an axis that cannot be traced", node)
            return None
        self.ties.tie(left, right)
        return left

    def values(self, name: str) -> list[int] | None:
        """The entries of a small integer tensor that is the same in every run."""
        if name not in self.folded:
            return None
        return [int(value) for value in np.ravel(self.folded[name])]

    def root_axis(self, name: str, atoms: Atoms) -> tuple[str, int] | None:
        """The tensor of the file, and its axis, that a stored operand takes these atoms from."""
        root = self.origins.get(name)
        if root is None:
            return None
        for axis, own in enumerate(self.labels[root]):
            if own is not None and np.array_equal(own, atoms):
                return root, axis
        return None

    def make(self, name: str, atoms: Atoms | None, node: str, *, hidden: bool = False) -> None:
        """Note that this axis of an operand makes channels."""
        found = self.root_axis(name, atoms) if atoms is not None else None
        if found is not None:
            self.made.append(Made(node=node, weight=found[0], axis=found[1], hidden=hidden))

    def sum_over(
        self, activation: str, axis: int, weight: str, weight_axis: int, node: str
    ) -> None:
        """A node sums over this axis, each channel times weights of its own."""
        held, weights = self.of(activation), self.of(weight)
        if held is None or weights is None:
            for name in (activation, weight):
                self.fix_tensor(name, "its shape is not known", node)
            return
        left, right = held[axis], weights[weight_axis]
        if weight not in self.stored or activation in self.stored:
            for atoms in (left, right):
                self.fix(atoms, "it is summed over without stored weights", node)
            return
        if right is None:
            self.fix(left, "it meets an axis that cannot be traced", node)
            return
        root = self.root_axis(weight, right)
        if root is None:
            self.fix(left, "the weights that read it are computed", node)
            self.fix(right, "the weights that read it are computed", node)
            return
        if self.tie(left, right, node) is not None:
            self.read(activation, axis % len(held), *root, node)

    def read(self, activation: str, axis: int, weight: str, weight_axis: int, node: str) -> None:
        """Note a sum over an axis; the weight is one of the file."""
        self.readers.append(
            Reader(
                node=node,
                activation=activation,
                axis=axis,
                weight=self.origins.get(weight, weight),
                weight_axis=weight_axis,
            )
        )


def inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the inputs that are there."""
    return (name for name in node.input if name)


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> list[int] | None:
    """A list of integers; None where the attribute is not there."""
    return next((list(a.ints) for a in node.attribute if a.name == name), None)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """A string attribute."""
    return next((a.s.decode() for a in node.attribute if a.name == name), default)


def input_at(node: onnx.NodeProto, position: int) -> str:
    """The name of an input; empty where it is left out."""
    return node.input[position] if position < len(node.input) else ""


def keep_origin(t: Tracer, node: onnx.NodeProto) -> None:
    """The output of a node that only rearranges what is stored is the stored tensor still."""
    source = node.input[0]
    if source in t.origins and node.output[0] in t.labels:
        t.origins[node.output[0]] = t.origins[source]
