"""Do calibration rows show each component input what it will see: is a modality absent, padded, constant?

Ranges chosen on rows that show nothing are wrong, and nothing later would say why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgesdk.backend import Array
from edgesdk.errors import SamplesError
from edgesdk.samples import SampleSet
from edgesdk.signature import TensorInfo
from edgesdk.wiring import Carried, Fill, Presence, Wiring, reads

DOMINATED = 0.9
"""Share of one value above which it dominates an input."""
PADDED = 0.5
"""Share of an axis that is a tail of one value, above which rows are mostly padding."""
SELDOM = 0.1
"""Share of rows with an optional input below which it is hardly shown."""
_LOOKED_AT = 1 << 16
"""Elements of one array, evenly spread, among which the commonest value is looked for."""
_MASKS = ("mask", "type", "segment", "present", "has_", "flag", "valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCoverage:
    """What the calibration rows show to one input.

    Attributes:
        component: whose input it is; empty for an input of the pipeline.
        input: its name.
        modalities: of the pipeline's inputs that it follows from.
        rows: how many rows hold it.
        distinct: how many of these differ.
        low, high: smallest and largest element; None where there is none, or it is no number.
        common: share of the commonest value in its elements.
        padded: share of its longest tail of one value along an axis after the first, in the middle row.
        refused: why nothing can be calibrated on these rows; empty if it can.
        warning: what looks wrong; empty if nothing does.
    """

    component: str
    input: str
    modalities: tuple[str, ...]
    rows: int
    distinct: int
    low: float | None
    high: float | None
    common: float
    padded: float
    refused: str = ""
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def pipeline_coverage(wiring: Wiring, rows: SampleSet) -> tuple[InputCoverage, ...]:
    """What the rows show to each input of the pipeline."""
    seen = _look(rows, [port.info for port in wiring.inputs])
    found = []
    for port in wiring.inputs:
        name = port.info.name
        look = seen[name]
        refused = warning = ""
        if port.optional and not look.rows and len(rows):
            refused = (
                f"input {name!r} ({port.modality}) is in none of the {len(rows)} calibration rows, so what "
                "depends on it would be calibrated without it; give rows that hold it"
            )
        elif port.optional and look.rows < SELDOM * len(rows):
            warning = (
                f"only {look.rows} of {len(rows)} calibration rows hold {name!r}; give more that do"
            )
        found.append(
            _covered(look, "", port.info, (port.modality,), refused=refused, warning=warning)
        )
    return tuple(found)


def component_coverage(
    wiring: Wiring, component: str, rows: SampleSet
) -> tuple[InputCoverage, ...]:
    """What the rows show to each input of a component, as `Observed.component` gives them.

    Constants, and inputs that say whether something is there, are not judged.
    """
    stage = wiring.stage(component)
    seen = _look(rows, [info for info, _ in stage.inputs])
    follows = modalities_of(wiring)
    found = []
    for info, origin in stage.inputs:
        modalities = tuple(sorted({m for s in reads(origin) for m in follows.get(s.key, ())}))
        look = seen[info.name]
        if isinstance(origin, Fill | Presence) or _is_counted(origin):
            found.append(_plain(look, component, info, modalities))
            continue
        refused = ""
        if not look.rows:
            refused = (
                f"no calibration row reaches input {info.name!r} of component {component!r}; give rows "
                f"that hold {' and '.join(modalities) or 'all inputs'}"
            )
        found.append(_covered(look, component, info, modalities, refused=refused))
    return tuple(found)


def require_coverage(found: tuple[InputCoverage, ...]) -> tuple[str, ...]:
    """The warnings.

    Raises:
        SamplesError: nothing can be calibrated on such rows; names component, tensor and remedy.
    """
    for item in found:
        if item.refused:
            raise SamplesError(item.refused)
    return tuple(item.warning for item in found if item.warning)


def _is_counted(origin: object) -> bool:
    """A mask or position that only counts the steps."""
    return (
        isinstance(origin, Carried) and origin.next is None and not hasattr(origin.append, "tensor")
    )


class _Look:
    """What was seen of one input, row by row."""

    def __init__(self) -> None:
        self.rows = 0
        self.digests: set[int] = set()
        self.low: float | None = None
        self.high: float | None = None
        self.values: Counter[float] = Counter()
        self.elements = 0
        self.tails: list[float] = []

    def add(self, array: Array) -> None:
        self.rows += 1
        self.digests.add(hash((array.shape, array.tobytes())))
        if not array.size or array.dtype.kind not in "fiub":
            return
        numbers = array.astype(np.float64)
        low, high = float(numbers.min()), float(numbers.max())
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        flat = numbers.reshape(-1)[:: max(1, numbers.size // _LOOKED_AT)]
        values, counts = np.unique(flat, return_counts=True)
        best = np.argsort(counts)[-4:]
        self.values.update({float(values[i]): int(counts[i]) for i in best})
        self.elements += flat.size
        self.tails.append(_tail(numbers))

    @property
    def common(self) -> float:
        if not self.elements:
            return 0.0
        return self.values.most_common(1)[0][1] / self.elements

    @property
    def padded(self) -> float:
        return sorted(self.tails)[len(self.tails) // 2] if self.tails else 0.0


def _tail(array: Array) -> float:
    """Share of the longest axis after the first whose last elements are all one value; 0 for one axis."""
    if array.ndim < 2 or max(array.shape[1:]) < 2:
        return 0.0
    axis = 1 + int(np.argmax(array.shape[1:]))
    lines = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    same = (lines == lines[-1, 0]).all(axis=1)[::-1]
    run = 0 if same.all() else int(np.argmin(same))  # one value throughout is no padding
    return run / len(same) if run > 1 else 0.0


def _look(rows: SampleSet, infos: list[TensorInfo]) -> dict[str, _Look]:
    seen = {info.name: _Look() for info in infos}
    for sample in rows:
        for name, array in sample.inputs.items():
            if name in seen:
                seen[name].add(array)
    return seen


def _plain(
    look: _Look, component: str, info: TensorInfo, modalities: tuple[str, ...]
) -> InputCoverage:
    return InputCoverage(
        component=component,
        input=info.name,
        modalities=modalities,
        rows=look.rows,
        distinct=len(look.digests),
        low=look.low,
        high=look.high,
        common=look.common,
        padded=look.padded,
    )


def _covered(
    look: _Look,
    component: str,
    info: TensorInfo,
    modalities: tuple[str, ...],
    *,
    refused: str = "",
    warning: str = "",
) -> InputCoverage:
    plain = _plain(look, component, info, modalities)
    doubts = [warning] if warning else list(_doubts(look, plain, info))
    return InputCoverage(
        **{
            **asdict(plain),
            "modalities": modalities,
            "refused": refused,
            "warning": "" if refused or not doubts else doubts[0],
        }
    )


def _doubts(look: _Look, plain: InputCoverage, info: TensorInfo) -> Iterator[str]:
    of = f"input {info.name!r}" + (f" of component {plain.component!r}" if plain.component else "")
    is_mask = any(word in info.name.lower() for word in _MASKS)
    if look.low is None or is_mask or info.dtype == "bool":
        return
    if look.low == look.high and look.elements > 1:
        yield f"{of} is {look.low:g} in every element of every calibration row; is its modality missing?"
    elif look.rows > 1 and len(look.digests) == 1:
        yield f"{of} is the same in all {look.rows} calibration rows; give rows that differ"
    whole = info.dtype.startswith(("int", "uint"))
    if whole and (look.low, look.high) == (0.0, 1.0) and look.elements > 2:
        yield (
            f"{of} holds only 0 and 1, as a mask does; is it wired to the right tensor? "
            "Rename it to end in 'mask' if it is one"
        )
    if plain.padded > PADDED:
        yield f"{of} is padding for {plain.padded:.0%} of its length in the middle row; give longer rows"
    if plain.common > DOMINATED:
        value = look.values.most_common(1)[0][0]
        yield f"{of} is {value:g} in {plain.common:.0%} of its elements; give rows with more in them"


def modalities_of(wiring: Wiring) -> Mapping[tuple[str | None, str], tuple[str, ...]]:
    """For every tensor, the modalities of the inputs that it follows from; loops until nothing changes."""
    found: dict[tuple[str | None, str], set[str]] = {
        (None, port.info.name): {port.modality} for port in wiring.inputs
    }
    while True:
        before = sum(map(len, found.values()))
        for stage in wiring.stages:
            of: set[str] = set()
            for _, origin in stage.inputs:
                for source in reads(origin):
                    of |= found.get(source.key, set())
            for info in stage.outputs:
                found.setdefault((stage.name, info.name), set()).update(of)
        for loop in wiring.loops:
            named = [(give.name, give.source) for give in loop.gives]
            named += [("token", loop.token)] if loop.token else []
            for name, source in named:
                found.setdefault((loop.name, name), set()).update(found.get(source.key, set()))
        if sum(map(len, found.values())) == before:
            return {key: tuple(sorted(words)) for key, words in found.items()}
