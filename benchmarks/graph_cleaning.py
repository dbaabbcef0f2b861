"""What cleaning the graph alone does: the float model as given against its cleaned form.

    python -m benchmarks.graph_cleaning --ref build/ref --out benchmarks/results [NAME…]

Both are converted for each engine and measured directly beside each other. Deploy does the same before
it decides which of the two the recipes of an engine start from.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.common import CAREFUL, Subject, beside, opened, run
from edgesdk.backend import require_backend
from edgesdk.compress.prepare import prepare
from edgesdk.errors import EdgeSdkError
from edgesdk.machine import detect
from edgesdk.measure.result import Interval
from edgesdk.measure.settings import Target
from edgesdk.recipe import Recipe

BACKENDS = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine on one model.

    Attributes:
        speedup: time of the model as given / time of its cleaned form; None where it cannot run.
        stable: whether the times settled.
        problem: why it cannot run.
    """

    speedup: Interval | None
    stable: bool
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """The result for one model.

    Attributes:
        nodes, cleaned_nodes: of each operator, before and after.
        notes: what was not done, and why.
    """

    model: str
    nodes: dict[str, int]
    cleaned_nodes: dict[str, int]
    notes: tuple[str, ...]
    engines: dict[str, Engine]


def main() -> int:
    """Run it for all models, or those named."""
    return run("graph_cleaning", __doc__, _compare, _verdict)


def _compare(name: str, options: argparse.Namespace) -> Cleaned:
    with opened(options.ref / name, options.rows) as subject:
        return compare(subject)


def _verdict(found: Cleaned) -> tuple[str, bool]:
    told = (f"{name} {engine.speedup or engine.problem}" for name, engine in found.engines.items())
    return ", ".join(told), True


def compare(subject: Subject) -> Cleaned:
    """Clean one model and measure both forms on every engine."""
    shapes = {name: shape for name, shape in subject.samples.uniform_shapes.items() if shape}
    fixed = shapes if len(shapes) == len(subject.model.inputs) else None
    done = prepare(
        subject.model.path,
        subject.scratch / "prepared",
        shapes=fixed,
        example=subject.samples.evaluation[0].inputs,
    )
    return Cleaned(
        model=subject.name,
        nodes=_counted(subject.model.path),
        cleaned_nodes=_counted(done.path),
        notes=done.notes,
        engines={name: _on(subject, name, done.path) for name in BACKENDS},
    )


def _counted(model: Path) -> dict[str, int]:
    graph = onnx.load(model, load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def _on(subject: Subject, backend: str, cleaned: Path) -> Engine:
    try:
        given = _converted(subject, backend, subject.model.path, "given")
        target = _converted(subject, backend, cleaned, "cleaned")
        _, after = beside(subject, given, target, f"{backend}-beside", CAREFUL)
    except EdgeSdkError as exc:
        return Engine(speedup=None, stable=False, problem=str(exc))
    return Engine(speedup=after.speedup, stable=after.stable)


def _converted(subject: Subject, backend: str, model: Path, place: str) -> Target:
    folder = subject.scratch / backend / place
    folder.mkdir(parents=True)
    artifact = require_backend(backend).convert(model, Recipe(), folder)
    return Target(backend=backend, artifact=artifact, threads=detect().logical_cores)


if __name__ == "__main__":
    sys.exit(main())
