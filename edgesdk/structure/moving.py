"""Operators that move values about: what goes in at one place comes out at another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.edits import AttributeCounts, InputCounts, Picks
from edgesdk.structure.elementwise import joined
from edgesdk.structure.lengths import demand
from edgesdk.structure.tracer import (
    Tracer,
    input_at,
    inputs_of,
    integer,
    integers,
    keep_origin,
    text,
)

if TYPE_CHECKING:
    import onnx

    from edgesdk.structure.ties import Atoms
    from edgesdk.structure.tracer import Labels


def transpose(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes in another order."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    order = integers(node, "perm") or list(range(len(labels)))[::-1]
    t.give(node.output[0], [labels[axis] for axis in order], node.name)
    keep_origin(t, node)


def squeeze(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes of length 1 left out."""
    source = node.input[0]
    labels = t.of(source)
    if labels is None:
        return
    axes = _axes(t, node)
    if axes is None and not input_at(node, 1):
        axes = [axis for axis in range(len(labels)) if t.length(source, axis) == 1]
        if node.output[0] in t.dims and len(t.dims[node.output[0]]) != len(labels) - len(axes):
            axes = None
    if axes is None:
        t.fix_tensor(source, "which axes are squeezed is not known", node.name)
        return
    gone = {axis % len(labels) for axis in axes}
    for axis in gone:
        t.fix(labels[axis], "it is squeezed", node.name)
    left = [atoms for axis, atoms in enumerate(labels) if axis not in gone]
    t.give(node.output[0], left, node.name)
    keep_origin(t, node)


def unsqueeze(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes of length 1 put in."""
    labels, axes = t.of(node.input[0]), _axes(t, node)
    if labels is None or axes is None:
        t.fix_tensor(node.input[0], "which axes are inserted is not known", node.name)
        return
    rank = len(labels) + len(axes)
    new = {axis % rank for axis in axes}
    old = iter(labels)
    result = [None if axis in new else next(old) for axis in range(rank)]
    t.give(node.output[0], result, node.name)
    keep_origin(t, node)


def _axes(t: Tracer, node: onnx.NodeProto) -> list[int] | None:
    axes = integers(node, "axes")
    return t.values(node.input[1]) if axes is None and input_at(node, 1) else axes


def concat(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Channels of one operand after those of another."""
    names = list(inputs_of(node))
    held = [t.of(name) for name in names]
    ranks = {len(labels) for labels in held if labels is not None}
    if any(labels is None for labels in held) or len(ranks) != 1:
        for name in names:
            t.fix_tensor(name, "it meets a tensor of unknown rank", node.name)
        return
    axis = integer(node, "axis", 1 if t.opset < 4 else 0) % ranks.pop()
    parts: list[Atoms] = []
    complete = True
    for name, labels in zip(names, held, strict=True):
        atoms = labels[axis] if labels is not None else None
        if atoms is None:
            length = t.length(name, axis)
            complete &= isinstance(length, int)
            atoms = t.ties.fresh(length if isinstance(length, int) else 1)
            t.fix(atoms, "it is joined to channels that cannot be traced", node.name)
        parts.append(atoms)
    if not complete:
        for atoms in parts:
            t.fix(atoms, "it is joined to an axis of unknown length", node.name)
    result = joined(t, names, node.name, except_axis=axis)
    if result is not None:
        result[axis] = np.concatenate(parts) if complete else None
        t.give(node.output[0], result, node.name)


def split(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Channels dealt out in runs."""
    source = node.input[0]
    labels = t.of(source)
    if labels is None:
        return
    axis = integer(node, "axis", 0) % len(labels)
    atoms = labels[axis]
    sizes = integers(node, "split")
    if sizes is None and input_at(node, 1):
        sizes = t.values(node.input[1])
        t.fix_tensor(node.input[1], "its length is the size of a part", node.name)
        if sizes is None:
            t.fix(atoms, "the sizes of the parts are computed", node.name)
            atoms = None
    elif sizes is None and atoms is not None:
        part = -(-len(atoms) // len(node.output))
        sizes = [min(part, len(atoms) - part * at) for at in range(len(node.output))]
    if atoms is not None and (sizes is None or sum(sizes) != len(atoms)):
        t.fix(atoms, "the sizes of the parts do not add up", node.name)
        atoms = None
    ends = np.cumsum(sizes or []).tolist()
    runs = np.split(atoms, ends[:-1]) if atoms is not None else [None] * len(node.output)
    for name, run in zip(node.output, runs, strict=True):
        own = run
        if run is not None and len(run) == 1:
            t.fix(run, "it is a single channel", node.name)
            own = None
        if name:
            t.give(name, [*labels[:axis], own, *labels[axis + 1 :]], node.name)
    if atoms is not None:
        counted = tuple((at, run) for at, run in enumerate(runs) if run is not None)
        if t.opset < 13:
            t.edits.append(AttributeCounts(node=place, name="split", counted=counted, axis=atoms))
        else:
            t.edits.append(
                InputCounts(node=place, input=1, counted=counted, axis=atoms, drop="num_outputs")
            )


def cut(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Slice: a run of indices of some axes."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    old = t.opset < 10
    bounds = [integers(node, w) if old else t.values(input_at(node, at))
              for w, at in (("starts", 1), ("ends", 2))]  # fmt: skip
    given = "axes" if old else input_at(node, 3)
    axes = integers(node, "axes") if old else t.values(given) if given else None
    stepped = "" if old else input_at(node, 4)
    steps = t.values(stepped) if stepped else None
    starts, ends = bounds
    if starts is None or ends is None or (given and not old and axes is None):
        t.fix_tensor(node.input[0], "the bounds of a Slice are computed", node.name)
        return
    axes = list(range(len(starts))) if axes is None else axes
    if stepped and steps is None:
        steps = [0] * len(axes)
    result = list(labels)
    for at, axis in enumerate(axes):
        atoms = labels[axis]
        if atoms is None:
            continue
        if steps is not None and steps[at] != 1:
            t.fix(atoms, "it is sliced with steps", node.name)
            result[axis] = None
            continue
        first, last, _ = slice(starts[at], ends[at]).indices(len(atoms))
        run = atoms[first:last]
        for where, name, until in ((1, "starts", first), (2, "ends", last)):
            counted = ((at, atoms[:until]),)
            t.edits.append(
                AttributeCounts(node=place, name=name, counted=counted, axis=atoms)
                if old
                else InputCounts(node=place, input=where, counted=counted, axis=atoms)
            )
        result[axis] = run if len(run) > 1 else None
        if len(run) == 1:
            t.fix(run, "it is a single channel", node.name)
    t.give(node.output[0], result, node.name)


def pad(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes that nothing is added to keep their channels."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    pads = integers(node, "pads") if t.opset < 11 else t.values(input_at(node, 1))
    given = input_at(node, 3)
    axes = t.values(given) if given else list(range(len(labels)))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        t.fix_tensor(node.input[0], "how it is padded is computed", node.name)
        return
    result = list(labels)
    for at, axis in enumerate(axes):
        if pads[at] or pads[at + len(axes)]:
            t.fix(labels[axis], "it is padded", node.name)
            result[axis] = None
    t.give(node.output[0], result, node.name)


def gather(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Rows of a table, or channels that are picked by fixed numbers."""
    table, picks = node.input[0], node.input[1]
    labels, shape = t.of(table), t.of(picks)
    if labels is None or shape is None:
        t.fix_tensor(table, "its shape is not known", node.name)
        return
    axis = integer(node, "axis", 0) % len(labels)
    atoms, wanted = labels[axis], t.values(picks)
    middle = list(shape)
    if atoms is not None and (wanted is None or len(shape) > 1):
        t.fix(atoms, "it is looked up by index", node.name)
    elif atoms is not None and wanted is not None:
        places = tuple(at % len(atoms) for at in wanted)
        run = atoms[list(places)]
        if len(run) == 1:
            t.fix(run, "it is a single channel", node.name)
        middle = [run if len(run) > 1 else None] if shape else []
        t.edits.append(Picks(node=place, indices=places, axis=atoms, scalar=not shape))
    for number, own in enumerate(labels):
        if number != axis and table in t.stored and picks not in t.stored:
            t.make(table, own, node.name)
    t.give(node.output[0], [*labels[:axis], *middle, *labels[axis + 1 :]], node.name)


def expand(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Expand and ConstantOfShape: axes of length 1 repeated as a vector says."""
    fills = node.op_type == "ConstantOfShape"
    where = 0 if fills else 1
    numbers = t.numbers.get(node.input[where])
    labels: Labels | None = [] if fills else t.of(node.input[0])
    if numbers is None or labels is None:
        for name in node.input:
            t.fix_tensor(name, "the shape that it is repeated to is computed", node.name)
        return
    rank = max(len(numbers), len(labels))
    result: Labels = [None] * rank
    for back in range(1, rank + 1):
        own = labels[-back] if back <= len(labels) else None
        single = back > len(labels) or t.length(node.input[0], len(labels) - back) == 1
        if back > len(numbers):
            result[-back] = own
            continue
        number, position = numbers[-back], len(numbers) - back
        if single and number.counted is not None:
            result[-back] = number.counted
        elif single and number.stored and number.value is not None and number.value > 1:
            result[-back] = t.ties.fresh(number.value)
            demand(t, (place, where), position, number, result[-back], node)
        elif number.value == 1 or demand(t, (place, where), position, number, own, node):
            result[-back] = own
        else:
            t.fix(own, "the length that it is repeated to is computed", node.name)
    t.give(node.output[0], result, node.name)


def tile(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes that are repeated once keep their channels."""
    labels, repeats = t.of(node.input[0]), t.values(node.input[1])
    if labels is None or repeats is None or len(repeats) != len(labels):
        t.fix_tensor(node.input[0], "how often it is repeated is computed", node.name)
        return
    result = list(labels)
    for axis, times in enumerate(repeats):
        if times != 1:
            t.fix(labels[axis], "it is repeated", node.name)
            result[axis] = None
    t.give(node.output[0], result, node.name)


def depth_to_space(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Blocks of channels become blocks of pixels, or the other way round."""
    labels = t.of(node.input[0])
    if labels is None or len(labels) != 4:
        t.fix_tensor(node.input[0], "it is no image", node.name)
        return
    block = integer(node, "blocksize", 1) ** 2
    for atoms in labels[2:]:
        t.fix(atoms, "it is a spatial axis", node.name)
    channels = labels[1]
    if channels is not None and node.op_type == "SpaceToDepth":
        channels = np.tile(channels, block)
    elif channels is not None:
        deep_first = text(node, "mode", "DCR") == "DCR"
        rows = channels.reshape(block, -1).T if deep_first else channels.reshape(-1, block)
        for row in rows:
            t.ties.tie_all(row)
        channels = np.ascontiguousarray(rows[:, 0])
    if channels is not None and len(channels) == 1:
        t.fix(channels, "it is a single channel", node.name)
        channels = None
    t.give(node.output[0], [labels[0], channels, None, None], node.name)
