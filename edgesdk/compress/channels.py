"""What each channel of chosen activations held, row by row, in memory that the rows do not fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress.calibration import evenly
from edgesdk.compress.exposing import Exposed, grouped
from edgesdk.compress.ranges import GROUP_BYTES, open_frugally, run, sizes_of
from edgesdk.errors import SamplesError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet

    Array = NDArray[np.generic]
    Floats = NDArray[np.float64]

CHANNEL_ROWS = 32
"""Rows at most: which channels are large is a trait of a network, and seen in the first few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """What the channels of one activation held.

    Attributes:
        low: float64[rows, channels], the least value of each row, at most 0.
        high: float64[rows, channels], the greatest, at least 0.
        power: float64[channels], the mean of squares over all values of all rows.
    """

    low: Floats
    high: Floats
    power: Floats

    @property
    def largest(self) -> Floats:
        """float64[channels], the largest magnitude on any row."""
        return np.asarray(np.maximum(-self.low, self.high).max(axis=0))

    @property
    def finite(self) -> bool:
        """Whether there was no infinity and no NaN."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())


def observe_channels(
    model: Path,
    samples: SampleSet,
    axes: Mapping[str, int],
    scratch: Path,
    *,
    most: int = CHANNEL_ROWS,
) -> dict[str, Channels]:
    """Run the model on rows of the samples, and note what the channels of these activations held.

    Args:
        model: what `prepare` wrote, or any ONNX file that onnxruntime loads.
        samples: rows; their shapes may vary.
        axes: of the channels, by the name of an input or an inner tensor; negative, from the end.
        scratch: an empty folder, for graphs that return some of the tensors.
        most: rows at most, spread evenly over the samples; at least 1.

    Raises:
        SamplesError: there are no rows.
        Exception: whatever onnxruntime says about a model or a row that it cannot run.
    """
    rows = evenly(len(samples), most)
    if not rows:
        raise SamplesError("no rows to observe; give --samples")
    found: dict[str, list[tuple[Floats, Floats, Floats, int]]] = {name: [] for name in axes}
    exposed = Exposed(model, scratch)
    fed = [name for name in axes if name in exposed.tensors.inputs]
    for row in rows if fed else ():
        feed = samples[row].inputs
        for name in fed:
            found[name].append(_counted(feed[name], axes[name]))
    known, same = sizes_of(exposed, samples, rows), exposed.tensors.same
    sizes = {name: known.get(same.get(name, name), 0) for name in axes if name not in fed}
    for group in grouped(sizes, GROUP_BYTES):
        session = open_frugally(exposed.model_of(group))
        for row in rows:
            for name, values in zip(group, run(session, samples[row].inputs), strict=True):
                found[name].append(_counted(values, axes[name]))
        del session  # before the next one is opened
    return {name: _joined(parts) for name, parts in found.items()}


def _counted(values: Array, axis: int) -> tuple[Floats, Floats, Floats, int]:
    """Least, greatest and sum of squares of each channel, and how many values it has."""
    flat = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    flat = flat.reshape(-1, flat.shape[-1])
    squares = np.einsum("tc,tc->c", flat, flat, dtype=np.float64)
    low, high = (f(flat, axis=0, initial=0.0).astype(np.float64) for f in (np.min, np.max))
    return low, high, squares, len(flat)


def _joined(parts: Sequence[tuple[Floats, Floats, Floats, int]]) -> Channels:
    count = max(1, sum(part[3] for part in parts))
    return Channels(
        low=np.stack([part[0] for part in parts]),
        high=np.stack([part[1] for part in parts]),
        power=np.asarray(sum(part[2] for part in parts) / count),
    )
