"""Pruned graphs on every engine: do they compute what the original with silenced units computes?

    python -m benchmarks.pruned_everywhere --ref build/ref --out benchmarks/results [NAME…]

Of each reference model, a share of the parameters is removed in whole units, and the same units are
silenced in the original by zeroed weights (`edgesdk.structure.mask`). Nothing is healed. The pruned graph
must pass onnx.checker and give, on every engine, what the silenced original gives in onnxruntime without
optimizations. A model whose samples all have one shape is fixed to it, as deploy does.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.common import Subject, opened, run
from edgesdk.backend import OpenOptions, require_backend
from edgesdk.compress import onnx_io
from edgesdk.compress.prepare import prepare
from edgesdk.errors import EdgeSdkError
from edgesdk.model import read_model
from edgesdk.recipe import Recipe
from edgesdk.structure.choose import Rules, choose
from edgesdk.structure.groups import find_groups
from edgesdk.structure.importance import energy
from edgesdk.structure.mask import mask
from edgesdk.structure.remove import remove

BACKENDS = ("onnxruntime", "openvino", "litert")
SHARES = (0.3, 0.2, 0.1)
"""Of the parameters; the first that the model has units for."""
LEAST_KEPT = 0.1
ROWS = 8
TOLERANCE = 1e-3
"""Of the largest value of an output: float32 in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine on one pruned model.

    Attributes:
        error: the largest difference on any row, relative to the largest value of its output; None where
            it was refused.
        refused: why the engine does not take the model.
        takes_original: whether it takes the original; None where the pruned one was taken.
    """

    error: float | None = None
    refused: str = ""
    takes_original: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """The result for one model.

    Attributes:
        removed: share of the parameters.
        units: that are gone, and that there were.
        left: what is left alone, with its reason; the first few.
    """

    model: str
    removed: float
    units: tuple[int, int]
    left: tuple[str, ...]
    engines: dict[str, Engine]


def main() -> int:
    """Run it for all models, or those named."""
    return run("pruned_everywhere", __doc__, _prove, _verdict)


def _prove(name: str, options: argparse.Namespace) -> Proved:
    with opened(options.ref / name, options.rows or ROWS) as subject:
        start = _prepared(subject)
        proto = onnx_io.read_whole(start)
        found = find_groups(proto)
        rules = Rules(keep=LEAST_KEPT)
        choices = (choose(proto, found, energy(proto, found), share=s, rules=rules) for s in SHARES)
        choice = next((one for one in choices if one.reached), None)
        if choice is None:
            raise SystemExit(f"{name}: not even {SHARES[-1]:.0%} of the parameters can go")
        pruned = remove(proto, found, choice.selection)
        onnx.checker.check_model(pruned, full_check=True)
        silenced = mask(proto, found, choice.selection)
        feeds = [row.inputs for row in subject.samples.evaluation][:ROWS]
        wanted = _plain(silenced, feeds)
        path = onnx_io.write(pruned, _folder(subject, "pruned") / "model.onnx")
        return Proved(
            model=name,
            removed=1 - choice.after.parameters / choice.before.parameters,
            units=(
                sum(map(len, choice.selection.values())),
                sum(len(group.units) for group in found.groups),
            ),
            left=tuple(map(str, found.left[:5])),
            engines={
                engine: _on(subject, engine, path, start, feeds, wanted) for engine in BACKENDS
            },
        )


def _prepared(subject: Subject) -> Path:
    shapes = {name: shape for name, shape in subject.samples.uniform_shapes.items() if shape}
    fixed = shapes if len(shapes) == len(subject.model.inputs) else None
    example = subject.samples.evaluation[0].inputs
    folder = _folder(subject, "prepared")
    return prepare(subject.model.path, folder, shapes=fixed, example=example).path


def _plain(model: onnx.ModelProto, feeds: Any) -> list[dict[str, NDArray[Any]]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]


def _on(
    subject: Subject, engine: str, pruned: Path, start: Path, feeds: Any, wanted: Any
) -> Engine:
    try:
        found = _outputs(subject, engine, pruned, "pruned", feeds)
    except EdgeSdkError as exc:
        refused = f"{type(exc).__name__}: {exc}".splitlines()[0]
        try:
            _outputs(subject, engine, start, "original", feeds[:1])
        except EdgeSdkError:
            return Engine(refused=refused, takes_original=False)
        return Engine(refused=refused, takes_original=True)
    return Engine(error=max(map(_error, found, wanted)))


def _outputs(subject: Subject, engine: str, model: Path, place: str, feeds: Any) -> list[Any]:
    backend = require_backend(engine)
    read_model(model)
    artifact = backend.convert(model, Recipe(), _folder(subject, f"{engine}-{place}"))
    with backend.open(artifact, OpenOptions()) as session:
        return [session.run(feed) for feed in feeds]


def _error(found: Any, wanted: Any) -> float:
    """The worst output's; the engine's outputs are in order, whatever they are called."""
    worst = 0.0
    for got, want in zip(found.values(), wanted.values(), strict=True):
        if np.issubdtype(want.dtype, np.floating):
            scale = max(float(np.abs(want).max(initial=0.0)), 1e-6)
            worst = max(
                worst, float(np.abs(got.astype(np.float64) - want).max(initial=0.0)) / scale
            )
    return worst


def _folder(subject: Subject, name: str) -> Path:
    folder = subject.scratch / name
    folder.mkdir()
    return folder


def _verdict(found: Proved) -> tuple[str, bool]:
    told = [f"{found.removed:.1%} of the parameters removed"]
    kept = True
    for name, engine in found.engines.items():
        if engine.error is None:
            told.append(f"{name} refused: {engine.refused}")
            kept &= engine.takes_original is False
        else:
            told.append(f"{name} {engine.error:.1e}")
            kept &= engine.error <= TOLERANCE
    return ", ".join(told), kept


if __name__ == "__main__":
    sys.exit(main())
