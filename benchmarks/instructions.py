"""How well counts of instructions repeat on emulated processors: fresh processes, float and int8.

    python -m benchmarks.instructions --ref build/ref --out benchmarks/results [NAME…]

A deploy to an emulated processor compares candidates by the instructions of a run. Here each form of a
model is counted in three processes on each processor; the result is how far their counts are apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.common import SETTINGS, Subject, opened, run
from edgesdk.backend import require_backend
from edgesdk.cache import Cache
from edgesdk.compress.apply import compress
from edgesdk.compress.prepare import prepare
from edgesdk.device.emulated import EmulatedDevice
from edgesdk.measure.counting import Counts, count_runs
from edgesdk.measure.settings import Inputs, Target
from edgesdk.recipe import Recipe
from edgesdk.samples import INPUT_PREFIX

BACKEND = "onnxruntime"
NAMES = ("kws", "resnet", "efflite0")
PROCESSORS = ("cortex-a53", "cortex-a72", "cortex-a76", "haswell")
FORMS = ("fp32", "w8a8-static")
PROCESSES = 3
COUNTED_INPUTS = 1
"""Runs are the same work for every row of these models; emulating them is slow."""
TIMEOUT_S = 900.0
MARK = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """One form on one processor.

    Attributes:
        recipe: of the form.
        instructions: of a run, in each process.
        apart: the largest of them over the smallest, minus 1.
        within: the same over single runs, in the process where it is largest.
        environment: what the device told of itself.
    """

    processor: str
    recipe: str
    instructions: tuple[float, ...]
    apart: float
    within: float
    environment: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """The result for one model.

    Attributes:
        forms: every form on every processor.
        saved: by processor, instructions of the float form over those of the int8 form.
        worst: the largest `apart`.
        mark: what it may be.
    """

    model: str
    forms: tuple[Repeated, ...]
    saved: dict[str, float]
    worst: float
    mark: float
    kept: bool


def main() -> int:
    """Run it for the three models, or those named."""
    return run("instructions", __doc__, _compare, _verdict, names=NAMES)


def _compare(name: str, options: argparse.Namespace) -> Repeats:
    with opened(options.ref / name, options.rows) as subject:
        return compare(subject)


def _verdict(found: Repeats) -> tuple[str, bool]:
    saved = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.saved.items())
    told = f"at most {found.worst:.4%} apart ({found.mark:.1%} is allowed); float / int8: {saved}"
    return told, found.kept


def compare(subject: Subject) -> Repeats:
    """Count both forms of one model on all processors."""
    targets = {recipe: _made(subject, recipe) for recipe in FORMS}
    forms = tuple(_repeated(subject, targets))
    counted = {(item.processor, item.recipe): item.instructions[0] for item in forms}
    worst = max(item.apart for item in forms)
    plain, quantized = FORMS
    return Repeats(
        model=subject.name,
        forms=forms,
        saved={core: counted[core, plain] / counted[core, quantized] for core in PROCESSORS},
        worst=worst,
        mark=MARK,
        kept=worst <= MARK,
    )


def _made(subject: Subject, recipe: str) -> Target:
    """The form that a deploy would make, with the shapes that all samples share."""
    folder = subject.scratch / recipe
    shapes = {name: shape for name, shape in subject.samples.uniform_shapes.items() if shape}
    prepared = prepare(
        subject.model.path,
        folder / "prepared",
        shapes=shapes,
        example=subject.samples.evaluation[0].inputs,
    )
    parsed = Recipe.parse(recipe)
    rows = subject.samples.calibration
    done = compress(prepared.path, parsed, folder / "compressed", calibration=rows)
    (folder / "artifact").mkdir()
    artifact = require_backend(BACKEND).convert(done.path, parsed, folder / "artifact")
    return Target(backend=BACKEND, artifact=artifact)


def _repeated(subject: Subject, targets: dict[str, Target]) -> Iterator[Repeated]:
    for core in PROCESSORS:
        with closing(EmulatedDevice(core, (BACKEND,), Cache())) as device:
            for recipe, target in targets.items():
                place = subject.scratch / core / recipe
                counts = [
                    _counted(subject, target, device, place / str(number))
                    for number in range(PROCESSES)
                ]
                yield _summary(core, recipe, counts)
                print(f"{subject.name} {core} {recipe}: {counts[0].mean:,.0f}", flush=True)


def _counted(subject: Subject, target: Target, device: EmulatedDevice, folder: Path) -> Counts:
    """What a fresh process counts."""
    inputs = Inputs(
        names=tuple(info.name for info in subject.model.inputs),
        rows=subject.samples.evaluation.subset(COUNTED_INPUTS).paths(),
        prefix=INPUT_PREFIX,
    )
    return count_runs(target, inputs, replace(SETTINGS, timeout_s=TIMEOUT_S), device, folder)


def _summary(core: str, recipe: str, counts: list[Counts]) -> Repeated:
    found = tuple(item.mean for item in counts)
    single = [runs for item in counts for runs in item.runs]
    return Repeated(
        processor=core,
        recipe=recipe,
        instructions=found,
        apart=max(found) / min(found) - 1,
        within=max(max(runs) / min(runs) - 1 for runs in single),
        environment=counts[0].environment,
    )


if __name__ == "__main__":
    sys.exit(main())
