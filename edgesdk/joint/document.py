"""What the deploy of a pipeline found out, as one JSON-able value that every kind of report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgesdk.coverage import InputCoverage
from edgesdk.measure.result import Interval

FORMAT = 1
"""Raised when `report.json` of pipelines changes so that an old reader would misread it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormRow:
    """One form of a component, by itself.

    Attributes:
        name: `original` or `backend/recipe`.
        ms: of its own runs on what the pipeline gives it; None where it was not measured.
        loss: 1 - cosine of its own worst output, beside the component's float original.
        damage: with only this component replaced, the share of a floor of the pipeline that is used up:
            of the worst floor; 1 just keeps it. None where it was not run in the pipeline, or where:
        broken: a floor of the pipeline breaks.
        floor: that floor, and in which variant of the inputs.
        remark: why it was not taken any further.
    """

    name: str
    ms: float | None = None
    bytes: int | None = None
    loss: float | None = None
    damage: float | None = None
    broken: bool = False
    floor: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentRow:
    """A component, and what became of it.

    Attributes:
        chosen: the form in the bundle; empty where there is no bundle.
    """

    name: str
    backend: str
    recipe: str
    chosen: str
    forms: tuple[FormRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def form(self) -> FormRow | None:
        """The chosen form."""
        return next((form for form in self.forms if form.name == self.chosen), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRow:
    """One combination of forms, run end to end; the float pipeline is the first.

    Attributes:
        forms: of each component.
        speedup: float time / this time, end to end, from alternated windows.
        peak_mib: of the process that holds all components.
        expected: share of the floor that is used up most, as damages of single forms add up; None
            where nobody expected anything.
    """

    name: str
    status: str
    reason: str
    verdict: str
    forms: Mapping[str, str]
    speedup: Interval | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    load_ms: float | None = None
    peak_mib: float | None = None
    size_bytes: int | None = None
    expected: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """The verdict of the worst floor on some inputs, or on what follows from a modality."""

    name: str
    verdict: str
    reason: str
    rows: int = 0
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """How close one output of a stage is to the float pipeline's, in the whole compressed pipeline."""

    stage: str
    output: str
    cosine: float | None
    sqnr_db: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineReport:
    """The whole document.

    Attributes:
        variants: the chosen combination's (else the first one's) verdict in each variant of the inputs.
        modalities: its verdict for each modality, over all variants that hold it.
        stages: its closeness stage by stage.
    """

    title: str
    headline: str
    created: str
    edgesdk: str
    pipeline: str
    sha256: str
    profile: str
    environment: Mapping[str, str]
    budget: tuple[str, ...]
    floors: tuple[str, ...]
    objective: str
    chosen: str | None
    wholes: tuple[WholeRow, ...]
    components: tuple[ComponentRow, ...]
    variants: tuple[VerdictRow, ...]
    modalities: tuple[VerdictRow, ...]
    stages: tuple[StageRow, ...]
    coverage: tuple[InputCoverage, ...]
    notes: tuple[str, ...]
    bundle: str | None

    @property
    def chosen_row(self) -> WholeRow | None:
        """The combination in the bundle."""
        return next((row for row in self.wholes if row.name == self.chosen), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORMAT, **asdict(self)}
