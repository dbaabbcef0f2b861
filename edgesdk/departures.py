"""How outputs of one artifact depart on another processor from what this machine computes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgesdk.closeness import cosine
from edgesdk.evidence import Evidence

MUCH = 0.02
"""Of an output's range. Other kernels round a quantized value to its neighbour now and then, which is
seldom more; sums that saturate were seen to be 16 % off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """One output, over all rows that were compared.

    Attributes:
        output: its name.
        largest: the largest absolute difference over the range of the values here (over their largest
            magnitude where they are all equal); None where there are no numbers to compare.
        differing: share of the elements that are not equal, 0 to 1.
        cosine: of all rows as one vector; None where there are no numbers to compare.
        bad_values: elements that are NaN or infinite on one side only.
        problem: why the two cannot be compared, or None.
    """

    output: str
    largest: float | None = None
    differing: float = 0.0
    cosine: float | None = None
    bad_values: int = 0
    problem: str | None = None

    @property
    def is_much(self) -> bool:
        """Whether it is more than rounding."""
        found = self.largest is not None and self.largest > MUCH
        return found or self.bad_values > 0 or self.problem is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThereAndHere:
    """One artifact, run on a device with another processor and on this machine.

    Attributes:
        rows: evaluation rows that were compared.
        outputs: in the artifact's order; empty where nothing was compared.
        there, here: versions of the engine; empty where untold.
        evidence: what the outputs there are.
        note: why nothing was compared, or empty.
    """

    evidence: Evidence
    rows: int = 0
    outputs: tuple[Departure, ...] = ()
    there: str = ""
    here: str = ""
    note: str = ""

    @property
    def worst(self) -> Departure | None:
        """The output that departs most, if any departs by more than rounding."""
        found = [item for item in self.outputs if item.is_much]
        return max(
            found, key=lambda item: (item.problem is not None, item.largest or 0.0), default=None
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {**asdict(self), "evidence": self.evidence.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        outputs = tuple(Departure(**item) for item in data["outputs"])
        return cls(**{**data, "outputs": outputs, "evidence": Evidence(data["evidence"])})


class Departures:
    """Takes the outputs of one row at a time and keeps only figures of them."""

    def __init__(self) -> None:
        self._outputs: dict[str, _Output] = {}

    def add(self, here: Mapping[str, NDArray[Any]], there: Mapping[str, NDArray[Any]]) -> None:
        """Compare one row, outputs by name."""
        for name, array in here.items():
            self._outputs.setdefault(name, _Output()).add(array, there.get(name))

    @property
    def found(self) -> tuple[Departure, ...]:
        """What was found so far, in the order of the outputs."""
        return tuple(output.departure(name) for name, output in self._outputs.items())


class _Output:
    """Sums and extremes of one output."""

    def __init__(self) -> None:
        self._problem: str | None = None
        self._size = self._differing = self._bad = 0
        self._low, self._high, self._largest = np.inf, -np.inf, 0.0
        self._sums = np.zeros(3)

    def add(self, here: NDArray[Any], there: NDArray[Any] | None) -> None:
        problem = _against(here, there)
        if there is None or problem:
            self._problem = self._problem or problem
            return
        numeric = here.dtype.kind in "biuf"
        before, after = (
            (side.astype(np.float64).ravel() if numeric else side.ravel()) for side in (here, there)
        )
        same = before == after
        self._size += before.size
        if not numeric:
            self._differing += int((~same).sum())
            return
        same |= np.isnan(before) & np.isnan(after)
        self._differing += int((~same).sum())
        usable = np.isfinite(before) & np.isfinite(after)
        self._bad += int((~usable & (np.isfinite(before) | np.isfinite(after))).sum())
        before, after = before[usable], after[usable]
        self._sums += (before @ after, before @ before, after @ after)
        self._low = min(self._low, before.min(initial=np.inf))
        self._high = max(self._high, before.max(initial=-np.inf))
        self._largest = max(self._largest, float(np.abs(after - before).max(initial=0.0)))

    def departure(self, name: str) -> Departure:
        known = self._high >= self._low
        return Departure(
            output=name,
            largest=self._largest / self._scale() if known else None,
            differing=self._differing / self._size if self._size else 0.0,
            cosine=float(cosine(*self._sums)) if known else None,
            bad_values=self._bad,
            problem=self._problem,
        )

    def _scale(self) -> float:
        """The range of the values here; where they are all equal their magnitude, or 1."""
        spread = float(self._high - self._low)
        return spread or float(abs(self._high)) or 1.0


def _against(here: NDArray[Any], there: NDArray[Any] | None) -> str | None:
    """Why two arrays cannot be compared, or None."""
    if there is None:
        return "the output is missing there"
    if there.dtype != here.dtype:
        return f"dtype {there.dtype} there, {here.dtype} here"
    if there.shape != here.shape:
        return f"shape {list(there.shape)} there, {list(here.shape)} here"
    return None
