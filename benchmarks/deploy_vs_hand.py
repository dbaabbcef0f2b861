"""Is what deploy chooses at least as fast as the best variant made by hand, at no lower quality?

    python -m benchmarks.deploy_vs_hand --ref build/ref --out benchmarks/results [NAME…]

For every reference model: deploy with a floor of -2 % on its metric; build every hand-made variant;
check each on the same evaluation rows against the same float original; measure each beside it; then
measure the winner of both sides against each other directly.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace

from benchmarks.common import (
    CAREFUL,
    TIMEOUT_S,
    Judge,
    Subject,
    beside,
    bundled,
    keeps_floor,
    opened,
    run,
    worst_cosine,
)
from benchmarks.hand_made import VARIANTS
from edgesdk.deployment import deploy
from edgesdk.errors import EdgeSdkError
from edgesdk.isolate import run_isolated
from edgesdk.measure.result import Interval
from edgesdk.measure.settings import Target
from edgesdk.quality import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant on one model."""

    name: str
    speedup: Interval | None = None
    p50_ms: float | None = None
    metric: float | None = None
    cosine: float | None = None
    verdict: str = ""
    size_bytes: int | None = None
    stable: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result for one model.

    Attributes:
        chosen: what deploy chose, measured again here like every other row.
        best_hand: the fastest hand-made one whose metric keeps the floor, by its value.
        direct: time of `best_hand` / time of `chosen`, measured beside each other; above 1, deploy wins.
    """

    model: str
    metric: str
    rows: int
    float_metric: float | None
    chosen: Row
    hand: tuple[Row, ...]
    best_hand: str
    direct: Interval
    direct_stable: bool
    deploy_seconds: float
    again_seconds: float | None


def main() -> int:
    """Run the comparison; exits 1 when deploy loses anywhere with confidence."""
    return run("deploy_vs_hand", __doc__, _compare, _verdict, add_options=_add_options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--again", action="store_true", help="also time a second, cached deploy")


def _compare(name: str, options: argparse.Namespace) -> Comparison:
    with opened(options.ref / name, options.rows) as subject:
        return compare(subject, again=options.again)


def _verdict(found: Comparison) -> tuple[str, bool]:
    kept = found.direct.high >= 1.0
    against = f"{found.chosen.name} against {found.best_hand}: {found.direct} x"
    return f"{against}, {'not slower' if kept else 'SLOWER'}", kept


def compare(subject: Subject, *, again: bool) -> Comparison:
    """Deploy one reference model, build everything by hand, measure all of it."""
    seconds = []
    for attempt in ("first", "second") if again else ("first",):
        begun = time.monotonic()
        done = deploy(subject.model.path, out=subject.scratch / attempt, **subject.asked)
        seconds.append(time.monotonic() - begun)
    print(f"{subject.name}: deploy chose {done.decision.chosen} in {seconds[0]:.0f} s", flush=True)
    job = _Job(subject)
    chosen_target = replace(bundled(subject.scratch / "first"), threads=job.judge.threads)
    chosen = job.row(str(done.decision.chosen), chosen_target)
    hand: list[Row] = []
    targets: dict[str, Target] = {}
    for name in VARIANTS:
        row, target = job.original() if name == "ort fp32" else job.by_hand(name)
        print(f"  {row}", flush=True)
        hand.append(row)
        if target:
            targets[name] = target
    kept = [row for row in hand if row.speedup and job.keeps_floor(row)]
    best = max(kept, key=lambda row: row.speedup.value if row.speedup else 0.0)
    _, direct = beside(subject, targets[best.name], chosen_target, "direct", CAREFUL)
    return Comparison(
        model=subject.name,
        metric=subject.metric_name,
        rows=len(subject.samples.evaluation),
        float_metric=job.float_metric,
        chosen=chosen,
        hand=tuple(hand),
        best_hand=best.name,
        direct=direct.speedup,
        direct_stable=direct.stable,
        deploy_seconds=seconds[0],
        again_seconds=seconds[1] if again else None,
    )


class _Job:
    """Rows of one model, all against the same original."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.judge = Judge(subject)
        self.float_metric: float | None = None

    def original(self) -> tuple[Row, Target | None]:
        """The float model itself, which everything is compared with."""
        same = Interval(value=1.0, low=1.0, high=1.0)
        row = Row(name="ort fp32", speedup=same, metric=self.float_metric)
        return row, self.judge.original

    def by_hand(self, name: str) -> tuple[Row, Target | None]:
        """Build, check and measure one hand-made variant."""
        backend, execution = VARIANTS[name]
        folder = self.subject.scratch / name.replace(" ", "-")
        request = {
            "name": name,
            "model": str(self.subject.model.path),
            "calibration": self.subject.samples.calibration.to_json(),
        }
        try:
            made = run_isolated(
                "benchmarks.hand_made:build", request, folder=folder, timeout_s=TIMEOUT_S
            )
            target = Target(
                backend=backend,
                artifact=folder / made.response["path"],
                execution=execution,
                threads=self.judge.threads,
            )
            return self.row(name, target), target
        except EdgeSdkError as exc:
            return Row(name=name, problem=str(exc).splitlines()[0][:200]), None

    def row(self, name: str, target: Target) -> Row:
        """Quality and speed of one artifact."""
        place = f"check-{name}".replace(" ", "-").replace("/", "-")
        quality = self.judge.check(target, place)
        score = quality.scores[0]
        self.float_metric = score.reference
        if quality.verdict == Verdict.FAIL:
            return Row(name=name, metric=score.candidate, verdict="fail", problem=quality.reason)
        _, measured = beside(self.subject, self.judge.original, target, f"measure-{place}")
        return Row(
            name=name,
            speedup=measured.speedup,
            p50_ms=measured.timed.p50_ms,
            metric=score.candidate,
            cosine=worst_cosine(quality),
            verdict=quality.verdict.value,
            size_bytes=measured.artifact_bytes,
            stable=measured.stable,
        )

    def keeps_floor(self, row: Row) -> bool:
        """Whether the value of a variant's metric, without any interval, keeps the floor."""
        floor = self.subject.only_floor
        return row.verdict != Verdict.FAIL and keeps_floor(floor, row.metric, self.float_metric)


if __name__ == "__main__":
    sys.exit(main())
