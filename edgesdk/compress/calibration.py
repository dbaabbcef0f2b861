"""Real samples for quantizers that observe activations: a bounded number, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

RANGE_ROWS = 256
"""Rows at most from which onnxruntime's recipes take their ranges: each costs some inferences, once for
all recipes of a model, and no memory; twice as many as are set apart unless more are given."""


class Row(Protocol):
    """One sample."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """One array for each input of the model."""


class SampleSet(Protocol):
    """Rows that are read when asked for; lengths may differ from row to row."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, row: int, /) -> Row:
        """Row number `row`, from 0."""


def evenly(count: int, most: int) -> tuple[int, ...]:
    """At most `most` row numbers spread over `count` rows, in order, the same every time."""
    taken = min(count, most)
    return tuple(number * count // taken for number in range(taken))


class Feeds:
    """The chosen rows as feeds, read one at a time; any number of passes."""

    def __init__(self, samples: SampleSet, most: int) -> None:
        self._samples = samples
        self._rows = evenly(len(samples), most)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (dict(self._samples[row].inputs) for row in self._rows)
