"""Integer vectors about shapes: exporters compute the target of a Reshape from lengths and constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.edits import InputCounts
from edgesdk.structure.tracer import Number, Tracer, inputs_of, integer, integers

if TYPE_CHECKING:
    import onnx

    from edgesdk.structure.ties import Atoms

VECTOR_OPS = frozenset(("Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"))
"""Operators that only rearrange the entries of a vector."""
READERS = frozenset(("ConstantOfShape", "Expand", "Reshape", "Resize", "Split"))
"""Operators whose rules hold the entries that they read to the lengths that they stand for."""


def read_shape(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Shape: each entry counts the indices of an axis."""
    name = node.input[0]
    labels = t.of(name)
    t.labels[node.output[0]] = [None]
    if labels is None:
        return
    entries = []
    for axis, atoms in enumerate(labels):
        length = t.length(name, axis)
        value = length if isinstance(length, int) else None
        entries.append(Number(value=value, counted=atoms, of=(name, axis)))
    end = integer(node, "end", len(entries))
    t.numbers[node.output[0]] = tuple(entries[integer(node, "start", 0) : end])


def rearrange(t: Tracer, node: onnx.NodeProto) -> bool:
    """Follow the entries of a vector through a node; False where its input is no such vector."""
    sources = list(inputs_of(node)) if node.op_type == "Concat" else [node.input[0]]
    if not all(name in t.numbers for name in sources):
        return False
    if all(name in t.stored for name in inputs_of(node)):
        return False
    parts = [t.numbers[name] for name in sources]
    picked = _picked(t, node, parts)
    if picked is None:
        for part in parts:
            for number in part:
                t.fix(number.counted, "its length is computed with", node.name)
        return False
    whole = node.op_type in ("Cast", "Concat", "Identity") or all(n.stored for n in picked)
    t.numbers[node.output[0]] = tuple(
        number if whole else Number(value=number.value, counted=number.counted, of=number.of)
        for number in picked
    )
    rank = len(t.dims[node.output[0]]) if node.output[0] in t.dims else 1
    t.labels[node.output[0]] = [None] * rank
    return True


def _picked(
    t: Tracer, node: onnx.NodeProto, parts: list[tuple[Number, ...]]
) -> list[Number] | None:
    entries = [number for part in parts for number in part]
    if node.op_type == "Gather":
        wanted = t.values(node.input[1])
        if wanted is None or not all(-len(entries) <= at < len(entries) for at in wanted):
            return None
        return [entries[at] for at in wanted]
    if node.op_type == "Slice":
        starts, ends = integers(node, "starts"), integers(node, "ends")
        steps = None
        if starts is None and len(node.input) > 2:
            starts, ends = t.values(node.input[1]), t.values(node.input[2])
            steps = t.values(node.input[4]) if len(node.input) > 4 and node.input[4] else [1]
        if not starts or not ends or len(starts) != 1 or (steps or [1]) != [1]:
            return None
        return entries[starts[0] : ends[0]]
    return entries


def note_values(t: Tracer, name: str, *, stored: bool) -> None:
    """Take the entries of a small integer vector that is the same in every run."""
    value = t.folded.get(name)
    if name in t.numbers or value is None or value.ndim > 1 or value.dtype.kind not in "iu":
        return
    t.numbers[name] = tuple(Number(value=int(v), stored=stored) for v in np.ravel(value))


def demand(
    t: Tracer,
    where: tuple[int, int],
    position: int,
    number: Number,
    atoms: Atoms | None,
    node: onnx.NodeProto,
) -> bool:
    """Hold an entry of an input to the length of a traced axis; False where that cannot be done.

    Args:
        t: the walk.
        where: place of the node, position of the input.
        position: of the entry.
        number: what the entry is.
        atoms: the axis whose length it must be; nothing is asked where that is not traced.
        node: the one that reads it.
    """
    if atoms is None:
        t.fix(number.counted, "its length is read where it cannot be followed", node.name)
        return True
    if number.counted is not None:
        return t.tie(number.counted, atoms, node.name) is not None
    if number.stored and number.value == len(atoms):
        t.edits.append(
            InputCounts(node=where[0], input=where[1], counted=((position, atoms),), axis=atoms)
        )
        return True
    return False
