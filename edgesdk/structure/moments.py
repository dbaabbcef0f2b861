"""Second moments of what enters layers, and of what it should make, in memory the rows do not fill.

Least squares and the best factors of a matrix need no activations, only sums of products of them:
X'X, X'Y and the sums of X and Y, where a row of X is what one output position of a layer sees and Y
what should come of it. Rows are run one at a time, and layers taken a few at a time, one pass over
the rows for each few, so that neither the activations nor the sums outgrow a bound. Positions that
are padding (an attention mask's zeros) count like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress.ranges import GROUP_BYTES
from edgesdk.errors import ModelError, SamplesError
from edgesdk.structure.patches import gather, positions_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.structure.layers import Layer
    from edgesdk.structure.reference import Reference

    Array = NDArray[np.generic]
    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]
    Progress = Callable[[int, int], None]

MOMENT_BYTES = 512 << 20
"""Sums that are held at once; a layer whose own are larger is alone."""
POSITIONS = 256
"""Of one row at most, spread at random: neighbours in an image say nearly the same."""
_ROWS_TOGETHER = 32
"""At most; the weights are then read once for all of them."""
_WIDTH = 8
_WAITING_BYTES = 8 << 20
"""Of patches that wait to be multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Sums over positions, by group of a layer; X has `features` columns, Y `outputs / groups`.

    Attributes:
        count: positions.
        xx: float64[groups, features, features], X'X.
        x: float64[groups, features], the sum of X.
        xy: float64[groups, features, outputs / groups], X'Y; without a target, of width 0.
        y: float64[groups, outputs / groups], the sum of Y.
        yy: float64[groups, outputs / groups], the sum of squares.
    """

    count: int
    xx: Floats
    x: Floats
    xy: Floats
    y: Floats
    yy: Floats

    @property
    def centred(self) -> Floats:
        """X'X about the mean."""
        return self.xx - self.x[:, :, None] * self.x[:, None, :] / max(self.count, 1)

    @property
    def mean(self) -> Floats:
        """float64[groups, features], of X."""
        return self.x / max(self.count, 1)

    @property
    def finite(self) -> bool:
        """Whether all values were numbers, and none infinite."""
        sums = (self.x, self.y, self.yy)
        return all(bool(np.isfinite(values).all()) for values in sums)

    @property
    def energy(self) -> float:
        """Sum of squares of Y about its mean."""
        return float((self.yy - self.y**2 / max(self.count, 1)).sum())

    def error(self, matrix: Floats, vector: Floats) -> float:
        """Sum of squares of Y - (X W + b) over all positions and outputs, exactly.

        Args:
            matrix: W, float64[groups, features, outputs / groups].
            vector: b, float64[outputs].
        """
        shift = vector.reshape(self.y.shape)
        made = np.einsum("gf,gfo->go", self.x, matrix)
        square = self.yy - 2 * np.einsum("gfo,gfo->go", matrix, self.xy)
        square = square + np.einsum("gfo,gfo->go", matrix, self.xx @ matrix)
        square = square + 2 * shift * (made - self.y) + self.count * shift**2
        return max(float(square.sum()), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a layer should make.

    Attributes:
        name: of a tensor of the reference model.
        kept: int[outputs], its channels in the order of the layer's outputs; None for all.
        axis: of the channels in that tensor: 1 for convolutions, -1 for products.
    """

    name: str
    kept: Places | None
    axis: int


def observe_moments(
    model: Reference,
    layers: Sequence[Layer],
    samples: SampleSet,
    parts: Sequence[Sequence[int]],
    *,
    against: tuple[Reference, Mapping[str, Target]] | None = None,
    positions: int = POSITIONS,
    progress: Progress | None = None,
) -> Iterator[tuple[Layer, tuple[Moments, ...]]]:
    """Moments of layers, one after the other, in their order.

    Args:
        model: holds the layers.
        layers: of that model.
        samples: rows; their shapes may vary.
        parts: sets of row numbers; each has moments of its own.
        against: another model and, by node name of a layer, the tensor of it that is Y.
        positions: of one row at most, chosen at random, the same ones every time.
        progress: told how many layers are done, of how many.

    Raises:
        ModelError: a target has other positions or channels than the layer makes.
        Exception: whatever onnxruntime says about a row that it cannot run.
    """
    done = 0
    for group in _grouped(model, layers, len(parts), against):
        tallies = {
            layer.node: [_Tally(layer, aimed=against is not None) for _ in parts] for layer in group
        }
        read = model.open([layer.source for layer in group])
        targets = against[1] if against else {}
        wanted = [targets[layer.node].name for layer in group] if against else []
        told = against[0].open(wanted) if against else None
        most = _together(model, group, against)
        for number, part in enumerate(parts):
            for rows, feed in model.feeds(samples, part, most):
                entering, leaving = read(feed), told(feed) if told else {}
                for layer in group:
                    target = targets.get(layer.node)
                    tallies[layer.node][number].add(
                        entering[layer.source],
                        leaving[target.name] if target else None,
                        target,
                        np.random.default_rng(rows),
                        positions * len(rows),
                    )
        del read, told  # before the next sessions are opened
        for layer in group:
            done += 1
            if progress is not None:
                progress(done, len(layers))
            yield layer, tuple(tally.moments() for tally in tallies.pop(layer.node))


def moment_bytes(layer: Layer) -> int:
    """Bytes of the sums of a layer."""
    return _WIDTH * layer.features * (layer.groups * layer.features + layer.outputs)


def _together(
    model: Reference,
    layers: Sequence[Layer],
    against: tuple[Reference, Mapping[str, Target]] | None,
) -> int:
    """Rows that are run together, so that what they show stays below its bound."""
    if against and not against[0].stacks:
        return 1
    shown = sum(model.size(layer.source) for layer in layers)
    if against:
        shown += sum(against[0].size(against[1][layer.node].name) for layer in layers)
    return max(1, min(_ROWS_TOGETHER, GROUP_BYTES // max(shown, 1)))


def _grouped(
    model: Reference,
    layers: Sequence[Layer],
    parts: int,
    against: tuple[Reference, Mapping[str, Target]] | None,
) -> Iterator[list[Layer]]:
    group: list[Layer] = []
    shown = held = 0
    for layer in layers:
        bytes_shown = model.size(layer.source)
        if against:
            bytes_shown += against[0].size(against[1][layer.node].name)
        bytes_held = parts * moment_bytes(layer)
        too_much = shown + bytes_shown > GROUP_BYTES or held + bytes_held > MOMENT_BYTES
        if group and too_much:
            yield group
            group, shown, held = [], 0, 0
        group.append(layer)
        shown, held = shown + bytes_shown, held + bytes_held
    if group:
        yield group


class _Tally:
    """Sums of one layer under way."""

    def __init__(self, layer: Layer, *, aimed: bool) -> None:
        width = layer.outputs // layer.groups
        self._layer = layer
        self._count = 0
        self._xx = np.zeros((layer.groups, layer.features, layer.features))
        self._x = np.zeros((layer.groups, layer.features))
        self._xy = np.zeros((layer.groups, layer.features, width if aimed else 0))
        self._y, self._yy = np.zeros((layer.groups, width)), np.zeros((layer.groups, width))
        self._waiting: list[tuple[Floats, Floats]] = []
        self._positions = 0

    def add(
        self,
        values: Array,
        leaving: Array | None,
        target: Target | None,
        rng: np.random.Generator,
        positions: int,
    ) -> None:
        layer = self._layer
        count = positions_of(layer, values)
        places = np.arange(count)
        if count > positions:
            places = np.sort(rng.choice(count, positions, replace=False))
        seen = gather(layer, values, places)
        made = np.zeros((layer.groups, len(places), 0))
        if leaving is not None and target is not None:
            made = _targets(layer, leaving, target, count)[places]
            made = made.reshape(len(places), layer.groups, -1).transpose(1, 0, 2)
        self._waiting.append((seen, made))
        self._positions += len(places)
        if self._positions * layer.features * layer.groups * _WIDTH > _WAITING_BYTES:
            self._multiply()

    def _multiply(self) -> None:
        """Add what is waiting: a product of many positions costs little more than one of few."""
        if not self._waiting:
            return
        seen, made = (np.concatenate(parts, axis=1) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        turned = seen.transpose(0, 2, 1)
        self._count += self._positions
        self._positions = 0
        self._xx += turned @ seen
        self._x += seen.sum(axis=1)
        if made.shape[2]:
            self._xy += turned @ made
            self._y += made.sum(axis=1)
            self._yy += (made**2).sum(axis=1)

    def moments(self) -> Moments:
        self._multiply()
        return Moments(
            count=self._count, xx=self._xx, x=self._x, xy=self._xy, y=self._y, yy=self._yy
        )


def _targets(layer: Layer, values: Array, target: Target, count: int) -> Floats:
    """float64[positions, outputs]."""
    flat = np.moveaxis(values, target.axis, -1)
    flat = flat.reshape(-1, flat.shape[-1])
    if target.kept is not None:
        flat = flat[:, target.kept]
    if flat.shape != (count, layer.outputs):
        raise ModelError(
            f"node {layer.node!r} makes {layer.outputs} outputs at {count} positions, and "
            f"{target.name!r} of the original has {flat.shape[1]} at {flat.shape[0]}; say which of "
            "its channels were kept"
        )
    return np.asarray(flat, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelMoments:
    """What the channels of one tensor held; the sums behind them are in float64.

    Attributes:
        count: values of each channel.
        mean: float64[channels].
        mean_abs: float64[channels], the mean of |x|.
        variance: float64[channels], about the mean.
    """

    count: int
    mean: Floats
    mean_abs: Floats
    variance: Floats


def observe_channel_moments(
    model: Reference, axes: Mapping[str, int], samples: SampleSet, rows: Sequence[int]
) -> dict[str, ChannelMoments]:
    """Mean, mean magnitude and variance of the channels of named tensors.

    Args:
        model: holds the tensors.
        axes: of the channels, by tensor name.
        samples: rows; their shapes may vary.
        rows: which of them; at least one.

    Raises:
        ModelError: the model has no float tensor of that name.
        SamplesError: there are no rows.
    """
    if not rows:
        raise SamplesError("no rows to observe; give --samples")
    unknown = [name for name in axes if not model.has(name)]
    if unknown:
        raise ModelError(f"the model has no float tensor {unknown[0]!r} outside of branches")
    found: dict[str, ChannelMoments] = {}
    for group in _tensor_groups(model, axes):
        read = model.open(group)
        sums: dict[str, tuple[int, Floats]] = {}
        for row in rows:
            for name, values in read(samples[row].inputs).items():
                flat = np.moveaxis(np.asarray(values, np.float64), axes[name], -1)
                flat = flat.reshape(-1, flat.shape[-1])
                new = np.stack([flat.sum(axis=0), np.abs(flat).sum(axis=0), (flat**2).sum(axis=0)])
                count, old = sums.get(name, (0, np.zeros_like(new)))
                sums[name] = count + len(flat), old + new
        for name, (count, (total, magnitude, square)) in sums.items():
            mean = total / max(count, 1)
            found[name] = ChannelMoments(
                count=count,
                mean=mean,
                mean_abs=magnitude / max(count, 1),
                variance=np.maximum(square / max(count, 1) - mean**2, 0.0),
            )
        del read
    return {name: found[name] for name in axes}


def _tensor_groups(model: Reference, names: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    shown = 0
    for name in names:
        if group and shown + model.size(name) > GROUP_BYTES:
            yield group
            group, shown = [], 0
        group.append(name)
        shown += model.size(name)
    if group:
        yield group
