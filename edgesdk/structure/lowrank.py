"""Layers with large weights as two layers with small ones, chosen for what they make of real rows.

`study` looks at what enters each layer and tells its error at every rank (`factors` has the formula);
`weigh` measures what such an error does to the outputs; `options` and `ranks.allocate` choose ranks by
what they cost on the device, and `factorize` rewrites the graph. Where a layer has a bias b, moments
are taken about the mean m, and the bias becomes b + m (W - U V).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.errors import ModelError
from edgesdk.structure.factors import (
    TINY,
    Choice,
    Separable,
    Spectrum,
    break_even,
    factors,
    parameters_of,
    principal,
    separable,
)
from edgesdk.structure.judge import saved
from edgesdk.structure.layers import Layer
from edgesdk.structure.moments import observe_moments
from edgesdk.structure.net import Net
from edgesdk.structure.ranks import Option

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.structure.judge import Judge
    from edgesdk.structure.moments import Moments, Progress
    from edgesdk.structure.reference import Reference

    Floats = NDArray[np.float64]

_LEAST_DAMPING = 1e-6
_CURVE = 16
"""Ranks at most at which the error of a separable form is worked out: each takes solving a system."""


CostOf = Callable[[Layer, Choice | None], float]
"""What a layer costs whole (None) or split."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """A layer and everything needed to split it at any rank.

    Attributes:
        layer: it.
        energy: sum of squares of what it makes on the rows, about the mean where it has a bias.
        mean: float64[features], of what enters; zeros where it has no bias.
        spectrum: for the form `channels`.
        separable: for that form; None where the kernel is no square to be split.
    """

    layer: Layer
    energy: float
    mean: Floats
    spectrum: Spectrum
    separable: Separable | None

    def error(self, choice: Choice) -> float:
        """Share of the energy of the outputs that is lost, 0 to 1, on the rows of the study."""
        if choice.form == "channels":
            lost = self.spectrum.error(choice.rank)
        elif self.separable is None:
            raise ModelError(f"node {self.layer.node!r} has no kernel to split; legal: 'channels'")
        else:
            lost = self.energy - self.separable.gained(choice.rank, self.layer.kernel[1])
        return min(1.0, max(0.0, lost / max(self.energy, TINY)))


def study(
    model: Reference | None,
    net: Net,
    samples: SampleSet,
    rows: Sequence[int],
    *,
    nodes: Sequence[str] | None = None,
    damping: float | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Study], dict[str, str]]:
    """Look at layers of a model, so that they can be split; and name those that cannot, with the reason.

    What is kept of a layer is at most as large as its weight in float64, and for a separable form
    somewhat more.

    Args:
        model: the same as `net`, as it runs; None to take all inputs for equally likely.
        net: the model; it is only read.
        samples: rows, not looked at without `model`.
        rows: numbers of those to run.
        nodes: names of layers; all of them unless given.
        damping: share of its mean diagonal that is added to C; by `shrinkage` unless given.
        progress: told how many layers are done, of how many.
    """
    wanted = net.layers if nodes is None else {name: net.layers[name] for name in nodes}
    left = {name: why for name, why in net.left.items() if nodes is None or name in nodes}
    taken: list[Layer] = []
    for name, layer in wanted.items():
        reason = _reason(layer)
        if reason is None and model is not None and not model.has(layer.source):
            reason = "what enters it cannot be observed"
        if reason is None:
            taken.append(layer)
        elif layer.op != "BatchNormalization":
            left[name] = reason
    found: dict[str, Study] = {}
    if model is None:
        for layer in taken:
            unit = np.eye(layer.features)
            found[layer.node] = _studied(net, layer, unit, np.zeros(layer.features), 0.0)
        return found, left
    for layer, (moments,) in observe_moments(model, taken, samples, [rows], progress=progress):
        if moments.count == 0:
            left[layer.node] = "nothing entered it on these rows"
            continue
        if not moments.finite:
            left[layer.node] = "what enters it is infinite or no numbers on some rows"
            continue
        found[layer.node] = _study(net, layer, moments, damping)
    return found, left


def weigh(
    judge: Judge,
    net: Net,
    known: Mapping[str, Study],
    scratch: Path,
    *,
    share: float = 0.5,
    progress: Progress | None = None,
) -> dict[str, float]:
    """What a relative error of each layer does to the outputs, measured: the weights of `options`.

    Each layer alone is replaced by a product of fewer values, and the worst output's error divided
    by its own. The errors of layers differ in weight by a factor of hundreds, so ranks are not worth
    much without this: at half the parameters a text encoder kept a cosine of 0.84 with it, and 0.70
    without.

    Args:
        judge: of the original.
        net: the model; it is as before in the end.
        known: what `study` found; its layers are weighed.
        scratch: a folder for one model file.
        share: of a layer's values that its product has, above 0 and below 1.
        progress: told how many layers are done, of how many.
    """
    found = {}
    for number, (name, one) in enumerate(known.items()):
        layer = one.layer
        rank = max(1, int(share * layer.parameters / parameters_of(layer, Choice("channels", 1))))
        choice = Choice("channels", rank)
        matrix, vector = net.matrix(layer), net.vector(layer)
        left, right = factors(matrix[0], one.spectrum, rank)
        product = left @ right
        own = bool(layer.bias) and net.reads[layer.bias] == 1
        places = [layer.weight, layer.bias] if own else [layer.weight]
        tensors = {place: _copied(net.stored[place]) for place in places}
        shifted = vector + one.mean @ (matrix[0] - product) if own else None
        net.write(layer, product[None], shifted)
        errors = judge.errors(saved(net.proto, scratch / "weighed.onnx"))
        for place, tensor in tensors.items():
            net.stored[place].CopyFrom(tensor)
        found[name] = max(errors.values(), default=0.0) / max(one.error(choice), TINY)
        if progress is not None:
            progress(number + 1, len(known))
    return found


def options(
    known: Study, cost_of: CostOf, *, multiple: int = 1, weight: float = 1.0
) -> list[Option[Choice | None]]:
    """What a layer can be, for `ranks.allocate`: whole, or split where that costs less.

    Args:
        known: the layer.
        cost_of: tells what it costs whole and split.
        multiple: of which ranks are, such as the width of the device's vectors.
        weight: of the layer's relative error in the sum of all damages.
    """
    layer = known.layer
    whole = cost_of(layer, None)
    found: list[Option[Choice | None]] = [Option(choice=None, cost=whole, damage=0.0)]
    for choice in candidates(known, multiple):
        cost = cost_of(layer, choice)
        if cost < whole:
            found.append(Option(choice=choice, cost=cost, damage=weight * known.error(choice)))
    return found


def candidates(known: Study, multiple: int = 1) -> list[Choice]:
    """Ways to split a layer that hold fewer values than it does; ranks are multiples."""
    layer = known.layer
    found = [
        Choice("channels", rank)
        for rank in range(multiple, break_even(layer, "channels") + 1, multiple)
    ]
    if known.separable is not None:
        most = min(break_even(layer, "separable"), known.separable.columns.shape[1])
        ranks = range(multiple, most + 1, multiple)
        step = max(1, -(-len(ranks) // _CURVE))
        found += [Choice("separable", rank) for rank in ranks[::-1][::step][::-1]]
    return found


def shrinkage(second: Floats, count: int) -> float:
    """How much of its mean diagonal to add to a second moment that so many positions gave.

    The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (Shrinkage Algorithms for MMSE
    Covariance Estimation, 2010): what few positions did not show is not thrown away for nothing.

    Args:
        second: X'X, float64[features, features].
        count: positions, at least 1.
    """
    features = len(second)
    trace, square = float(np.trace(second)), float((second**2).sum())
    apart = (count + 1 - 2 / features) * (square - trace**2 / features)
    wanted = (1 - 2 / features) * square + trace**2
    share = min(1.0, wanted / apart) if apart > 0 else 1.0
    return max(share / max(1 - share, TINY), _LEAST_DAMPING) if share < 1 else 1 / TINY


def _copied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    return copy


def _reason(layer: Layer) -> str | None:
    """Why a layer is not split."""
    if layer.groups > 1:
        return f"it has {layer.groups} groups, whose matrices are small already"
    if layer.op != "BatchNormalization" and break_even(layer) < 1:
        return f"{layer.features} x {layer.outputs} values are no more than any two factors hold"
    return None if layer.op != "BatchNormalization" else "it is no matrix"


def _study(net: Net, layer: Layer, moments: Moments, damping: float | None) -> Study:
    centred = layer.takes_bias
    second = (moments.centred if centred else moments.xx)[0]
    mean = moments.mean[0] if centred else np.zeros(layer.features)
    if damping is None:
        damping = shrinkage(second, moments.count)
    return _studied(net, layer, second, mean, damping)


def _studied(net: Net, layer: Layer, second: Floats, mean: Floats, damping: float) -> Study:
    matrix = net.matrix(layer)[0]
    added = max(damping * float(np.trace(second)) / layer.features, TINY)
    second = second + added * np.eye(layer.features)
    spectrum = principal(matrix, second)
    split = len(layer.kernel) == 2 and min(layer.kernel) > 1 and break_even(layer, "separable") > 0
    return Study(
        layer=layer,
        energy=float(spectrum.values.sum()),
        mean=mean,
        spectrum=spectrum,
        separable=separable(layer, matrix, second) if split else None,
    )
