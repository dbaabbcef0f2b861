"""Is what deploy chooses at least as fast as the best variant made by hand, at no lower quality?

    python -m benchmarks.deploy_vs_hand --ref build/ref --out benchmarks/results [NAME…]

For every reference model: deploy with a floor of -2 % on its metric; build every hand-made variant;
check each on the same evaluation rows against the same float original; measure each beside it; then
measure the winner of both sides against each other directly.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.hand_made import VARIANTS
from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.budget import Budget, parse_floor
from edgesdk.bundle.read import read_manifest
from edgesdk.comparison import Record
from edgesdk.deployment import BUNDLE, deploy
from edgesdk.device.local import LocalDevice
from edgesdk.errors import EdgeSdkError
from edgesdk.isolate import run_isolated
from edgesdk.machine import detect
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.metrics import load_metric, own_names
from edgesdk.model import read_model
from edgesdk.quality import Verdict, judge
from edgesdk.samples import INPUT_PREFIX, read_samples
from edgesdk.usercode import absolute_reference

FLOOR = "-2%"
TIMEOUT_S = 900.0
SETTINGS = Settings()
"""Deploy's own, so that both sides are measured alike."""
CAREFUL = replace(SETTINGS, processes=4, min_rounds=40, max_rounds=400, max_seconds=30.0)
"""For the two winners beside each other."""


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ref", type=Path, required=True, help="folder of prepared models")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result files")
    parser.add_argument("--rows", type=int, help="at most so many samples, evenly spread")
    parser.add_argument("--again", action="store_true", help="also time a second, cached deploy")
    parser.add_argument("names", nargs="*", help="only these models")
    options = parser.parse_args()
    names = options.names or sorted(p.parent.name for p in options.ref.glob("*/reference.json"))
    lost = False
    for name in names:
        found = compare(options.ref / name, options.rows, again=options.again)
        rows = f" --rows {options.rows}" if options.rows else ""
        _write(found, options.out, f"--ref REF --out OUT{rows} {name}")
        lost |= found.direct.high < 1.0
    return int(lost)


def compare(folder: Path, most: int | None, *, again: bool) -> Comparison:
    """Deploy one reference model, build everything by hand, measure all of it."""
    reference = json.loads((folder / "reference.json").read_text())
    model = read_model((folder / "model.onnx").absolute())
    metric = absolute_reference(reference["metric"])
    floor = f"{load_metric(metric).name}={FLOOR}"
    budget = Budget(floors=parse_floor(floor, own_names([metric])))
    with tempfile.TemporaryDirectory(prefix="edgesdk-bench-") as scratch_name:
        scratch = Path(scratch_name)
        source = str(thinned(folder / reference["samples"], most, scratch / "samples"))
        asked: dict[str, Any] = {
            "profile": "x86",
            "samples": source,
            "metrics": (metric,),
            "budget": budget,
        }
        seconds = []
        for attempt in ("first", "second") if again else ("first",):
            begun = time.monotonic()
            done = deploy(model.path, out=scratch / attempt, settings=SETTINGS, **asked)
            seconds.append(time.monotonic() - begun)
        samples = read_samples(source, model.inputs, store=scratch / "rows")
        job = _Job(scratch, model.path, samples, metric, budget)
        manifest = read_manifest(scratch / "first" / BUNDLE)
        component = manifest.components[0]
        chosen_target = Target(
            backend=component.engine.name,
            artifact=scratch / "first" / BUNDLE / component.main,
            execution=component.execution,
            threads=job.threads,
        )
        print(
            f"{folder.name}: deploy chose {done.decision.chosen} in {seconds[0]:.0f} s", flush=True
        )
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
        _, direct = job.measure(targets[best.name], chosen_target, "direct", CAREFUL)
        return Comparison(
            model=folder.name,
            metric=load_metric(metric).name,
            rows=len(samples.evaluation),
            float_metric=job.float_metric,
            chosen=chosen,
            hand=tuple(hand),
            best_hand=best.name,
            direct=direct.speedup,
            direct_stable=direct.stable,
            deploy_seconds=seconds[0],
            again_seconds=seconds[1] if again else None,
        )


def thinned(source: Path, most: int | None, out: Path) -> Path:
    """The samples, or a copy with at most so many of them, evenly spread."""
    if most is None:
        return source
    out.mkdir()
    if source.is_dir():
        files = sorted(source.glob("*.npz"))
        for file in files[:: -(-len(files) // most)]:
            shutil.copy(file, out)
        return out
    arrays = load_arrays(source)
    step = -(-len(next(iter(arrays.values()))) // most)
    save_arrays(out / source.name, {name: array[::step] for name, array in arrays.items()})
    return out / source.name


class _Job:
    """Checks and measurements of one model, all against the same original on the same rows."""

    def __init__(
        self, scratch: Path, model: Path, samples: Any, metric: str, budget: Budget
    ) -> None:
        self.scratch, self.model, self.samples = scratch, model, samples
        self.metric, self.budget = metric, budget
        self.threads = detect().logical_cores
        self.baseline = Target(
            backend="onnxruntime", artifact=model, execution="fp32", threads=self.threads
        )
        self.float_metric: float | None = None
        self._step("edgesdk.steps:reference", self.baseline, "reference", {})

    def _step(self, step: str, target: Target, place: str, more: dict[str, Any]) -> dict[str, Any]:
        request = {
            "backend": target.backend,
            "artifact": str(target.artifact),
            "execution": target.execution,
            "threads": target.threads,
            "rows": self.samples.evaluation.to_json(),
            **more,
        }
        folder = self.scratch / place
        return run_isolated(step, request, folder=folder, timeout_s=TIMEOUT_S).response

    def original(self) -> tuple[Row, Target | None]:
        """The float model itself, which everything is compared with."""
        same = Interval(value=1.0, low=1.0, high=1.0)
        return Row(name="ort fp32", speedup=same, metric=self.float_metric), self.baseline

    def by_hand(self, name: str) -> tuple[Row, Target | None]:
        """Build, check and measure one hand-made variant."""
        backend, execution = VARIANTS[name]
        folder = self.scratch / name.replace(" ", "-")
        request = {
            "name": name,
            "model": str(self.model),
            "calibration": self.samples.calibration.to_json(),
        }
        try:
            made = run_isolated(
                "benchmarks.hand_made:build", request, folder=folder, timeout_s=TIMEOUT_S
            )
            target = Target(
                backend=backend,
                artifact=folder / made.response["path"],
                execution=execution,
                threads=self.threads,
            )
            return self.row(name, target), target
        except EdgeSdkError as exc:
            return Row(name=name, problem=str(exc).splitlines()[0][:200]), None

    def row(self, name: str, target: Target) -> Row:
        """Quality and speed of one artifact."""
        place = f"check-{name}".replace(" ", "-").replace("/", "-")
        more = {
            "reference": str(self.scratch / "reference" / "outputs"),
            "metrics": [self.metric],
            "golden": 0,
        }
        response = self._step("edgesdk.steps:check", target, place, more)
        record = Record.from_json(response["record"])
        quality = judge(record, self.budget.floors, [load_metric(self.metric)])
        score = quality.scores[0]
        self.float_metric = score.reference
        if quality.verdict == Verdict.FAIL:
            return Row(name=name, metric=score.candidate, verdict="fail", problem=quality.reason)
        _, measured = self.measure(self.baseline, target, f"measure-{place}")
        cosines = [item.cosine for item in quality.closeness if item.cosine is not None]
        return Row(
            name=name,
            speedup=measured.speedup,
            p50_ms=measured.latency.p50_ms,
            metric=score.candidate,
            cosine=min(cosines, default=None),
            verdict=quality.verdict.value,
            size_bytes=measured.artifact_bytes,
            stable=measured.stable,
        )

    def measure(
        self, old: Target, new: Target, place: str, settings: Settings = SETTINGS
    ) -> tuple[Measurement, Measurement]:
        """Two artifacts beside each other."""
        folder = self.scratch / place
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        inputs = Inputs(
            names=tuple(info.name for info in read_model(self.model).inputs),
            rows=self.samples.evaluation.subset(8).paths(),
            prefix=INPUT_PREFIX,
        )
        return measure_candidate(old, new, inputs, settings, LocalDevice(), folder)

    def keeps_floor(self, row: Row) -> bool:
        """Whether the value of a variant's metric, without any interval, keeps the floor."""
        if row.metric is None or self.float_metric is None or row.verdict == Verdict.FAIL:
            return False
        change = float(FLOOR.rstrip("%")) / 100.0
        return row.metric >= self.float_metric * (1.0 + change)


def _write(found: Comparison, out: Path, arguments: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    machine = detect()
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    document = {
        "command": f"python -m benchmarks.deploy_vs_hand {arguments}",
        "date": stamp,
        "machine": {**machine.to_json(), "python": platform.python_version()},
        **asdict(found),
    }
    path = out / f"{stamp}-deploy-vs-hand-{found.model}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    verdict = "not slower" if found.direct.high >= 1.0 else "SLOWER"
    print(
        f"{found.model}: {found.chosen.name} against {found.best_hand}: {found.direct} x, {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main())
