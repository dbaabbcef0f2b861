"""Which rows fit, choose and judge, and how wrong the outputs of a changed model are on some of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.calibration import evenly
from edgesdk.compress.probe import open_quietly
from edgesdk.compress.ranges import run
from edgesdk.errors import SamplesError
from edgesdk.structural import FEWEST_ROWS

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet

    Array = NDArray[np.generic]

_KEPT_BYTES = 64 << 20
"""Of the original's outputs, so that it need not run again for each model that is judged."""
_TURN = (0, 1, 0, 2, 0)
"""Three fifths are fitted, a fifth chooses, a fifth judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """Row numbers, no row in two sets.

    Attributes:
        fitted: what weights and factors are fitted to.
        choosing: on which ridges are chosen, and single changes kept or not.
        judging: on which the outputs are compared.
    """

    fitted: tuple[int, ...]
    choosing: tuple[int, ...]
    judging: tuple[int, ...]

    def at_most(self, most: int) -> Deal:
        """The same with fewer rows in each set, at most so many together, spread evenly; 10 up."""
        sets = (self.fitted, self.choosing, self.judging)
        total = sum(map(len, sets))
        if total <= most:
            return self
        fitted, choosing, judging = (
            tuple(rows[place] for place in evenly(len(rows), max(1, most * len(rows) // total)))
            for rows in sets
        )
        return Deal(fitted=fitted, choosing=choosing, judging=judging)


def deal(count: int, most: int) -> Deal:
    """Rows for everything that is fitted here, at most so many, spread evenly; the same every time.

    Args:
        count: rows that there are, 10 up.
        most: rows at most.

    Raises:
        SamplesError: there are fewer than 10.
    """
    rows = evenly(count, most)
    if len(rows) < FEWEST_ROWS:
        raise SamplesError(
            f"{len(rows)} rows to fit weights to; legal: {FEWEST_ROWS} up, as some of them must "
            "judge the others; give more calibration rows"
        )
    sets: tuple[list[int], ...] = ([], [], [])
    for place, row in enumerate(rows):
        sets[_TURN[place % len(_TURN)]].append(row)
    fitted, choosing, judging = (tuple(rows) for rows in sets)
    return Deal(fitted=fitted, choosing=choosing, judging=judging)


class Judge:
    """The outputs of the original on some rows."""

    def __init__(self, original: Path, samples: SampleSet, rows: Sequence[int]) -> None:
        self._session = open_quietly(original)
        self._samples, self._rows = samples, rows
        self._known: dict[int, list[Any]] = {}
        self._room = _KEPT_BYTES

    def errors(self, model: Path) -> dict[str, float]:
        """By output, the squared error over the sum of squares of the original's, on all rows.

        Infinite where a value is no number and was one; 0 for an output that holds no numbers.
        """
        other = open_quietly(model)
        names = [value.name for value in self._session.get_outputs()]
        wrong, energy = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for row in self._rows:
            feed = self._samples[row].inputs
            pairs = zip(names, self._wanted(row, feed), run(other, feed), strict=True)
            for name, old, new in pairs:
                if isinstance(old, np.ndarray) and np.issubdtype(old.dtype, np.number):
                    wide = np.nan_to_num(old.astype(np.float64))
                    wrong[name] += float(((wide - new.astype(np.float64)) ** 2).sum())
                    energy[name] += float((wide**2).sum())
        return {name: _share(wrong[name], energy[name]) for name in names}

    def _wanted(self, row: int, feed: Mapping[str, Array]) -> list[Any]:
        """The original's outputs on a row; as many are kept as there is room for."""
        if row in self._known:
            return self._known[row]
        outputs = run(self._session, feed)
        size = sum(value.nbytes for value in outputs if isinstance(value, np.ndarray))
        if size <= self._room:
            self._known[row] = outputs
            self._room -= size
        return outputs


def is_better(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether no output is worse, and one is better."""
    return all(now[name] <= before[name] for name in before) and now != before


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """The model in a file; it keeps its weights, which writing a large one would take out of it."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    # A second model at the same place would be appended to the data of the first.
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return onnx_io.write(copy, path)


def _share(wrong: float, energy: float) -> float:
    if wrong == 0:
        return 0.0
    return wrong / energy if energy > 0 and math.isfinite(wrong) else math.inf
