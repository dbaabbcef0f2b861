"""Scale migration as a rewrite of the float graph: what it computes stays, its channels become even.

An activation that is read by weighted nodes is divided by a scale for each channel, and their
weights are multiplied by it (`equalize` chooses it). Where all that reads the activation is such
nodes, the division goes into the weights that make it, and costs nothing. Else one `Mul` is put
before the nodes that share it, which is little beside a product, and only where the noise is at
least halved by it.

On a text encoder (MiniLM, w8a8-dynamic) a third of the loss was left. On convolutional networks whose
channels are even already (a keyword spotter, ResNet, EfficientNet-Lite0) it gained nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.channels import Channels, observe_channels
from edgesdk.compress.equalize import Reader, choose_scale
from edgesdk.compress.rescale import Link, Rescaler
from edgesdk.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.recipe import Recipe

    Weight = NDArray[np.float32]

PREFIX = "smooth."
"""Of the names of nodes that are put in."""

_WORTH_FOLDING, _WORTH_A_NODE = 0.9, 0.5
"""Expected noise left, over that before, below which a scale is taken. With nodes down to 0.75, six
more of them took 2 % off the loss of a text encoder."""

_PRODUCTS = frozenset(("Gemm", "MatMul"))
"""Operators before which a node may be put: it touches each value once, they do so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """What was done.

    Attributes:
        folded: scales that went into weights alone.
        inserted: scales for which a node was put in.
    """

    folded: int
    inserted: int

    @property
    def note(self) -> str:
        """In words."""
        return f"{self.folded} scales folded into weights, {self.inserted} as nodes of their own"


def smooth(
    model: Path, recipe: Recipe, target: Path, samples: SampleSet, scratch: Path
) -> Smoothed:
    """Write the model with its scales migrated; it computes what it did, within float rounding.

    Args:
        model: what `prepare` wrote.
        recipe: which operators it quantizes and whether ranges are fixed is what scales depend on.
        target: the file to write.
        samples: rows from which the channels are observed.
        scratch: an empty folder.

    Raises:
        SamplesError: there are no rows.
        RecipeError: no scale is worth it here.
        Exception: whatever onnxruntime says about a model that it cannot run.
    """
    fixed = recipe.mode == "static"
    quantized = _PRODUCTS if not fixed and not recipe.weighted_only else _PRODUCTS | {"Conv"}
    # Where everything is quantized, so would be the input of a node that is put in: too late.
    inserting = recipe.weighted_only or not fixed
    rescaler = Rescaler(onnx_io.read_whole(model), PREFIX)
    links = [
        link
        for link in rescaler.links()
        if any(reader.node.op_type in quantized for reader in link.readers)
        and (link.folds or (inserting and _all_products(link)))
    ]
    axes = {link.activation: link.axis for link in links}
    seen = observe_channels(model, samples, axes, scratch) if axes else {}
    folded = inserted = 0
    for link in links:
        channels = seen[link.activation]
        if not _usable(channels, link):
            continue
        readers = [
            _reader(rescaler.weight(reader.node), reader.axis, depthwise=reader.depthwise)
            for reader in link.readers
            if reader.node.op_type in quantized
        ]
        scale = choose_scale(channels, readers, fixed=fixed)
        if scale.left > (_WORTH_FOLDING if link.folds else _WORTH_A_NODE):
            continue
        rescaler.apply(link, scale.values)
        folded += bool(link.folds)
        inserted += not link.folds
    if not folded + inserted:
        raise RecipeError(
            f"'-smooth' would change nothing in this model: of {len(links)} activations, none has "
            "channels so uneven that a scale pays"
        )
    onnx_io.write(rescaler.finished(), target)
    return Smoothed(folded=folded, inserted=inserted)


def _all_products(link: Link) -> bool:
    return all(reader.node.op_type in _PRODUCTS for reader in link.readers)


def _usable(channels: Channels, link: Link) -> bool:
    return channels.finite and channels.power.size == link.channels


def _reader(weight: Weight, axis: int, *, depthwise: bool) -> Reader:
    """The sums of a weight, channels first."""
    rows = np.abs(np.moveaxis(weight, axis, 0)).astype(np.float64)
    energy = (rows.reshape(len(rows), -1) ** 2).sum(axis=1)
    if depthwise:
        return Reader(energy=energy, largest=None, taps=1)
    taps = rows.reshape(*rows.shape[:2], -1)
    return Reader(energy=energy, largest=taps.max(axis=2), taps=taps.shape[2])
