"""NNCF's accuracy-controlled quantization as its documentation shows it, counted while it runs.

Runs in a child process; nothing of edgesdk's compression is used. `progress.json` in its working
directory holds the counts after each validation, so that they are there when it is cut short.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgesdk.arrays import load_arrays
from edgesdk.backend import Array
from edgesdk.closeness import compare, cosine
from edgesdk.files import write_json
from edgesdk.metrics import load_metric
from edgesdk.recipe import Recipe
from edgesdk.samples import Sample, SampleSet
from edgesdk.statistics import Floats

PROGRESS = "progress.json"
Request = dict[str, Any]


@dataclass(slots=True)
class Counts:
    """What it looked at so far.

    Attributes:
        full: validations of a whole model on all evaluation rows, the float model's included.
        values: the figure at each pass of all rows, in order.
        ranking_full: passes on all rows that rank a group of quantizers.
        ranking_part: passes on some rows that do.
        rows: evaluation rows run in all, ranking included.
        seconds: since it began.
    """

    full: int = 0
    values: list[float] = field(default_factory=list)
    ranking_full: int = 0
    ranking_part: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the validation set, with what the float original makes of it."""

    sample: Sample
    expected: dict[str, Array]


class Scorer(Protocol):
    """How a model is judged.

    Attributes:
        ranks: the first number of a row's score alone ranks quantizers; else the row's outputs do.
    """

    @property
    def ranks(self) -> bool: ...

    def score(self, outputs: dict[str, Array], item: Item) -> Floats:
        """One row's numbers."""

    def value(self, table: Floats) -> float:
        """The figure of rows, [rows, numbers], short ones filled up with NaN."""


class ByMetric:
    """A task metric; one that does not average scores has no value on a row alone."""

    def __init__(self, name: str) -> None:
        self._metric = load_metric(name)

    @property
    def ranks(self) -> bool:
        """Whether scores of rows mean anything."""
        return self._metric.averaged

    def score(self, outputs: dict[str, Array], item: Item) -> Floats:
        """The metric's numbers."""
        return np.atleast_1d(np.asarray(self._metric.score(outputs, item.sample.labels), float))

    def value(self, table: Floats) -> float:
        """The metric."""
        return self._metric.aggregate(table, np.arange(len(table)))


class ByCosine:
    """Mean cosine to the float original at the worst output, as deploy's floor `cosine` takes it."""

    ranks = True

    def score(self, outputs: dict[str, Array], item: Item) -> Floats:
        """The worst output's first, then each output's."""
        sums = [compare(before, outputs[name]) for name, before in item.expected.items()]
        numbers = np.array([row.numbers[:3] for row in sums])
        found = cosine(*numbers.T)
        return np.concatenate([[found.min()], found])

    def value(self, table: Floats) -> float:
        """The mean of each output, of these the lowest."""
        return float(table[:, 1:].mean(axis=0).min())


def control(request: Request) -> Request:
    """Quantize with accuracy control; returns `path`, `counts` as in `Counts`, and `quantized`.

    Takes `model`, `shapes`, `calibration`, `evaluation`, `expected` (a folder of the original's
    outputs), `metric` (or `cosine`), `recipe`, `max_drop` and `relative`. `quantized` is the number of
    FakeQuantize operations that are left.
    """
    begun = time.monotonic()
    os.environ["NNCF_CI"] = "1"  # no telemetry
    nncf = import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    openvino = import_module("openvino")
    network = openvino.Core().read_model(request["model"])
    if request["shapes"]:
        network.reshape(request["shapes"])
    recipe = Recipe.parse(request["recipe"])
    calibration = list(SampleSet.from_json(request["calibration"]))
    evaluation = [
        Item(sample, load_arrays(Path(request["expected"]) / f"{number:06d}.npz"))
        for number, sample in enumerate(SampleSet.from_json(request["evaluation"]))
    ]
    counts = Counts()

    def note() -> None:
        counts.seconds = time.monotonic() - begun
        write_json(Path(PROGRESS), asdict(counts))

    note()
    scorer = ByCosine() if request["metric"] == "cosine" else ByMetric(request["metric"])
    made = nncf.quantize_with_accuracy_control(
        network,
        nncf.Dataset(calibration, lambda sample: sample.inputs),
        _watched(nncf, counts, note)(evaluation, lambda item: item.sample.inputs),
        validation_fn=_validation(scorer, len(evaluation), counts),
        max_drop=request["max_drop"],
        drop_type=nncf.DropType.RELATIVE if request["relative"] else nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED if recipe.mixed else None,
        model_type=nncf.ModelType.TRANSFORMER if recipe.transformer else None,
        target_device=nncf.TargetDevice.CPU,
        # Its default, for calibration and for ranking; there are never more rows to calibrate.
        subset_size=300,
    )
    target = Path("files") / "model.xml"
    target.parent.mkdir()
    openvino.save_model(made, target, compress_to_fp16=False)
    note()
    left = sum(op.get_type_name() == "FakeQuantize" for op in made.get_ops())
    return {"path": str(target), "counts": asdict(counts), "quantized": left}


def _watched(nncf: Any, counts: Counts, note: Callable[[], None]) -> type[Any]:
    """NNCF asks its validation set for some rows by number when it ranks, else for all."""

    class Watched(nncf.Dataset):  # type: ignore[misc]  # the library is not typed here
        def get_data(self, indices: Sequence[int] | None = None) -> Any:
            self._count(indices, outputs=False)
            return super().get_data(indices)

        def get_inference_data(self, indices: Sequence[int] | None = None) -> Any:
            self._count(indices, outputs=True)
            return super().get_inference_data(indices)

        def _count(self, indices: Sequence[int] | None, *, outputs: bool) -> None:
            total = self.get_length()
            taken = total if indices is None else len(indices)
            counts.rows += taken
            if indices is None:
                counts.full += 1
            elif outputs or taken > 1:  # one row: it asks what kind of figure comes back
                counts.ranking_full += taken == total
                counts.ranking_part += taken < total
            note()

    return Watched


def _validation(scorer: Scorer, total: int, counts: Counts) -> Callable[..., Any]:
    """NNCF's validation function: the figure over rows, and each row's score or outputs."""

    def validate(compiled: Any, rows: Iterable[Item]) -> tuple[float, list[Any]]:
        names = [port.get_any_name() for port in compiled.inputs]
        scores, outputs = [], []
        for item in rows:
            found = compiled({name: item.sample.inputs[name] for name in names})
            named = {name: value for port, value in found.items() for name in port.get_names()}
            outputs.append(list(named.values()))
            scores.append(scorer.score(named, item))
        table = np.full((len(scores), max(map(len, scores))), np.nan)
        for row, score in zip(table, scores, strict=True):
            row[: len(score)] = score
        value = scorer.value(table)
        if len(scores) == total:
            counts.values.append(value)
        return value, list(table[:, 0]) if scorer.ranks else outputs

    return validate
