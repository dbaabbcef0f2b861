"""The report document, from what a deploy found out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from edgesdk import __version__
from edgesdk.backend import NodeTime
from edgesdk.budget import Budget
from edgesdk.decide import Decision, Judged, Outcome, quality_loss
from edgesdk.evidence import Evidence
from edgesdk.measure.result import Interval
from edgesdk.model import Model
from edgesdk.placement import with_place
from edgesdk.plan.candidate import ORIGINAL, Plan
from edgesdk.plan.refined import Refined
from edgesdk.profile_values import Profile
from edgesdk.quality import Quality
from edgesdk.report.document import DeployReport, MetricChange, Removed, Row, RuledOut
from edgesdk.samples import Samples

Inside = Mapping[str, Any]
"""The response of the step `look_inside`."""


def build_report(
    *,
    model: Model,
    profile: Profile,
    samples: Samples,
    budget: Budget,
    plan: Plan,
    decision: Decision,
    outcomes: Sequence[Outcome],
    inside: Mapping[str, Inside],
    notes: Sequence[str],
    bundle: str | None,
    refined: Sequence[Refined] = (),
    remarks: Mapping[str, Sequence[str]] = MappingProxyType({}),
    removed: Mapping[str, Removed] = MappingProxyType({}),
) -> DeployReport:
    """One document of everything that was tried, for every kind of report.

    Args:
        outcomes: the original first.
        inside: per-operation views by outcome name, where they were taken.
        bundle: where the bundle is, or None.
        refined: the forms that refining started from, where it ran.
        remarks: by outcome name, what the steps that made it had to say.
        removed: by outcome name, what structural steps took out.
    """
    judged = {item.name: item for item in decision.judged}
    measured = [item.measurement for item in outcomes if item.measurement]
    return DeployReport(
        title=f"{model.path.stem} for {profile.name}",
        headline=_headline(decision, outcomes, profile),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        edgesdk=__version__,
        model=_model_facts(model, samples),
        profile=profile.name,
        profile_title=profile.title,
        environment=measured[0].environment if measured else {},
        budget=budget.asked,
        floors=tuple(floor.text for floor in budget.floors),
        objective=budget.objective,
        baseline=ORIGINAL,
        chosen=decision.chosen,
        rows=tuple(
            replace(
                _row(item, judged[item.name], inside.get(item.name), samples, plan),
                remarks=tuple(remarks.get(item.name, ())),
                removed=removed.get(item.name),
            )
            for item in outcomes
        ),
        evaluation_rows=len(samples.evaluation),
        rejected=tuple(RuledOut(name=item.name, reason=item.reason) for item in plan.rejected),
        notes=tuple(dict.fromkeys(notes)),
        bundle=bundle,
        refined=tuple(refined),
    )


def _headline(decision: Decision, outcomes: Sequence[Outcome], profile: Profile) -> str:
    """The decision in a sentence, with where the winner runs."""
    winner = next((item for item in outcomes if item.name == decision.chosen), None)
    if winner is None:
        return decision.headline
    wanted = profile.runtime(winner.candidate.single.backend).units[0]
    return with_place(decision.headline, winner.shares, wanted)


def _model_facts(model: Model, samples: Samples) -> dict[str, str]:
    facts = {
        "file": model.path.name,
        "inputs": "; ".join(map(str, model.inputs)),
        "outputs": "; ".join(map(str, model.outputs)),
        "parameters": f"{model.parameters:,}",
        "size": f"{model.file_bytes / 1e6:.2f} MB",
        "opset": f"{model.opset} (IR {model.ir_version})",
        "operators": ", ".join(f"{op} {n}" for op, n in list(model.op_histogram.items())[:8]),
        "sha256": model.sha256,
    }
    if samples.synthetic:
        facts["samples"] = "none given: synthetic inputs, quality on real data unknown"
    else:
        facts["samples"] = (
            f"{len(samples.evaluation)} rows judge, {len(samples.calibration)} others calibrate "
            f"({samples.fingerprint[:12]})"
        )
    return facts


def _row(
    outcome: Outcome, judged: Judged, inside: Inside | None, samples: Samples, plan: Plan
) -> Row:
    measurement, quality = outcome.measurement, outcome.quality
    foreseen = plan.prediction(outcome.name)
    seen = inside or {"placement": [], "node_times": []}
    return Row(
        name=outcome.name,
        status=judged.status.value,
        reason=judged.reason,
        verdict=_verdict(outcome, samples),
        rows=quality.rows if quality else None,
        speedup=measurement.speedup if measurement else None,
        latency=measurement.latency if measurement else None,
        load_ms=measurement.load_ms if measurement else None,
        first_run_ms=measurement.first_run_ms if measurement else None,
        peak_mib=measurement.peak_mib if measurement else None,
        run_mj=measurement.run_mj if measurement else None,
        sensed=measurement.sensed if measurement else (),
        instructions=measurement.instructions if measurement else None,
        estimate_ms=measurement.estimate_ms if measurement else None,
        cycles=measurement.cycles if measurement else None,
        working_bytes=measurement.working_bytes if measurement else None,
        predicted_ms=foreseen.latency_ms if foreseen else None,
        predicted_peak_mib=foreseen.peak_mib if foreseen else None,
        size_bytes=measurement.artifact_bytes if measurement else None,
        cosine=_worst_cosine(outcome),
        loss=quality_loss(outcome) if quality or outcome.name == ORIGINAL else None,
        metrics=_metrics(quality),
        placement=dict(Counter(item["provider"] or item["unit"] for item in seen["placement"])),
        node_times=tuple(NodeTime(**item) for item in seen["node_times"]),
        shares=outcome.shares,
        evidence=measurement.evidence if measurement else Evidence.UNKNOWN,
        warnings=measurement.warnings if measurement else (),
        why=outcome.candidate.why,
        kept=tuple(node for _, choice in outcome.candidate.choices for node in choice.kept),
        elsewhere=outcome.elsewhere,
    )


def _verdict(outcome: Outcome, samples: Samples) -> str:
    if samples.synthetic and (outcome.quality or outcome.name == ORIGINAL):
        return "unknown"
    if outcome.quality is None:
        return ""
    return outcome.quality.verdict.value


def _worst_cosine(outcome: Outcome) -> float | None:
    if outcome.name == ORIGINAL:
        return 1.0
    if outcome.quality is None:
        return None
    cosines = [item.cosine for item in outcome.quality.closeness if item.cosine is not None]
    return min(cosines, default=None)


def _metrics(quality: Quality | None) -> tuple[MetricChange, ...]:
    if quality is None:
        return ()
    return tuple(
        MetricChange(
            name=score.metric,
            value=score.candidate,
            baseline=score.reference,
            change=Interval(
                value=score.change,
                low=-math.inf if score.low is None else score.low,
                high=math.inf if score.high is None else score.high,
            ),
        )
        for score in quality.scores
        if score.candidate is not None and score.reference is not None and score.change is not None
    )
