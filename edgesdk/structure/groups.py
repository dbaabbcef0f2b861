"""Dependency groups: what can be removed from a graph, unit by unit, and what cannot.

A unit is the smallest thing that can go: a channel of a residual stream with everything that is added to
it, an attention head in Q, K, V and the output projection, a hidden unit of an LSTM. It owns slices of
several stored tensors. Without it the graph computes what it does with the weights that read it at zero
(`mask.py`):

    "removed" equals "every sum over the unit's channels multiplies them by zero".

That is asked of the weights behind the unit, not of those that make it: a unit whose own weights are zero
need not be zero where it is read (Sigmoid(0) is 0.5, a BatchNorm shifts), but what is multiplied by zero is
not heard, whatever it is (as long as it is finite).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.structure.axes import Axes, trace
from edgesdk.structure.skeleton import own_tensors, stored_tensors
from edgesdk.structure.ties import Reason
from edgesdk.structure.units import Group, LeftAlone, Part, Structure, Unit

if TYPE_CHECKING:
    import onnx

    from edgesdk.structure.ties import Atoms
    from edgesdk.structure.tracer import Made

_FLOATS = frozenset((1, 10, 11, 16))
"""float, float16, double, bfloat16: the types that parameters have."""


def find_groups(proto: onnx.ModelProto) -> Structure:
    """Find what can be removed from a graph.

    Args:
        proto: with or without its large weights; not changed. QuantizeLinear and the like stop the tracing:
            remove first, then quantize.

    Returns:
        Groups of units, and what was left alone with the reason.
    """
    axes = trace(proto)
    tensors = stored_tensors(proto.graph)
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    weights = frozenset(name for name, tensor in tensors.items() if tensor.data_type in _FLOATS)
    makers: dict[int, Made] = {}
    widths: dict[int, int] = {}
    for made in axes.made:
        atoms = axes.labels[made.weight][made.axis]
        if atoms is not None:
            for atom, count in Counter(axes.roots[atoms].tolist()).items():
                if makers.setdefault(atom, made) is made:
                    widths.setdefault(atom, count)
    parts = _parts(axes, shapes, {atom for atom in makers if atom not in axes.fixed})
    groups = _groups(axes, makers, widths, parts, shapes, weights)
    offered = {unit.atom for group in groups for unit in group.units}
    return Structure(
        groups=groups,
        left=_left(axes, makers, widths, offered),
        axes=axes,
        shapes=shapes,
        weights=weights,
        inner=count_parameters(proto.graph) - sum(prod(shapes[name]) for name in weights),
    )


def count_parameters(graph: onnx.GraphProto) -> int:
    """Float values of initializers and Constant nodes, those inside branches and loops included."""
    total = 0
    for part in onnx_io.graphs(graph):
        tensors = own_tensors(part).values()
        total += sum(prod(tensor.dims) for tensor in tensors if tensor.data_type in _FLOATS)
    return total


def _parts(
    axes: Axes, shapes: Mapping[str, tuple[int, ...]], wanted: set[int]
) -> dict[int, list[Part]]:
    """What each set of atoms owns of the stored tensors."""
    reading = {(reader.weight, reader.weight_axis) for reader in axes.readers}
    parts: dict[int, list[Part]] = {atom: [] for atom in wanted}
    for name in shapes:
        for axis, atoms in enumerate(axes.labels.get(name, ())):
            if atoms is None:
                continue
            for atom, indices in _places(axes.roots[atoms]).items():
                if atom in wanted:
                    read = (name, axis) in reading
                    parts[atom].append(Part(tensor=name, axis=axis, indices=indices, read=read))
    return parts


def _places(roots: Atoms) -> dict[int, tuple[int, ...]]:
    order = np.argsort(roots, kind="stable")
    values, starts = np.unique(roots[order], return_index=True)
    runs = np.split(order, starts[1:])
    return {int(v): tuple(run.tolist()) for v, run in zip(values, runs, strict=True)}


def _groups(
    axes: Axes,
    makers: Mapping[int, Made],
    widths: Mapping[int, int],
    parts: Mapping[int, list[Part]],
    shapes: Mapping[str, tuple[int, ...]],
    weights: frozenset[str],
) -> tuple[Group, ...]:
    """Sets with parts of the same axes, as many indices of each, are one group."""
    alike: dict[tuple[tuple[str, int, int], ...], list[int]] = {}
    for atom in makers:
        if atom in parts:
            signature = tuple((p.tensor, p.axis, len(p.indices)) for p in parts[atom])
            alike.setdefault(signature, []).append(atom)
    taken: Counter[str] = Counter()
    groups = []
    for signature, atoms in alike.items():
        if len(atoms) < 2:
            continue
        maker = makers[atoms[0]]
        stem = maker.node or maker.weight
        taken[stem] += 1
        held = {(tensor, axis) for tensor, axis, _ in signature}
        readers = tuple(r for r in axes.readers if (r.weight, r.weight_axis) in held)
        groups.append(
            Group(
                name=stem if taken[stem] == 1 else f"{stem}#{taken[stem]}",
                units=tuple(
                    Unit(
                        atom=atom,
                        parts=tuple(parts[atom]),
                        parameters=_parameters(parts[atom], shapes, weights),
                    )
                    for atom in atoms
                ),
                width=widths[atoms[0]],
                hidden=any(makers[atom].hidden for atom in atoms),
                readers=readers,
            )
        )
    return tuple(groups)


def _parameters(
    parts: list[Part], shapes: Mapping[str, tuple[int, ...]], weights: frozenset[str]
) -> int:
    """Values that lie on any of these parts, each counted once."""
    left: dict[str, list[int]] = {
        part.tensor: list(shapes[part.tensor]) for part in parts if part.tensor in weights
    }
    for part in parts:
        if part.tensor in left:
            left[part.tensor][part.axis] -= len(part.indices)
    return sum(prod(shapes[name]) - prod(sizes) for name, sizes in left.items())


def _left(
    axes: Axes, makers: Mapping[int, Made], widths: Mapping[int, int], offered: set[int]
) -> tuple[LeftAlone, ...]:
    found: dict[tuple[str, str, str], int] = {}
    for atom, maker in makers.items():
        if atom not in offered:
            reason = axes.fixed.get(atom, Reason("nothing else is like it, and one must stay"))
            key = (maker.node or maker.weight, reason.text, reason.node)
            found[key] = found.get(key, 0) + widths[atom]
    return tuple(
        LeftAlone(name=name, channels=count, reason=text, node=node)
        for (name, text, node), count in found.items()
    )
