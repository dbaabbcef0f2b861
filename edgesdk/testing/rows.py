"""Samples in memory for the small graphs of `edgesdk.testing.graphs`."""

from __future__ import annotations

import numpy as np

from edgesdk.backend import Array
from edgesdk.samples import Sample


class Rows:
    """Random rows for `small_cnn` or `small_attention`; stands in for a `SampleSet`.

    Attributes:
        read: how often each row was read.
    """

    def __init__(self, kind: str, count: int = 6) -> None:
        """Draw them.

        Args:
            kind: `cnn` or `attention`, whose rows differ in length.
            count: of the rows.
        """
        rng = np.random.default_rng(3)
        self.read = [0] * count
        self._feeds: list[dict[str, Array]] = []
        for i in range(count):
            if kind == "attention":
                self._feeds.append({"ids": rng.integers(0, 100, (1, 4 + i % 3))})
            else:
                image = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
                self._feeds.append({"image": image})

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, row: int, /) -> Sample:
        self.read[row] += 1
        return Sample(inputs=self._feeds[row])
