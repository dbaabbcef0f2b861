"""Operators that sum over channels with weights: they read channels, and make new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.edits import AttributeCount
from edgesdk.structure.elementwise import joined
from edgesdk.structure.tracer import Tracer, input_at, inputs_of, integer, text

if TYPE_CHECKING:
    import onnx

    from edgesdk.structure.ties import Atoms
    from edgesdk.structure.tracer import Labels

_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
_UNKNOWN = "its shape is not known"


def conv(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Conv and ConvTranspose."""
    x, w = node.input[0], node.input[1]
    labels, weights = t.of(x), t.of(w)
    if labels is None or weights is None:
        for name in inputs_of(node):
            t.fix_tensor(name, _UNKNOWN, node.name)
        return
    for atoms in (*labels[2:], *weights[2:]):
        t.fix(atoms, "it is a spatial axis", node.name)
    groups = integer(node, "group", 1)
    transposed = node.op_type == "ConvTranspose"
    if groups == 1:
        inner, outer = (0, 1) if transposed else (1, 0)
        t.sum_over(x, 1, w, inner, node.name)
        made = weights[outer]
        t.make(w, made, node.name)
    elif w not in t.stored:
        for name in (x, w):
            t.fix_tensor(name, "the weights of a grouped convolution are computed", node.name)
        made = None
    elif transposed:
        made = _blocks_transposed(t, place, node, groups)
    else:
        made = _grouped(t, place, node, groups)
    if input_at(node, 2):
        bias = t.of(node.input[2])
        if made is not None:
            made = t.tie(made, bias[0] if bias else None, node.name)
    t.give(node.output[0], [labels[0], made, *[None] * (len(labels) - 2)], node.name)


def _grouped(t: Tracer, place: int, node: onnx.NodeProto, groups: int) -> Atoms | None:
    """All groups stay equally large: whole groups go, or the same channel of every group.

    Whichever leaves more to choose from: of 32 groups of 4 whole groups, of 2 groups of 64 channels.
    Whole groups are tied input to output, as a depthwise convolution does with every channel.
    """
    x, w = node.input[0], node.input[1]
    labels, weights = t.of(x) or [None, None], t.of(w) or [None, None]
    held, made, inner = labels[1], weights[0], weights[1]
    width = t.length(w, 1)
    if made is None or not isinstance(width, int):
        t.fix(held, _UNKNOWN, node.name)
        return None
    t.make(w, made, node.name)
    rows = made.reshape(groups, -1)
    columns = held.reshape(groups, -1) if held is not None else None
    if columns is None:
        t.fix(made, "the channels of its groups cannot be traced", node.name)
        return made
    if groups >= width:
        t.fix(inner, "whole groups go", node.name)
        for row, column in zip(rows, columns, strict=True):
            t.ties.tie_all(np.concatenate([row, column]))
        t.edits.append(AttributeCount(node=place, name="group", atoms=rows[:, 0].copy()))
        return made
    for row in (*rows.T, *columns.T):
        t.ties.tie_all(row)
    # The positions within a group are read by all groups' weights alike.
    root = t.root_axis(w, inner) if inner is not None else None
    if inner is None or root is None:
        t.fix(held, "the weights that read it are computed", node.name)
        return made
    t.tie(columns[0].copy(), inner, node.name)
    t.read(x, 1, *root, node.name)
    return made


def _blocks_transposed(t: Tracer, place: int, node: onnx.NodeProto, groups: int) -> Atoms | None:
    """A grouped ConvTranspose: whole groups go; its weight is [channels, made in a group, ...]."""
    x, w = node.input[0], node.input[1]
    labels, weights = t.of(x) or [None, None], t.of(w) or [None, None]
    width = t.length(w, 1)
    held, own = labels[1], weights[0]
    if own is None or held is None or not isinstance(width, int):
        for name in (x, w):
            t.fix_tensor(name, "the channels of its groups cannot be traced", node.name)
        return None
    t.make(w, own, node.name)
    t.fix(weights[1], "whole groups go", node.name)
    t.tie(held, own, node.name)
    rows = own.reshape(groups, -1)
    for row in rows:
        t.ties.tie_all(row)
    t.edits.append(AttributeCount(node=place, name="group", atoms=rows[:, 0].copy()))
    return np.repeat(rows[:, 0], width)


def gemm(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """A' B' + C with two matrices, each possibly transposed."""
    a, b = node.input[0], node.input[1]
    a_axes = (1, 0) if integer(node, "transA", 0) else (0, 1)
    b_axes = (1, 0) if integer(node, "transB", 0) else (0, 1)
    _product(t, node, (a, a_axes), (b, b_axes))
    own, other = t.of(a), t.of(b)
    if own is None or other is None:
        return
    result: Labels = [own[a_axes[0]], other[b_axes[1]]]
    if input_at(node, 2):
        bias = t.of(node.input[2])
        for back in (1, 2):
            if bias is None or back > len(bias) or t.length(node.input[2], len(bias) - back) == 1:
                continue
            result[-back] = t.tie(result[-back], bias[-back], node.name)
        if bias is None:
            for atoms in result:
                t.fix(atoms, "what is added has no known shape", node.name)
    t.give(node.output[0], result, node.name)


def matmul(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Matrices in the last two axes, broadcast over the others; a vector has only what is summed."""
    a, b = node.input[0], node.input[1]
    left, right = t.of(a), t.of(b)
    if left is None or right is None:
        for name in (a, b):
            t.fix_tensor(name, "it meets a tensor of unknown rank", node.name)
        return
    rows, columns = len(left) > 1, len(right) > 1
    _product(t, node, (a, (-2 if rows else None, -1)), (b, (-2 if columns else -1, -1)))
    batch = [name for name, labels in ((a, left), (b, right)) if len(labels) > 2]
    result: Labels = (joined(t, batch, node.name, less=2) or []) if batch else []
    result += [left[-2]] if rows else []
    result += [right[-1]] if columns else []
    t.give(node.output[0], result, node.name)


def _product(
    t: Tracer,
    node: onnx.NodeProto,
    left: tuple[str, tuple[int | None, int]],
    right: tuple[str, tuple[int, int]],
) -> None:
    """Sum over the second axis given of the left and the first of the right operand."""
    (a, (rows, summed)), (b, (inner, columns)) = left, right
    if a in t.stored:
        t.sum_over(b, inner, a, summed, node.name)
        made = t.of(a)
        if made is not None and rows is not None and b not in t.stored:
            t.make(a, made[rows], node.name)
        return
    t.sum_over(a, summed, b, inner, node.name)
    made = t.of(b)
    if made is not None and len(made) > 1 and b in t.stored:
        t.make(b, made[columns], node.name)


def einsum(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Two operands; a letter that is not in the result is summed over."""
    left, _, right = text(node, "equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    held = [t.of(name) for name in node.input]
    plain = len(terms) == len(held) == 2 and "." not in left and bool(right)
    plain = plain and all(
        labels is not None and len(labels) == len(term) == len(set(term))
        for term, labels in zip(terms, held, strict=False)
    )
    if not plain:
        for name in inputs_of(node):
            t.fix_tensor(name, "edgesdk cannot follow this Einsum", node.name)
        return
    letters: dict[str, Atoms | None] = {}
    for term, labels, name in zip(terms, held, node.input, strict=True):
        for axis, (letter, atoms) in enumerate(zip(term, labels or (), strict=True)):
            if letter not in right and not all(letter in other for other in terms):
                t.fix(atoms, "it is summed over without weights", node.name)
            elif letter not in right:
                continue
            elif letter in letters and t.length(name, axis) != 1:
                letters[letter] = t.tie(letters[letter], atoms, node.name)
            else:
                letters[letter] = atoms
    first = 1 if node.input[0] in t.stored else 0
    x, w = node.input[first], node.input[1 - first]
    for letter in set(terms[0]) & set(terms[1]) - set(right):
        axes = terms[first].index(letter), terms[1 - first].index(letter)
        t.sum_over(x, axes[0], w, axes[1], node.name)
    if w in t.stored:
        for letter in set(terms[1 - first]) - set(terms[first]):
            t.make(w, (t.of(w) or [])[terms[1 - first].index(letter)], node.name)
    t.give(node.output[0], [letters.get(letter) for letter in right], node.name)


def recurrent(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """LSTM, GRU and RNN: a hidden unit owns a row of every gate, and a column of the recurrence.

    W is [directions, gates*hidden, inputs], R [directions, gates*hidden, hidden], B [directions,
    2*gates*hidden] and P [directions, 3*hidden]; directions lose the same units.
    """
    x, w, r = node.input[0], node.input[1], node.input[2]
    weights, recurrence = t.of(w), t.of(r)
    usable = {w, r} <= t.stored and weights is not None and recurrence is not None
    if not usable or weights is None or recurrence is None or t.of(x) is None:
        for name in inputs_of(node):
            t.fix_tensor(name, "the weights of a recurrent cell are computed", node.name)
        return
    gates = _GATES[node.op_type]
    t.sum_over(x, 2, w, 2, node.name)
    for atoms in (t.of(x) or [])[:2]:
        t.fix(atoms, "it is a time or batch axis of a recurrent cell", node.name)
    hidden = recurrence[2]
    root = t.root_axis(r, hidden) if hidden is not None else None
    if root is None:
        hidden = None
        t.fix_tensor(w, "it is a single channel", node.name)
        t.fix_tensor(r, "it is a single channel", node.name)
    for name, repeats in ((w, gates), (r, gates), (input_at(node, 3), 2 * gates),
                          (input_at(node, 7), 3)):  # fmt: skip
        own = t.of(name) if name else None
        if own is not None and hidden is not None:
            t.tie(np.tile(hidden, repeats), own[1], node.name)
    for position in (5, 6):
        name = input_at(node, position)
        state = t.of(name) if name else None
        if name and hidden is not None:
            hidden = t.tie(hidden, state[-1] if state else None, node.name)
    for name in (w, r):
        t.fix((t.of(name) or [None])[0], "it is the direction of a recurrent cell", node.name)
    if hidden is not None:
        t.make(r, recurrence[2], node.name, hidden=True)
        if root is not None:
            t.read("", 0, *root, node.name)
        t.edits.append(AttributeCount(node=place, name="hidden_size", atoms=hidden))
    for position, name in enumerate(node.output):
        if name:
            rank = 4 if position == 0 else 3
            t.give(name, [*[None] * (rank - 1), hidden], node.name)
