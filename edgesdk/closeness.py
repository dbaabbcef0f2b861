"""How close one output of one sample is to the float original's, in sums that can be added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgesdk.statistics import Floats

SQNR_MOST = 200.0
"""Decibels that stand for "no error at all"; float64 itself cannot tell more apart."""

POOLED_BELOW = 8
"""Outputs with fewer values a sample are compared over all samples as one vector.

The cosine of a vector of one value is 1 whatever the value is, and of a few positive ones it can
hardly fall; a probability that a model gives once a sample would pass every floor.
"""

_EQUAL_ENERGY = 1e-8
"""Share of error energy up to which outputs are equal within rounding (80 dB).

Between what reordered float32 sums leave (above 100 dB) and float16 arithmetic (about 60 dB).
"""

COLUMNS = ("dot", "reference_sq", "candidate_sq", "error_sq", "max_error", "agreement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One output of one sample.

    Attributes:
        numbers: by `COLUMNS`; NaN where a column does not apply (`agreement` of an output without
            classes) or nothing could be compared.
        size: values in the output.
        bad_values: NaN or infinite values of the candidate where the original has none.
        problem: why the two cannot be compared, or None.
    """

    numbers: tuple[float, ...]
    size: int = 0
    bad_values: int = 0
    problem: str | None = None


def compare(reference: NDArray[Any], candidate: NDArray[Any] | None) -> Row:
    """One output of one sample against the original's.

    Float outputs: sums for cosine and SQNR, the largest error, and how often the largest entry
    along the last axis is at the same place. Others: the share of equal values. Values that are
    infinite or NaN in the original (a masked score) are left out.
    """
    nothing = (float("nan"),) * len(COLUMNS)
    if candidate is None:
        return Row(numbers=nothing, problem="the output is missing")
    if candidate.dtype != reference.dtype:
        return Row(
            numbers=nothing, problem=f"dtype {candidate.dtype}, the original's is {reference.dtype}"
        )
    if candidate.shape != reference.shape:
        shapes = f"{list(candidate.shape)}, the original's is {list(reference.shape)}"
        return Row(numbers=nothing, problem=f"shape {shapes}")
    if reference.dtype.kind != "f":
        same = float((reference == candidate).mean()) if reference.size else 1.0
        return Row(numbers=(*nothing[:-1], same), size=reference.size)
    finite = np.isfinite(reference)
    usable = finite & np.isfinite(candidate)
    bad = int((finite & ~usable).sum())
    before, after = (side[usable].astype(np.float64) for side in (reference, candidate))
    error = after - before
    return Row(
        numbers=(
            float(before @ after),
            float(before @ before),
            float(after @ after),
            float(error @ error),
            float(np.abs(error).max(initial=0.0)),
            _same_top(reference, candidate),
        ),
        size=reference.size,
        bad_values=bad,
    )


def _same_top(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    if reference.ndim == 0 or reference.shape[-1] < 2 or not reference.size:
        return float("nan")
    return float((reference.argmax(axis=-1) == candidate.argmax(axis=-1)).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """One output over all samples.

    Attributes:
        is_float: False for integers, bools and text, of which only equality is told.
        pooled: few values a sample, so cosine and SQNR are of all samples together.
        bad_values: NaN or infinite values in all, where the original has none.
        problem: the first reason why a sample could not be compared, with its row, or None.
        table: [rows, `COLUMNS`].
    """

    is_float: bool
    pooled: bool
    bad_values: int
    problem: str | None
    table: Floats

    def column(self, name: str) -> Floats:
        """One figure of every row."""
        column: Floats = self.table[:, COLUMNS.index(name)]
        return column

    def cosines(self) -> Floats:
        """Cosine of every row; 1 where both sides are all zero, 0 where one is."""
        return cosine(*(self.column(name) for name in COLUMNS[:3]))

    def decibels(self) -> Floats:
        """Signal to quantization noise ratio of every row, in dB."""
        return decibels(self.column("reference_sq"), self.column("error_sq"))

    def is_equal(self) -> bool:
        """True when every row equals the original within the rounding of float32."""
        if self.bad_values or self.problem:
            return False
        if not self.is_float:
            return bool((self.column("agreement") == 1.0).all())
        signal = self.column("reference_sq")
        # A row that is nearly zero is measured against the usual one.
        return bool(
            (self.column("error_sq") <= _EQUAL_ENERGY * np.maximum(signal, signal.mean())).all()
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document; NaN becomes null."""
        return {
            "is_float": self.is_float,
            "pooled": self.pooled,
            "bad_values": self.bad_values,
            "problem": self.problem,
            "table": table_to_json(self.table),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**data, "table": table_from_json(data["table"], len(COLUMNS))})


def cosine(dot: Floats, reference_sq: Floats, candidate_sq: Floats) -> Floats:
    """Cosine of vectors given by their products; 1 where both are zero, 0 where one is."""
    norms = np.sqrt(reference_sq) * np.sqrt(candidate_sq)
    safe = np.where(norms > 0, dot / np.where(norms > 0, norms, 1.0), 0.0)
    both_zero = (reference_sq == 0) & (candidate_sq == 0)
    result = np.where(both_zero, 1.0, np.clip(safe, -1.0, 1.0))
    return np.where(np.isnan(dot), np.nan, result)


def decibels(signal: Floats, noise: Floats) -> Floats:
    """10 log10(signal / noise), between -`SQNR_MOST` and `SQNR_MOST`."""
    tiny = np.finfo(np.float64).tiny
    ratio = np.log10(np.maximum(signal, tiny)) - np.log10(np.maximum(noise, tiny))
    result = np.where(noise == 0, SQNR_MOST, np.clip(10.0 * ratio, -SQNR_MOST, SQNR_MOST))
    return np.where(np.isnan(noise), np.nan, result)


def table_to_json(table: Floats) -> list[list[float | None]]:
    """Rows of numbers; what is not finite becomes null, which every JSON reader takes."""
    return [[float(x) if np.isfinite(x) else None for x in row] for row in table]


def table_from_json(rows: list[list[float | None]], width: int) -> Floats:
    """The inverse of `table_to_json`, with NaN for null."""
    cells = [[np.nan if x is None else x for x in row] for row in rows]
    return np.array(cells, dtype=np.float64).reshape(len(rows), width)
