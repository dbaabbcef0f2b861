"""What a deploy found out, as one JSON-able value that every kind of report is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from edgesdk.backend import NodeTime
from edgesdk.departures import ThereAndHere
from edgesdk.device.base import Tells
from edgesdk.evidence import Evidence
from edgesdk.measure.result import Interval, Latency
from edgesdk.measure.sensing import Sensed
from edgesdk.placement import UnitShares
from edgesdk.plan.refined import Refined

FORMAT = 1
"""Raised when `report.json` changes so that an old reader would misread it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """A task metric of a candidate beside the float original's, on the same evaluation rows.

    Attributes:
        value, baseline: the metric of the candidate and of the original.
        change: value - baseline, with its paired 95 % interval.
    """

    name: str
    value: float
    baseline: float
    change: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a structural step took out of a form.

    Attributes:
        before: name of the same form without the step; of the original where that was not measured.
        parameters, macs: shares of what that holds and computes, 0 to 1 (below 0 where it grew); `macs`
            is None where lengths of axes are open.
        kept: the chosen form has the step.
    """

    before: str
    parameters: float
    macs: float | None
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate, or the float original.

    A figure is None where the candidate did not get that far.

    Attributes:
        name: as in the plan.
        status: value of `edgesdk.decide.Status`.
        reason: why it was chosen or lost, in a sentence.
        verdict: of the check: `pass`, `fail`, `undecided`, `unknown`; empty when not checked.
        rows: evaluation rows that the verdict and the figures of quality are of.
        speedup: baseline time / this time; of instructions where these were counted, of sizes where
            only these are known.
        latency: percentiles, and the run times for the distribution.
        load_ms, first_run_ms: from artifact to ready session, and the first run after it.
        peak_mib: peak resident memory of the whole process.
        run_mj, sensed: energy of a run, and what each sensor of the device told, where it has any.
        instructions: executed in a run, where these were counted instead of timing it.
        estimate_ms, cycles, working_bytes: of a run, as the compiler for the unit states them.
        predicted_ms, predicted_peak_mib: what the cost model expected of `p50_ms` and `peak_mib`,
            where the profile has speeds.
        size_bytes: all files of the artifact.
        cosine: the worst over outputs and samples, against the float original.
        loss: how much worse than the original, for plots: of the worst metric, else 1 - cosine.
        placement: number of executed nodes by unit or provider; empty when the engine cannot tell.
        node_times: of the chosen and of the baseline, where the engine gives them.
        shares: which unit does how much of a run, of the same; of more where that was a condition.
        evidence: how the times were obtained.
        warnings: what a reader should know about the figures.
        why: why it was worth trying, in a sentence.
        kept: names of nodes that the recipe spares.
        elsewhere: outputs on the device beside this machine's, where it has another processor.
        remarks: what the steps that made it had to say, training included.
        removed: what its last structural step took out, where it has any and was measured.
    """

    name: str
    status: str
    reason: str = ""
    verdict: str = ""
    rows: int | None = None
    speedup: Interval | None = None
    latency: Latency | None = None
    load_ms: float | None = None
    first_run_ms: float | None = None
    peak_mib: float | None = None
    run_mj: float | None = None
    sensed: tuple[Sensed, ...] = ()
    instructions: float | None = None
    estimate_ms: float | None = None
    cycles: int | None = None
    working_bytes: int | None = None
    predicted_ms: float | None = None
    predicted_peak_mib: float | None = None
    size_bytes: int | None = None
    cosine: float | None = None
    loss: float | None = None
    metrics: tuple[MetricChange, ...] = ()
    placement: Mapping[str, int] = field(default_factory=dict)
    node_times: tuple[NodeTime, ...] = ()
    shares: UnitShares | None = None
    evidence: Evidence = Evidence.UNKNOWN
    warnings: tuple[str, ...] = ()
    why: str = ""
    kept: tuple[str, ...] = ()
    elsewhere: ThereAndHere | None = None
    remarks: tuple[str, ...] = ()
    removed: Removed | None = None

    @property
    def has_figures(self) -> bool:
        """Whether it was measured in any way."""
        return self.size_bytes is not None

    @property
    def p50_ms(self) -> float | None:
        """Median time of a warm run."""
        return self.latency.p50_ms if self.latency else None

    @property
    def prediction_error(self) -> float | None:
        """By which fraction of the measured time the predicted one is off; above 0 is too slow."""
        if self.predicted_ms is None or not self.p50_ms:
            return None
        return self.predicted_ms / self.p50_ms - 1

    @property
    def p95_ms(self) -> float | None:
        """The time that 95 % of warm runs keep."""
        return self.latency.p95_ms if self.latency else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A candidate that the plan left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployReport:
    """The whole of it.

    Attributes:
        title: model and device: `MiniLM for x86`.
        headline: the decision in a sentence.
        created: UTC, `2026-11-21T22:00:00Z`.
        model: facts of the model, label and value.
        profile: name of the device profile, and what it calls itself.
        environment: facts about the machine and the run.
        budget: limits and floors as the user wrote them; `objective` orders those that meet them.
        baseline: name of the row that everything is compared with.
        chosen: name of the winning row, or None.
        rows: the baseline first, then every candidate that was tried.
        evaluation_rows: how many there are; a check that was certain earlier stopped before.
        rejected: candidates that were ruled out before trying.
        notes: what the user should know.
        bundle: path of the bundle, or None.
        refined: the forms that refining started from, where it ran.
    """

    title: str
    headline: str
    created: str
    edgesdk: str
    model: Mapping[str, str]
    profile: str
    profile_title: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    budget: tuple[str, ...] = ()
    floors: tuple[str, ...] = ()
    objective: str = ""
    baseline: str
    chosen: str | None
    rows: tuple[Row, ...]
    evaluation_rows: int | None = None
    rejected: tuple[RuledOut, ...] = ()
    notes: tuple[str, ...] = ()
    bundle: str | None = None
    refined: tuple[Refined, ...] = ()

    def row(self, name: str | None) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def baseline_row(self) -> Row | None:
        """The float original."""
        return self.row(self.baseline)

    @property
    def tells(self) -> Tells:
        """What candidates were compared by."""
        if any(row.instructions is not None for row in self.rows):
            return "instructions"
        measured = [row for row in self.rows if row.has_figures]
        return "sizes" if measured and not any(row.latency for row in measured) else "times"

    @property
    def chosen_row(self) -> Row | None:
        """The winner, or None when nothing met the budget."""
        return self.row(self.chosen)

    @property
    def scattered_row(self) -> Row | None:
        """The winner, or where there is none what runs the least elsewhere, if some of it does."""
        placed = [row for row in self.rows if row.shares and row.shares.elsewhere]
        if self.chosen is not None:
            return next((row for row in placed if row.name == self.chosen), None)
        return min(placed, key=lambda row: row.shares.fallback if row.shares else 1.0, default=None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes, and what was remarked about the figures of the two rows that matter."""
        found = list(self.notes)
        for row in (self.baseline_row, self.chosen_row):
            if row is not None:
                found += [f"{row.name}: {warning}" for warning in row.warnings]
        return tuple(dict.fromkeys(found))

    def to_json(self) -> dict[str, Any]:
        """Plain values; an unbounded side of an interval is null, since JSON has no infinity."""
        document: dict[str, Any] = _finite({"format": FORMAT, **asdict(self)})
        return document

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        plain = {key: value for key, value in data.items() if key != "format"}
        for key in ("budget", "floors", "notes"):
            plain[key] = tuple(plain[key])
        plain["rows"] = tuple(_row(row) for row in plain["rows"])
        plain["rejected"] = tuple(RuledOut(**item) for item in plain["rejected"])
        plain["refined"] = tuple(Refined.from_json(item) for item in plain.get("refined", ()))
        return cls(**plain)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Evidence) else value


def _row(data: Mapping[str, Any]) -> Row:
    latency, speedup = data["latency"], data["speedup"]
    elsewhere, shares = data.get("elsewhere"), data.get("shares")
    removed = data.get("removed")
    return Row(
        **{
            **data,
            "speedup": _interval(speedup) if speedup else None,
            "latency": Latency(**{**latency, "runs_ms": tuple(latency["runs_ms"])})
            if latency
            else None,
            "metrics": tuple(
                MetricChange(**{**item, "change": _interval(item["change"])})
                for item in data["metrics"]
            ),
            "node_times": tuple(NodeTime(**item) for item in data["node_times"]),
            "shares": UnitShares.from_json(shares) if shares else None,
            "evidence": Evidence(data["evidence"]),
            "warnings": tuple(data["warnings"]),
            "remarks": tuple(data.get("remarks", ())),
            "removed": Removed(**removed) if removed else None,
            "kept": tuple(data["kept"]),
            "sensed": tuple(Sensed(**item) for item in data.get("sensed", ())),
            "elsewhere": ThereAndHere.from_json(elsewhere) if elsewhere else None,
        }
    )


def _interval(data: Mapping[str, Any]) -> Interval:
    low, high = data["low"], data["high"]
    return Interval(
        value=data["value"],
        low=-math.inf if low is None else low,
        high=math.inf if high is None else high,
    )
