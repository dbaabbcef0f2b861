"""Deploy with refining against NNCF's `quantize_with_accuracy_control`: same model, data and floor.

    python -m benchmarks.accuracy_control --ref build/ref --out benchmarks/results [CASE…]

Both sides start from the same ONNX file and kind of placement, calibrate on the same rows and judge by
the same figure on the same others: the task's metric, or the cosine to the float original's outputs
for a floor such as `cosine=0.99`. NNCF's floor is about the figure itself; deploy's asks for 95 %
confidence in it, so it is held to more (`--accept-undecided` takes what the rows cannot tell). The
marks: at most 1/5 of NNCF's wall time, at most 1/10 of its full validations, latency no worse, and the floor
kept.

A full validation is a pass of all evaluation rows through a model, whatever it is for; that of the
float model counts on both sides, and a pass over some of the rows by its share: checks of ours that
stopped early, and those by which NNCF ranks quantizers where there are more rows than its default of
300 for them. What is left of the mark when none of NNCF's ranking counts is written beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CAREFUL, Judge, Subject, beside, bundled, opened, run
from benchmarks.nncf_control import PROGRESS
from edgesdk.cache import Cache
from edgesdk.deployment import Deployment, deploy
from edgesdk.errors import StepFailed
from edgesdk.isolate import run_isolated
from edgesdk.measure.result import Interval
from edgesdk.measure.settings import Target
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.quality import Quality
from edgesdk.recipe import Recipe

TIME_SHARE, VALIDATION_SHARE = 1 / 5, 1 / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model, what is done to it, and a floor that the whole-model form does not keep."""

    model: str
    recipe: str
    floor: str


_PLAIN = "w8a8-static-nncf-bf16"
CASES = {
    "minilm": Case(model="minilm", recipe=_PLAIN, floor="-2%"),
    "minilm-transformer": Case(
        model="minilm", recipe="w8a8-static-nncf-mixed-transformer-bf16", floor="cosine=0.997"
    ),
    "ocr_rec": Case(model="ocr_rec", recipe=_PLAIN, floor="cosine=0.99"),
    "ocr_det": Case(model="ocr_det", recipe=_PLAIN, floor="cosine=0.99"),
    "efflite0": Case(model="efflite0", recipe=_PLAIN, floor="cosine=0.99"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the comparison.

    Attributes:
        name: of the form that came out; empty where none did.
        seconds: from the ONNX file to the artifact; with deploy, to the bundle, all measuring included.
        full_validations: see the top of this module.
        validated_rows: rows run in these.
        metric: of the artifact on all evaluation rows, in the execution type it is used in.
        value: what the floor is about, in its own terms; likewise.
        keeps_floor: whether that value keeps the floor, without any interval.
        verdict: whether it does with confidence.
        details: what else was counted.
    """

    name: str
    seconds: float
    full_validations: float
    validated_rows: int
    metric: float | None
    value: float | None
    keeps_floor: bool
    verdict: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result for one case.

    Attributes:
        cut_at_s: NNCF was stopped after so many seconds, so its figures are lower bounds and the shares
            upper ones; None where it came to its end.
        time_share, validation_share: ours / NNCF's.
        share_without_ranking: the second, without the passes by which NNCF ranks.
        direct: NNCF's time of a run / ours, measured beside each other; above 1, deploy wins. None
            where NNCF made nothing.
        missed: marks that were missed.
    """

    model: str
    recipe: str
    floor: str
    metric: str
    calibration_rows: int
    evaluation_rows: int
    float_metric: float | None
    accept_undecided: bool
    nncf: Side
    ours: Side
    cut_at_s: float | None
    time_share: float
    validation_share: float
    share_without_ranking: float
    direct: Interval | None
    direct_stable: bool
    missed: tuple[str, ...]


def main() -> int:
    """Run the cases; exits 1 when a mark is missed in any."""
    return run(
        "accuracy_control",
        __doc__,
        _compare,
        _verdict,
        names=tuple(CASES),
        add_options=_add_options,
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--floor", help="instead of the case's own, such as -0.5%% or cosine=0.99")
    parser.add_argument("--recipe", help="instead of the case's own; static, by NNCF")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that NNCF may take")
    parser.add_argument("--accept-undecided", action="store_true", help="as in deploy")


def _compare(name: str, options: argparse.Namespace) -> Comparison:
    case = CASES.get(name) or Case(model=name, recipe=_PLAIN, floor="cosine=0.99")
    case = Case(
        model=case.model,
        recipe=options.recipe or case.recipe,
        floor=options.floor or case.floor,
    )
    with opened(options.ref / case.model, options.rows, case.floor) as subject:
        return compare(subject, case, options.limit, accept_undecided=options.accept_undecided)


def _verdict(found: Comparison) -> tuple[str, bool]:
    said = (
        f"{found.ours.name}: {found.ours.seconds:.0f} s against {found.nncf.seconds:.0f} s "
        f"({found.time_share:.2f}), {found.ours.full_validations:.1f} full validations against "
        f"{found.nncf.full_validations:.1f} ({found.validation_share:.2f}; without ranking "
        f"{found.share_without_ranking:.2f}), NNCF's latency / ours {found.direct}, "
        f"{found.floor}: {found.ours.value} against {found.nncf.value}"
    )
    return said + (f"; MISSED: {'; '.join(found.missed)}" if found.missed else ""), not found.missed


def compare(subject: Subject, case: Case, limit_s: float, *, accept_undecided: bool) -> Comparison:
    """Run both sides on one model and measure what they made beside each other."""
    judge = Judge(subject)
    theirs, made, cut = _nncf(subject, case, limit_s, judge)
    print(f"{subject.name}: NNCF {theirs}", flush=True)
    ours, chosen, original = _ours(subject, case, judge, accept_undecided=accept_undecided)
    print(f"{subject.name}: deploy {ours}", flush=True)
    direct = beside(subject, made, chosen, "direct", CAREFUL)[1] if made else None
    shares = (
        ours.seconds / theirs.seconds,
        ours.full_validations / max(theirs.full_validations, 1),
    )
    return Comparison(
        model=case.model,
        recipe=case.recipe,
        floor=case.floor,
        metric=subject.metric_name,
        calibration_rows=len(subject.samples.calibration),
        evaluation_rows=len(subject.samples.evaluation),
        float_metric=original,
        accept_undecided=accept_undecided,
        nncf=theirs,
        ours=ours,
        cut_at_s=limit_s if cut else None,
        time_share=shares[0],
        validation_share=shares[1],
        share_without_ranking=ours.full_validations / max(theirs.details["full"], 1),
        direct=direct.speedup if direct else None,
        direct_stable=direct.stable if direct else True,
        missed=_missed(ours, *shares, direct.speedup if direct else None),
    )


def _missed(
    ours: Side, time_share: float, validation_share: float, direct: Interval | None
) -> tuple[str, ...]:
    checks = {
        f"{time_share:.2f} of its time, at most {TIME_SHARE:.2f}": time_share <= TIME_SHARE,
        f"{validation_share:.2f} of its full validations, at most {VALIDATION_SHARE:.2f}": (
            validation_share <= VALIDATION_SHARE
        ),
        f"slower: {direct}": direct is None or direct.high >= 1.0,
        f"the {ORIGINAL} was kept": ours.name != ORIGINAL,
        f"the floor: {ours.value}": ours.keeps_floor,
    }
    return tuple(mark for mark, kept in checks.items() if not kept)


def _nncf(
    subject: Subject, case: Case, limit_s: float, judge: Judge
) -> tuple[Side, Target | None, bool]:
    """NNCF's side, its artifact, and whether it was cut short."""
    samples, folder = subject.samples, subject.scratch / "nncf"
    floor = subject.only_floor
    shapes = samples.uniform_shapes
    request = {
        "model": str(subject.model.path),
        # As deploy does: OpenVINO plans fixed shapes better.
        "shapes": {name: list(shape) for name, shape in shapes.items() if shape}
        if all(shapes.values())
        else None,
        "calibration": samples.calibration.to_json(),
        "evaluation": samples.evaluation.to_json(),
        "expected": str(subject.scratch / "reference" / "outputs"),
        "metric": "cosine" if floor.quantity == "cosine" else subject.metric,
        "recipe": case.recipe,
        "max_drop": 1.0 - floor.bound if floor.quantity == "cosine" else abs(floor.bound),
        "relative": floor.kind == "relative",
    }
    begun = time.monotonic()
    target = None
    try:
        step = "benchmarks.nncf_control:control"
        done = run_isolated(step, request, folder=folder, timeout_s=limit_s).response
        target = Target(
            backend="openvino",
            artifact=folder / done["path"],
            execution=Recipe.parse(case.recipe).execution,
            threads=judge.threads,
        )
        details = {"quantized": done["quantized"]}
    except StepFailed as exc:
        if exc.kind != "timeout":
            raise
        details = {"problem": str(exc).splitlines()[0]}
    seconds = time.monotonic() - begun
    counts = json.loads((folder / PROGRESS).read_text())
    side = Side(
        name="quantize_with_accuracy_control",
        seconds=seconds,
        full_validations=counts["rows"] / len(samples.evaluation),
        validated_rows=counts["rows"],
        **_figures(judge.check(target, "check-nncf") if target else None),
        details={**details, **counts},
    )
    return side, target, target is None


def _ours(
    subject: Subject, case: Case, judge: Judge, *, accept_undecided: bool
) -> tuple[Side, Target, float | None]:
    """Deploy's side, its artifact, and the float original's metric."""
    cache = Cache(subject.scratch / "cache")
    begun = time.monotonic()
    done = deploy(
        subject.model.path,
        out=subject.scratch / "ours",
        cache=cache,
        backends=("openvino",),
        recipes=(case.recipe,),
        refine=True,
        accept_undecided=accept_undecided,
        **subject.asked,
    )
    seconds = time.monotonic() - begun
    steps = _steps(cache.root)
    total = len(subject.samples.evaluation)
    validations = [rows for name, rows in steps if name in ("check", "reference")]
    target = bundled(subject.scratch / "ours")
    quality = judge.check(target, "check-ours")
    side = Side(
        name=str(done.decision.chosen),
        seconds=seconds,
        full_validations=sum(validations) / total,
        validated_rows=sum(validations),
        **_figures(quality),
        details={"steps": dict(Counter(name for name, _ in steps)), "tried": _tried(done)},
    )
    return side, target, quality.scores[0].reference


def _figures(quality: Quality | None) -> dict[str, Any]:
    """The last figures of a `Side`; of several outputs the worst counts."""
    if quality is None:
        return {"metric": None, "value": None, "keeps_floor": False, "verdict": ""}
    values = [item.value for item in quality.floors if item.value is not None]
    return {
        "metric": quality.scores[0].candidate,
        "value": min(values, default=None),
        "keeps_floor": bool(values) and min(values) >= quality.floors[0].bound,
        "verdict": quality.verdict.value,
    }


def _steps(cache: Path) -> list[tuple[str, int]]:
    """Every step that ran, by the record that each leaves, with how many rows it ran."""
    found = []
    for record in sorted(cache.glob("entries/*/request.json")):
        asked = json.loads(record.read_text(encoding="utf-8"))
        given = asked["request"].get("rows") or {"rows": ()}
        rows = asked["request"].get("look") or given["rows"]
        found.append((asked["target"].partition(":")[2], len(rows)))
    return found


def _tried(done: Deployment) -> list[dict[str, Any]]:
    return [
        {
            "name": outcome.name,
            "speedup": outcome.measurement.speedup.value if outcome.measurement else None,
            "metric": outcome.quality.scores[0].candidate if outcome.quality else None,
            "verdict": outcome.quality.verdict.value if outcome.quality else "",
            "why": outcome.candidate.why,
        }
        for outcome in done.outcomes
    ]


if __name__ == "__main__":
    sys.exit(main())
