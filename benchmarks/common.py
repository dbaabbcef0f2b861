"""What the benchmarks on reference models share: one model opened, checked, measured, written down."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.budget import Budget, Floor, parse_floor
from edgesdk.bundle.read import read_manifest
from edgesdk.comparison import Record
from edgesdk.deployment import BUNDLE
from edgesdk.device.local import LocalDevice
from edgesdk.isolate import run_isolated
from edgesdk.machine import detect
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.result import Measurement
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.metrics import load_metric, own_names
from edgesdk.model import Model, read_model
from edgesdk.quality import Quality, judge
from edgesdk.samples import INPUT_PREFIX, Samples, read_samples
from edgesdk.usercode import absolute_reference

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Found = TypeVar("Found", bound=DataclassInstance)

FLOOR = "-2%"
TIMEOUT_S = 900.0
TIMED_ROWS = 8
SETTINGS = Settings()
"""Deploy's own, so that all sides are measured alike."""
CAREFUL = replace(SETTINGS, processes=4, min_rounds=40, max_rounds=400, max_seconds=30.0)
"""For two winners beside each other."""


@dataclass(frozen=True)
class Subject:
    """One reference model with its samples, metric and floor, and a place for scratch files.

    Attributes:
        source: the samples, thinned where that was asked for.
        metric: as `load_metric` takes it, from anywhere.
        floor: what the metric may lose, such as `-2%` (higher is better for all of them), or a floor on
            closeness such as `cosine=0.99`.
    """

    name: str
    model: Model
    metric: str
    floor: str
    source: str
    scratch: Path

    @property
    def metric_name(self) -> str:
        """Of the metric, as tables show it."""
        return load_metric(self.metric).name

    @property
    def only_floor(self) -> Floor:
        """The floor, read."""
        (found,) = self.budget.floors
        return found

    @property
    def budget(self) -> Budget:
        """The floor, and nothing else."""
        text = self.floor if "=" in self.floor else f"{self.metric_name}={self.floor}"
        return Budget(floors=parse_floor(text, own_names([self.metric])))

    @property
    def asked(self) -> dict[str, Any]:
        """What every deploy of it is asked."""
        return {
            "profile": "x86",
            "samples": self.source,
            "metrics": (self.metric,),
            "budget": self.budget,
            "settings": SETTINGS,
        }

    @cached_property
    def samples(self) -> Samples:
        """Its rows, split as deploy splits them."""
        return read_samples(self.source, self.model.inputs, store=self.scratch / "rows")


@contextmanager
def opened(folder: Path, most: int | None, floor: str = FLOOR) -> Iterator[Subject]:
    """A prepared reference model, with at most so many samples."""
    reference = json.loads((folder / "reference.json").read_text())
    with tempfile.TemporaryDirectory(prefix="edgesdk-bench-") as name:
        scratch = Path(name)
        yield Subject(
            name=folder.name,
            model=read_model((folder / "model.onnx").absolute()),
            metric=absolute_reference(reference["metric"]),
            floor=floor,
            source=str(thinned(folder / reference["samples"], most, scratch / "samples")),
            scratch=scratch,
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


def bundled(out: Path) -> Target:
    """The artifact in the output folder of a deploy."""
    component = read_manifest(out / BUNDLE).components[0]
    return Target(
        backend=component.engine.name,
        artifact=out / BUNDLE / component.main,
        execution=component.execution,
        threads=component.threads,
    )


class Judge:
    """Checks artifacts of one model, all against the same original on the same rows."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.threads = detect().logical_cores
        self.original = Target(
            backend="onnxruntime",
            artifact=subject.model.path,
            execution="fp32",
            threads=self.threads,
        )
        self._step("edgesdk.steps:reference", self.original, "reference", {})

    def _step(self, step: str, target: Target, place: str, more: dict[str, Any]) -> dict[str, Any]:
        request = {
            "backend": target.backend,
            "artifact": str(target.artifact),
            "execution": target.execution,
            "threads": target.threads,
            "rows": self.subject.samples.evaluation.to_json(),
            **more,
        }
        folder = self.subject.scratch / place
        return run_isolated(step, request, folder=folder, timeout_s=TIMEOUT_S).response

    def check(self, target: Target, place: str) -> Quality:
        """The verdict on all evaluation rows, and the metric of both sides."""
        more = {
            "reference": str(self.subject.scratch / "reference" / "outputs"),
            "metrics": [self.subject.metric],
            "golden": 0,
        }
        record = Record.from_json(self._step("edgesdk.steps:check", target, place, more)["record"])
        return judge(record, self.subject.budget.floors, [load_metric(self.subject.metric)])


def beside(
    subject: Subject, old: Target, new: Target, place: str, settings: Settings = SETTINGS
) -> tuple[Measurement, Measurement]:
    """Two artifacts measured beside each other; the speedup of the second is old time / new time."""
    folder = subject.scratch / place
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    inputs = Inputs(
        names=tuple(info.name for info in subject.model.inputs),
        rows=subject.samples.evaluation.subset(TIMED_ROWS).paths(),
        prefix=INPUT_PREFIX,
    )
    return measure_candidate(old, new, inputs, settings, LocalDevice(), folder)


def worst_cosine(quality: Quality | None) -> float | None:
    """The lowest over the outputs, where any has one."""
    found = (
        [item.cosine for item in quality.closeness if item.cosine is not None] if quality else []
    )
    return min(found, default=None)


def keeps_floor(floor: Floor, value: float | None, original: float | None) -> bool:
    """Whether the value of a metric where higher is better, without any interval, keeps its floor."""
    if value is None or original is None:
        return False
    allowed = {"relative": original * (1.0 + floor.bound), "points": original + floor.bound}
    return value >= allowed.get(floor.kind, floor.bound)


def run(
    script: str,
    doc: str | None,
    compare: Callable[[str, argparse.Namespace], Found],
    verdict: Callable[[Found], tuple[str, bool]],
    *,
    names: Sequence[str] = (),
    add_options: Callable[[argparse.ArgumentParser], object] = lambda _: None,
    draw: Callable[[Found], str] | None = None,
) -> int:
    """The command line of a benchmark: compare each name, write each result; 1 when a mark is missed.

    Args:
        script: name of its module, without the package.
        doc: its docstring; the first line is the help text.
        compare: one name -> the result.
        verdict: the result -> what to print about it, and whether it keeps the marks.
        names: what to run when no name is given; by default all prepared models.
        add_options: adds arguments of its own.
        draw: the result -> an SVG image that is written beside it.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--ref", type=Path, required=True, help="folder of prepared models")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result files")
    parser.add_argument("--rows", type=int, help="at most so many samples, evenly spread")
    add_options(parser)
    parser.add_argument("names", nargs="*", help=f"only these: {', '.join(names) or 'models'}")
    options = parser.parse_args()
    there = names or sorted(path.parent.name for path in options.ref.glob("*/reference.json"))
    kept = True
    for name in options.names or there:
        found = compare(name, options)
        said, is_kept = verdict(found)
        kept &= is_kept
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        document = {
            "command": f"python -m benchmarks.{script} {_arguments(parser, options)} {name}",
            "date": stamp,
            "machine": {**detect().to_json(), "python": platform.python_version()},
            **asdict(found),
        }
        path = options.out / f"{stamp}-{script.replace('_', '-')}-{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        if draw is not None:
            path.with_suffix(".svg").write_text(draw(found), encoding="utf-8")
        print(f"{name}: {said}", flush=True)
    return int(not kept)


def _arguments(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The options as typed, without places of this machine."""
    words = ["--ref REF --out OUT"]
    for name, value in vars(options).items():
        if name in ("ref", "out", "cache", "names") or value == parser.get_default(name):
            continue
        words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)
