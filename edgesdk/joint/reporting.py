"""The report document of a pipeline, from what its deploy found out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from edgesdk import __version__
from edgesdk.comparison import Record
from edgesdk.coverage import InputCoverage
from edgesdk.decide import Decision, Judged, Outcome
from edgesdk.floors import FloorResult, Verdict
from edgesdk.joint.allocate import Option
from edgesdk.joint.combine import Combination
from edgesdk.joint.document import (
    ComponentRow,
    FormRow,
    PipelineReport,
    StageRow,
    VerdictRow,
    WholeRow,
)
from edgesdk.joint.explore import Explored
from edgesdk.joint.floors import output_modalities
from edgesdk.joint.whole import Judge, Whole
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.profile_values import Profile
from edgesdk.quality import judge

_WORST_FIRST = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)


def pipeline_report(
    *,
    whole: Whole,
    profile: Profile,
    explored: Sequence[Explored],
    options: Mapping[str, Sequence[Option]],
    decision: Decision,
    baseline: Outcome,
    combinations: Sequence[Combination],
    stages: Mapping[str, Record],
    coverage: Sequence[InputCoverage],
    notes: Sequence[str],
    bundle: str | None,
) -> PipelineReport:
    """One document of everything that was tried.

    Args:
        stages: by stage, its outputs beside the float pipeline's; of the combination that is told of.
        combinations: in the order in which they were tried; equal ones once.
    """
    judged = {item.name: item for item in decision.judged}
    told = told_of(decision, combinations)
    measured = [item.outcome.measurement for item in combinations if item.outcome.measurement]
    budget = whole.judges[0].bench.budget
    pipeline = whole.pipeline
    return PipelineReport(
        title=f"{pipeline.name} for {profile.name}",
        headline=decision.headline,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        edgesdk=__version__,
        pipeline=pipeline.name,
        sha256=pipeline.sha256,
        profile=profile.name,
        environment=measured[0].environment if measured else {},
        budget=budget.asked,
        floors=tuple(floor.text for floor in budget.floors),
        objective=budget.objective,
        chosen=decision.chosen,
        wholes=(
            _whole_row(baseline, judged[ORIGINAL], dict.fromkeys(options, ORIGINAL)),
            *(_combination_row(item, judged[item.name]) for item in combinations),
        ),
        components=tuple(
            _component_row(item, options[item.name], told, decision) for item in explored
        ),
        variants=tuple(_variants(whole, told)),
        modalities=tuple(_modalities(whole, told)),
        stages=tuple(_stages(stages)),
        coverage=tuple(coverage),
        notes=tuple(dict.fromkeys((*notes, *whole.notes))),
        bundle=bundle,
    )


def told_of(decision: Decision, combinations: Sequence[Combination]) -> Combination | None:
    """The combination that details are of: the chosen one, else the first that was checked."""
    ran = [item for item in combinations if item.judged is not None]
    return next((item for item in ran if item.name == decision.chosen), ran[0] if ran else None)


def _whole_row(outcome: Outcome, judged: Judged, forms: Mapping[str, str]) -> WholeRow:
    measured, quality = outcome.measurement, outcome.quality
    latency = measured.latency if measured else None
    return WholeRow(
        name=outcome.name,
        status=judged.status.value,
        reason=judged.reason,
        verdict=quality.verdict.value if quality else "",
        forms=dict(forms),
        speedup=measured.speedup if measured else None,
        p50_ms=latency.p50_ms if latency else None,
        p95_ms=latency.p95_ms if latency else None,
        load_ms=measured.load_ms if measured else None,
        peak_mib=measured.peak_mib if measured else None,
        size_bytes=measured.artifact_bytes if measured else None,
    )


def _combination_row(item: Combination, judged: Judged) -> WholeRow:
    forms = {name: form.name for name, form in item.forms.items()}
    row = _whole_row(item.outcome, judged, forms)
    return replace(row, expected=item.expected, notes=item.notes)


def _component_row(
    item: Explored, options: Sequence[Option], told: Combination | None, decision: Decision
) -> ComponentRow:
    by_name = {option.name: option for option in options}
    rows = [_form_row(item, name, by_name.get(name)) for name in item.forms]
    for trial in item.trials:
        if trial.outcome.name not in item.forms:
            quality = trial.outcome.quality
            why = trial.outcome.error or (quality.reason if quality else "not measured")
            rows.append(FormRow(name=trial.outcome.name, remark=why))
    chosen = ""
    if decision.chosen == ORIGINAL:
        chosen = ORIGINAL
    elif decision.chosen is not None and told is not None:
        chosen = told.forms[item.name].name
    choice = item.forms[chosen].candidate.single if chosen else None
    return ComponentRow(
        name=item.name,
        backend=choice.backend if choice else "",
        recipe=choice.form if choice else "",
        chosen=chosen,
        forms=tuple(rows),
        notes=item.plan.notes,
    )


def _form_row(item: Explored, name: str, option: Option | None) -> FormRow:
    form = item.forms[name]
    row = FormRow(name=name, ms=form.ms, bytes=form.bytes, loss=form.loss)
    if option is None:
        return replace(row, remark="another form is as small, as fast and as close")
    worst = max(option.damages, key=lambda key: option.damages[key], default="")
    broken = math.isinf(option.worst)
    return replace(row, damage=None if broken else option.worst, broken=broken, floor=worst)


def _variants(whole: Whole, told: Combination | None) -> Iterator[VerdictRow]:
    if told is None or told.judged is None:
        return
    for item in whole.judges:
        quality = told.judged.qualities[item.variant.name]
        yield VerdictRow(
            name=item.variant.name,
            verdict=quality.verdict.value,
            reason=quality.reason,
            rows=quality.rows,
            outputs=tuple(close.output for close in quality.closeness),
        )


def _modalities(whole: Whole, told: Combination | None) -> Iterator[VerdictRow]:
    """The worst floor of every output that follows from a modality, wherever the modality is there."""
    if told is None or told.judged is None:
        return
    of = output_modalities(whole.pipeline.wiring)
    ports = whole.pipeline.wiring.inputs
    for modality in dict.fromkeys(port.modality for port in ports if port.modality):
        outputs = tuple(name for name, words in of.items() if modality in words)
        found: list[tuple[FloorResult, str, int]] = []
        for item in whole.judges:
            left = {p.modality for p in ports if p.info.name != item.variant.missing}
            quality = told.judged.qualities[item.variant.name]
            if modality in left:
                found += [
                    (result, item.variant.name, quality.rows)
                    for result in quality.floors
                    if output_of(result, item) in (None, *outputs)
                ]
        if found:
            result, name, rows = min(found, key=lambda item: _WORST_FIRST.index(item[0].verdict))
            yield VerdictRow(
                name=modality,
                verdict=result.verdict.value,
                reason=f"{name}: {result.reason}",
                rows=rows,
                outputs=outputs,
            )


def output_of(result: FloorResult, item: Judge) -> str | None:
    """The output that a floor's result is about; None for a metric of all."""
    floors = {floor.text: floor for floor in item.bench.budget.floors}
    floor = floors.get(result.floor)
    if floor is None:  # broken: its subject is the output
        return result.subject
    return floor.output or None


def _stages(stages: Mapping[str, Record]) -> Iterator[StageRow]:
    for stage, record in stages.items():
        for close in judge(record, (), ()).closeness:
            yield StageRow(
                stage=stage,
                output=close.output,
                cosine=close.cosine,
                sqnr_db=close.sqnr_db,
                agreement=close.agreement,
            )
