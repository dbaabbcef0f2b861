"""Operators that treat every index of an axis alike: what goes in at an index comes out there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgesdk.structure.edits import AttributeCount
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

_UNARY = """
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu
HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink
Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
com.microsoft::Gelu com.microsoft::QuickGelu
"""
_BROADCAST = """
Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
Mul Or PRelu Pow Sub Sum Where Xor
"""
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"

UNARY = frozenset(_UNARY.split())
"""The first input decides; others (bounds of Clip, the ratio of Dropout) are scalars."""
BROADCAST = frozenset(_BROADCAST.split())
POOLS = frozenset(_POOLS.split())
REDUCED = frozenset(f"Reduce{kind}" for kind in _REDUCTIONS.split())
NORMALISED = frozenset(("Hardmax", "LogSoftmax", "LpNormalization", "Softmax"))
PICKED = frozenset(("ArgMax", "ArgMin", "CumSum", "TopK"))
LAYER_NORMS = frozenset(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"))

_SPATIAL = "it is a spatial axis"
_UNKNOWN = "its shape is not known"


def unary(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """The first output, and a mask of the same shape where there is one."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    for name in node.output:
        if name:
            t.give(name, labels, node.name)
    if node.op_type in ("Cast", "Identity"):
        keep_origin(t, node)


def broadcast(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes are aligned from the last; one of length 1 is repeated."""
    names = list(inputs_of(node))
    labels = joined(t, names, node.name)
    if labels is not None:
        t.give(node.output[0], labels, node.name)


def joined(
    t: Tracer,
    names: Sequence[str],
    node: str,
    *,
    less: int = 0,
    except_axis: int | None = None,
) -> Labels | None:
    """Labels of a broadcast, without the last `less` axes of each; None where a rank is not known.

    Nothing is tied on `except_axis`, for operands of one rank; it is None in what is returned.
    """
    held = {name: t.of(name) for name in names}
    if any(labels is None for labels in held.values()):
        for name in names:
            t.fix_tensor(name, "it meets a tensor of unknown rank", node)
        return None
    cut = {n: labels[: len(labels) - less] for n, labels in held.items() if labels is not None}
    rank = max(len(labels) for labels in cut.values())
    result: Labels = [None] * rank
    for axis in range(1, rank + 1):
        if except_axis is not None and rank - axis == except_axis:
            continue
        parts: list[Atoms | None] = []
        for name, labels in cut.items():
            if axis <= len(labels) and t.length(name, len(labels) - axis) != 1:
                parts.append(labels[-axis])
        result[-axis] = _tied(t, parts, node)
    return result


def _tied(t: Tracer, parts: list[Atoms | None], node: str) -> Atoms | None:
    if not parts or all(part is None for part in parts):
        return None
    first = parts[0]
    for other in parts[1:]:
        first = t.tie(first, other, node)
    return first


def pool(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Each channel alone."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    for atoms in labels[2:]:
        t.fix(atoms, _SPATIAL, node.name)
    for name in node.output:
        if name:
            t.give(name, [*labels[:2], *[None] * (len(labels) - 2)], node.name)


def batch_norm(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """One scale, shift, mean and variance a channel; InstanceNormalization has the first two."""
    labels = t.of(node.input[0])
    if labels is None or len(labels) < 2:
        for name in inputs_of(node):
            t.fix_tensor(name, _UNKNOWN, node.name)
        return
    training = sum(bool(name) for name in node.output) > 1
    if training:
        t.fix(labels[1], "BatchNormalization still learns here", node.name)
    if node.op_type == "InstanceNormalization":
        for atoms in labels[2:]:
            t.fix(atoms, _SPATIAL, node.name)
    channels = labels[1]
    for name in node.input[1:]:
        own = t.of(name)
        if t.length(node.input[0], 1) != 1:
            channels = t.tie(channels, own[0] if own else None, node.name)
    t.give(node.output[0], [labels[0], channels, *labels[2:]], node.name)


def group_norm(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Mean and variance of each group of channels: whole groups go."""
    labels = t.of(node.input[0])
    if labels is None or len(labels) < 2:
        for name in inputs_of(node):
            t.fix_tensor(name, _UNKNOWN, node.name)
        return
    for atoms in labels[2:]:
        t.fix(atoms, _SPATIAL, node.name)
    channels = labels[1]
    if channels is not None:
        rows = channels.reshape(integer(node, "num_groups", 1), -1)
        for row in rows:
            t.ties.tie_all(row)
        for name in node.input[1:]:
            own = (t.of(name) or [None])[0]
            t.tie(channels if own is not None and len(own) == len(channels) else rows[:, 0].copy(),
                  own, node.name)  # fmt: skip
        t.edits.append(AttributeCount(node=place, name="num_groups", atoms=rows[:, 0].copy()))
    t.give(node.output[0], labels, node.name)


def normalise(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Each value depends on all others along an axis (before opset 13 along all from there)."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    coerced = t.opset < 13 and node.op_type != "LpNormalization"
    axis = integer(node, "axis", 1 if coerced else -1) % max(1, len(labels))
    for number in range(axis, len(labels) if coerced else axis + 1):
        t.fix(labels[number], f"{node.op_type} is over it", node.name)
    t.give(node.output[0], labels, node.name)


def layer_norm(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Mean and variance over the last axes change with what is removed there."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    axis = integer(node, "axis", -1) % max(1, len(labels))
    why = "normalised over it: without a channel its mean and variance are others"
    for atoms in labels[axis:]:
        t.fix(atoms, why, node.name)
    for name in node.input[1:]:
        t.fix_tensor(name, why, node.name)
    t.give(node.output[0], labels, node.name)


def pick(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Operators whose result along an axis depends on which place it is."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    default = {"TopK": -1}.get(node.op_type, 0)
    axis = integer(node, "axis", default)
    if node.op_type == "CumSum":
        known = t.values(node.input[1])
        if known is None:
            t.fix_tensor(node.input[0], "the axis of CumSum is computed", node.name)
        axis = known[0] if known else 0
    axis %= max(1, len(labels))
    t.fix(labels[axis], f"{node.op_type} is over it", node.name)
    kept = node.op_type in ("CumSum", "TopK") or integer(node, "keepdims", 1)
    result = [None if number == axis else atoms for number, atoms in enumerate(labels)]
    if node.op_type == "CumSum":
        result = list(labels)
    if not kept:
        del result[axis]
    for name in node.output:
        if name:
            t.give(name, result, node.name)


def reduce(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Sums, means and the like."""
    labels = t.of(node.input[0])
    if labels is None:
        return
    axes = integers(node, "axes")
    if axes is None and input_at(node, 1):
        axes = t.values(node.input[1])
        if axes is None:
            t.fix_tensor(node.input[0], f"the axes of {node.op_type} are computed", node.name)
            return
    if not axes:
        idle = integer(node, "noop_with_empty_axes", 0)
        axes = [] if idle else list(range(len(labels)))
    reduced = {axis % max(1, len(labels)) for axis in axes}
    for axis in reduced:
        t.fix(labels[axis], f"{node.op_type} is over it, without weights", node.name)
    kept = integer(node, "keepdims", 1)
    result = [
        None if axis in reduced else atoms
        for axis, atoms in enumerate(labels)
        if kept or axis not in reduced
    ]
    t.give(node.output[0], result, node.name)


def resize(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    """Axes that keep their length keep their channels; each axis is resized alone."""
    labels, source = t.of(node.input[0]), node.input[0]
    if labels is None:
        return
    if text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        t.fix_tensor(source, "it is cropped while it is resized", node.name)
        return
    axes = integers(node, "axes")
    places = [axis % len(labels) for axis in axes] if axes else list(range(len(labels)))
    sizes = input_at(node, 3)
    scales = input_at(node, 2) if node.op_type == "Resize" and t.opset > 10 else input_at(node, 1)
    factors = t.folded.get(scales)
    result: Labels = []
    for axis, atoms in enumerate(labels):
        idle = axis not in places
        if not idle and sizes and sizes in t.numbers:
            number = t.numbers[sizes][places.index(axis)]
            idle = demand(t, (place, 3), places.index(axis), number, atoms, node)
        elif not idle and factors is not None and factors.size == len(places):
            idle = float(factors.ravel()[places.index(axis)]) == 1.0
        if not idle:
            t.fix(atoms, "it is resized", node.name)
        result.append(atoms if idle else None)
    t.give(node.output[0], result, node.name)
