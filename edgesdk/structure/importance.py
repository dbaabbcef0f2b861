"""What the loss of each unit would cost, estimated in several ways.

Every function gives, for each group by name, float64[units] of scores of 0 or more: the lower, the sooner a
unit can go. Scores are comparable inside a group. Between groups they are only after `comparable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgesdk.errors import ModelError
from edgesdk.structure.skeleton import stored_tensors

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.structure.tracer import Reader
    from edgesdk.structure.units import Group, Structure

    Floats = NDArray[np.float64]

Scores = Mapping[str, "Floats"]
Between = Literal["share", "parameters", "none"]


def magnitude(proto: onnx.ModelProto, structure: Structure, *, order: int = 2) -> dict[str, Floats]:
    """L1 (order 1) or L2 (order 2) norm of all weights that a unit owns, those that read it included.

    Vectors (biases, shifts, running variances) do not count: they scale nothing, or are divided by.

    Raises:
        ModelError: another order.
    """
    if order not in (1, 2):
        raise ModelError(f"no magnitude of order {order}; legal: 1, 2")
    arrays = _Arrays(proto)
    sums: dict[tuple[str, int], Floats] = {}

    def along(name: str, axis: int) -> Floats:
        if (name, axis) not in sums:
            values = np.abs(arrays[name])
            others = tuple(other for other in range(values.ndim) if other != axis)
            powers = values if order == 1 else np.square(values, dtype=np.float64)
            sums[name, axis] = powers.sum(axis=others, dtype=np.float64)
        return sums[name, axis]

    scores = {}
    for group in structure.groups:
        total = np.zeros(len(group.units))
        for part, (name, axis) in enumerate(group.tensors):
            if name in structure.weights and sum(size > 1 for size in structure.shapes[name]) > 1:
                picks = [list(unit.parts[part].indices) for unit in group.units]
                total += along(name, axis)[np.array(picks)].sum(axis=1)
        scores[group.name] = total if order == 1 else np.sqrt(total)
    return scores


def activations(structure: Structure) -> dict[str, int]:
    """The activations that `activity` and `energy` want to know of, with the axis of their channels.

    The axis is negative, from the end, as `compress.channels.observe_channels` takes it.
    """
    wanted = {}
    for group in structure.groups:
        for reader in group.readers:
            if reader.activation:
                rank = len(structure.axes.labels[reader.activation])
                wanted[reader.activation] = reader.axis - rank
    return wanted


def activity(structure: Structure, moments: Mapping[str, Floats]) -> dict[str, Floats]:
    """How much a unit has to say: the mean of a moment of its activations, where they are read.

    Args:
        structure: what can be removed.
        moments: for each activation of `activations`, float64[channels]: the mean magnitude of every
            channel over samples and places, or the root of its mean square.

    Raises:
        ModelError: an activation is missing, or has another number of channels.
    """

    def score(group: Group) -> Floats:
        total, count = np.zeros(len(group.units)), 0
        for name, axis in dict.fromkeys((r.activation, r.axis) for r in group.readers):
            if name:
                owners = _owners(structure, group, structure.axes.labels[name][axis])
                values = _moment(moments, name, len(owners))
                total += _summed(owners, values, len(group.units))
                count += int((owners >= 0).sum())
        return total * (len(group.units) / max(1, count))

    return _each(structure, score)


def energy(
    proto: onnx.ModelProto,
    structure: Structure,
    moments: Mapping[str, Floats] | None = None,
    *,
    relative: bool = True,
) -> dict[str, Floats]:
    """The part of what its readers compute that comes from a unit, if channels are uncorrelated.

    For every sum y = sum_i w_i x_i that reads it: the sum over its channels of E[x_i^2] |w_i|^2. Sun et al.,
    "A Simple and Effective Pruning Approach for Large Language Models" (2024), score single weights so.

    Args:
        proto: with its weights.
        structure: what can be removed.
        moments: for each activation of `activations`, float64[channels]: the mean square of every channel.
            Without them all channels count as equally loud, and the score is one of weights alone.
        relative: give the share of each sum's energy, added up over the sums that read the unit. Such scores
            are comparable between groups as they are: a channel of a residual stream, that many layers
            read, weighs more than one inside a block. Else the root of the energy itself.

    Raises:
        ModelError: an activation is missing, or has another number of channels.
    """
    arrays = _Arrays(proto)
    known: dict[Reader, Floats] = {}

    def parts(reader: Reader, channels: int) -> Floats:
        weights = arrays[reader.weight]
        others = tuple(other for other in range(weights.ndim) if other != reader.weight_axis)
        squares: Floats = np.square(weights, dtype=np.float64).sum(axis=others)
        if moments is None or not reader.activation:
            return squares
        # A grouped convolution has the weights of one group's positions, for all groups together.
        repeats = channels // len(squares)
        power = _moment(moments, reader.activation, channels)
        return np.asarray(np.tile(squares, repeats) / repeats * power)

    def score(group: Group) -> Floats:
        total = np.zeros(len(group.units))
        for reader in group.readers:
            if moments is not None and reader.activation:
                atoms = structure.axes.labels[reader.activation][reader.axis]
            else:
                atoms = structure.axes.labels[reader.weight][reader.weight_axis]
            owners = _owners(structure, group, atoms)
            if reader not in known:
                known[reader] = parts(reader, len(owners))
            values = known[reader]
            scale = max(float(values.sum()), np.finfo(np.float64).tiny) if relative else 1.0
            total += _summed(owners, values / scale, len(group.units))
        return total if relative else np.sqrt(total)

    return _each(structure, score)


def taylor(
    structure: Structure, products: Iterable[Mapping[str, NDArray[np.floating]]]
) -> dict[str, Floats]:
    """(sum w * dL/dw)^2 over the weights that read a unit, the mean over rows.

    Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019). The weights that read it
    are those that masking sets to zero, so the sum is, to first order, how exactly that changes the loss.
    Squares are of rows, since the mean of a gradient tells nothing where a model is trained to its end.

    Args:
        structure: what can be removed.
        products: for each row, by name of the stored tensor, w * dL/dw, of the tensor's shape
            (`edgesdk.train.taylor.products`).

    Raises:
        ModelError: there are no rows, or a product is missing or has another shape.
    """
    totals: dict[str, Floats] = {}
    count = 0
    for product in products:
        count += 1
        for name, score in _squared(structure, product).items():
            totals[name] = totals.get(name, np.zeros_like(score)) + score
    if not count:
        raise ModelError("no rows to see gradients on; give at least one")
    return {name: total / count for name, total in totals.items()}


def _squared(
    structure: Structure, product: Mapping[str, NDArray[np.floating]]
) -> dict[str, Floats]:
    """What the loss of each unit does to the loss of one row, squared."""
    sums: dict[tuple[str, int], Floats] = {}

    def along(name: str, axis: int) -> Floats:
        if (name, axis) not in sums:
            values = product.get(name)
            if values is None or values.shape != structure.shapes[name]:
                seen = "none" if values is None else str(values.shape)
                raise ModelError(f"product of {name!r}: {seen}; needed: {structure.shapes[name]}")
            others = tuple(other for other in range(values.ndim) if other != axis)
            sums[name, axis] = np.sum(values, axis=others, dtype=np.float64)
        return sums[name, axis]

    def score(group: Group) -> Floats:
        total = np.zeros(len(group.units))
        for position, part in enumerate(group.units[0].parts):
            if part.read:
                picks = [list(unit.parts[position].indices) for unit in group.units]
                total += along(part.tensor, part.axis)[np.array(picks)].sum(axis=1)
        return np.square(total)

    return _each(structure, score)


def comparable(
    structure: Structure, scores: Scores, *, between: Between = "share"
) -> dict[str, Floats]:
    """Scores that can be ranked over all groups.

    A score of one group says little about those of another: a head owns more weights than a unit of an MLP,
    and a layer with large weights is not more important than one whose scale the next normalisation
    takes back.

    Args:
        structure: what can be removed.
        scores: float64[units] of each group, at least 0.
        between: `share` divides by the group's sum: then one of few units weighs more than one of many;
            `parameters` divides by what removing the unit saves; `none` leaves them, which is right for what
            estimates damage in one measure (`taylor`, `energy` where it is relative).

    Raises:
        ModelError: a group without a score for each of its units.
    """
    result = {}
    for group in structure.groups:
        own = scores.get(group.name)
        if own is None or own.shape != (len(group.units),):
            seen = "none" if own is None else str(own.shape)
            raise ModelError(f"scores of {group.name!r}: {seen}; needed: ({len(group.units)},)")
        if between == "share":
            total = float(own.sum())
            result[group.name] = own / total if total > 0 else np.asarray(own, np.float64)
        elif between == "parameters":
            saved = np.array([max(1, unit.parameters) for unit in group.units], np.float64)
            result[group.name] = own / saved
        else:
            result[group.name] = np.asarray(own, np.float64)
    return result


class _Arrays:
    """Stored tensors as arrays, each read once."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._tensors = stored_tensors(proto.graph)
        self._read: dict[str, NDArray[np.floating]] = {}

    def __getitem__(self, name: str) -> NDArray[np.floating]:
        from onnx import numpy_helper

        if name not in self._read:
            self._read[name] = numpy_helper.to_array(self._tensors[name])
        return self._read[name]


def _each(structure: Structure, score: Callable[[Group], Floats]) -> dict[str, Floats]:
    return {group.name: score(group) for group in structure.groups}


def _owners(
    structure: Structure, group: Group, atoms: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """int64[channels], the number of the unit that each channel belongs to; -1 for those of others."""
    if atoms is None:
        return np.zeros(0, np.int64)
    numbers = {unit.atom: number for number, unit in enumerate(group.units)}
    roots = structure.axes.roots[atoms].tolist()
    return np.array([numbers.get(root, -1) for root in roots], np.int64)


def _summed(owners: NDArray[np.int64], values: Floats, units: int) -> Floats:
    mine = owners >= 0
    counted = np.bincount(owners[mine], weights=values[mine], minlength=units)
    return counted.astype(np.float64)


def _moment(moments: Mapping[str, Floats], name: str, channels: int) -> Floats:
    values = moments.get(name)
    if values is None or values.shape != (channels,):
        seen = "none" if values is None else str(values.shape)
        raise ModelError(f"moments of activation {name!r}: {seen}; needed: ({channels},)")
    return np.asarray(values, np.float64)
