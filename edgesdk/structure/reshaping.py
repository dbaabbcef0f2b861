"""Reshape and Flatten: axes split into several, or merged, of which only one can lose indices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.aligning import align
from edgesdk.structure.lengths import demand
from edgesdk.structure.tracer import Number, Tracer, integer, keep_origin

if TYPE_CHECKING:
    import onnx

    from edgesdk.structure.aligning import Dim, Factors
    from edgesdk.structure.ties import Atoms
    from edgesdk.structure.tracer import Choice, Labels

_ENOUGH = 4
"""Parts of an axis (heads, mostly) from which on they are worth choosing among."""


def reshape(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Reshape, whose target is a vector."""
    source, target = node.input[0], t.numbers.get(node.input[1])
    labels = t.of(source)
    known = t.dims.get(node.output[0])
    rank = len(known) if known is not None else len(target) if target is not None else None
    if labels is None or rank is None or (target is not None and len(target) != rank):
        for name in node.input[:2]:
            t.fix_tensor(name, "the shape that it is reshaped to is not known", node.name)
        return
    copies = not integer(node, "allowzero", 0)
    dims: list[Dim] = []
    for axis in range(rank):
        dim = known[axis] if known is not None else None
        number = target[axis] if target is not None else None
        if dim is None and number is not None:
            if number.value == 0 and copies and axis < len(labels):
                dim = t.length(source, axis)
            elif number.of is not None:
                dim = t.length(*number.of)
            elif number.value is not None and number.value > 0:
                dim = number.value
        dims.append(dim)
    result = follow(t, place, node, labels, dims)
    for axis, atoms in enumerate(result):
        number = target[axis] if target is not None else Number(value=None)
        if number.value == -1:
            continue
        if number.value == 0 and copies:
            old = labels[axis] if axis < len(labels) else None
            if old is not None or atoms is not None:
                result[axis] = t.tie(old, atoms, node.name)
        elif not demand(t, (place, 1), axis, number, atoms, node):
            t.fix(atoms, "the length that it is reshaped to is computed", node.name)
    t.give(node.output[0], result, node.name)
    keep_origin(t, node)


def flatten(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Two axes: all before one, and the others."""
    source = node.input[0]
    labels = t.of(source)
    if labels is None:
        return
    axis = integer(node, "axis", 1)
    axis += len(labels) if axis < 0 else 0
    lengths = [t.length(source, number) for number in range(len(labels))]
    dims = [_product(lengths[:axis]), _product(lengths[axis:])]
    t.give(node.output[0], follow(t, place, node, labels, dims), node.name)


def _product(lengths: Sequence[Dim]) -> Dim:
    left = [length for length in lengths if length != 1]
    if len(left) == 1:
        return left[0]
    known = [length for length in left if isinstance(length, int)]
    return prod(known) if len(known) == len(left) else None


def follow(
    t: Tracer, place: int, node: onnx.NodeProto, labels: Labels, dims: Sequence[Dim]
) -> Labels:
    """Labels of a tensor of this shape that holds the values of the first input in their order."""
    source = [t.length(node.input[0], axis) for axis in range(len(labels))]
    before, after = align(source, dims)
    factors: dict[int, Atoms | None] = {}
    for axis, atoms in enumerate(labels):
        if atoms is not None:
            factors |= _split(t, (place, "in", axis), atoms, before[axis], node)
    return [
        _merged(t, (place, "out", axis), factors, after, axis, node) for axis in range(len(dims))
    ]


def _split(
    t: Tracer, key: Choice, atoms: Atoms, parts: list[tuple[int, int]], node: onnx.NodeProto
) -> dict[int, Atoms | None]:
    """Labels of the factors of an axis; of several only one can lose indices."""
    if not parts:
        t.fix(atoms, "it is reshaped in a way that cannot be followed", node.name)
        return {}
    if len(parts) == 1:
        return {parts[0][0]: atoms}
    if t.choices is None:
        fresh = [t.ties.fresh(size) for _, size in parts]
        t.options[key] = list(fresh)
        return {number: own for (number, _), own in zip(parts, fresh, strict=True)}
    choice = t.choices.get(key)
    if choice is None:
        t.fix(atoms, "it is split into axes none of which can lose channels", node.name)
        return {}
    rows = np.moveaxis(atoms.reshape([size for _, size in parts]), choice, 0)
    rows = rows.reshape(parts[choice][1], -1)
    for row in rows:
        t.ties.tie_all(row)
    return {parts[choice][0]: np.ascontiguousarray(rows[:, 0])}


def _merged(
    t: Tracer,
    key: Choice,
    factors: dict[int, Atoms | None],
    after: Factors,
    axis: int,
    node: onnx.NodeProto,
) -> Atoms | None:
    parts = after[axis]
    held = [factors.get(number) for number, _ in parts]
    traced = [at for at, atoms in enumerate(held) if atoms is not None]
    if not traced:
        return None
    choice: int | None = traced[0]
    if len(traced) > 1:
        if t.choices is None:
            t.options[key] = held
            return t.ties.fresh(prod(size for _, size in parts))
        choice = t.choices.get(key)
    for at in traced:
        if at != choice:
            t.fix(held[at], "it is merged with another axis that can lose indices", node.name)
    chosen = held[choice] if choice is not None else None
    if chosen is None:
        for at in traced:
            t.fix(held[at], "it is merged with other axes, none of which can lose any", node.name)
        return None
    if len(parts) == 1:
        return chosen
    sizes = [size for _, size in parts]
    shape = [size if at == choice else 1 for at, size in enumerate(sizes)]
    return np.ascontiguousarray(np.broadcast_to(chosen.reshape(shape), sizes)).ravel()


def decide(t: Tracer) -> dict[Choice, int | None]:
    """Which factor of every reshaped axis loses indices, after a walk that traced each alone.

    Where only one can, that one; elsewhere one that is tied to such a one (the heads of V, whose depth could
    go as well, to the heads of Q and K, whose depth cannot), else the first that has a few, else the longest.
    """
    free = {
        key: {
            at: atoms
            for at, atoms in enumerate(options)
            if atoms is not None and not t.ties.any_fixed(atoms)
        }
        for key, options in t.options.items()
    }
    roots = t.ties.roots()
    forced = {
        tuple(roots[atoms].tolist())
        for found in free.values()
        if len(found) == 1
        for atoms in found.values()
    }
    choices: dict[Choice, int | None] = {}
    for key, found in free.items():
        sizes = {at: -len(atoms) for at, atoms in found.items()}
        tied = [at for at, atoms in found.items() if tuple(roots[atoms].tolist()) in forced]
        many = [at for at, atoms in found.items() if len(atoms) >= _ENOUGH]
        longest = sorted(found, key=sizes.__getitem__)
        choices[key] = next(iter((*tied, *many, *longest)), None)
    return choices
