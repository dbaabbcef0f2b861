"""A candidate run beside the float original, sample by sample, boiled down to a record.

The record holds figures of every row, never tensors, so it is small, can be written as JSON, and
any interval can be made from it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from edgesdk.closeness import (
    COLUMNS,
    POOLED_BELOW,
    OutputRecord,
    Row,
    compare,
    table_from_json,
    table_to_json,
)
from edgesdk.errors import SamplesError
from edgesdk.metrics import Arrays, Metric
from edgesdk.statistics import Floats, Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRecord:
    """What every sample scored, [rows, numbers], filled up with NaN.

    A row of the candidate that could not be scored, because an output was missing or of another
    shape, is NaN throughout.
    """

    reference: Floats
    candidate: Floats

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "width": self.reference.shape[1],
            "reference": table_to_json(self.reference),
            "candidate": table_to_json(self.candidate),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        sides = (table_from_json(data[side], data["width"]) for side in ("reference", "candidate"))
        reference, candidate = sides
        return cls(reference=reference, candidate=candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Every row of every output and metric of one candidate.

    Attributes:
        rows: samples that were compared.
        outputs: by name, in the original's order.
        metrics: by `Metric.name`.
    """

    rows: int
    outputs: Mapping[str, OutputRecord]
    metrics: Mapping[str, MetricRecord]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "rows": self.rows,
            "outputs": {name: output.to_json() for name, output in self.outputs.items()},
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        outputs = {name: OutputRecord.from_json(part) for name, part in data["outputs"].items()}
        metrics = {name: MetricRecord.from_json(part) for name, part in data["metrics"].items()}
        return cls(rows=data["rows"], outputs=outputs, metrics=metrics)


class Comparison:
    """Takes one sample's outputs at a time and keeps only figures of them.

    Attributes:
        broken: a row holds what no floor can excuse (NaN, another shape), so no other row can help.
    """

    def __init__(self, metrics: Sequence[Metric] = ()) -> None:
        names = [metric.name for metric in metrics]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise SamplesError(f"two metrics are called {twice!r}; give each its own name")
        self._metrics = tuple(metrics)
        self.broken = False
        self._numbers: list[int] = []
        self._rows: dict[str, list[Row]] = {}
        self._is_float: dict[str, bool] = {}
        self._scores: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in names}

    def add(
        self, reference: Arrays, candidate: Arrays, labels: Arrays, *, number: int | None = None
    ) -> None:
        """Compare and score one sample.

        Args:
            reference: the original's outputs by name.
            candidate: the candidate's, under the same names.
            labels: of that sample; empty where there are none.
            number: what messages call it; by default how many there were before.

        Raises:
            SamplesError: a metric cannot score these outputs and labels.
        """
        self._numbers.append(len(self._numbers) if number is None else number)
        sound = True
        for name, before in reference.items():
            row = compare(before, candidate.get(name))
            sound = sound and row.problem is None
            self.broken = self.broken or row.problem is not None or row.bad_values > 0
            self._rows.setdefault(name, []).append(row)
            self._is_float[name] = before.dtype.kind == "f"
        for metric in self._metrics:
            before_score = np.atleast_1d(np.asarray(metric.score(reference, labels), np.float64))
            after_score = np.full_like(before_score, np.nan)
            if sound:
                after_score = np.atleast_1d(np.asarray(metric.score(candidate, labels), np.float64))
            self._scores[metric.name].append((before_score, after_score))

    @property
    def record(self) -> Record:
        """What was found so far."""
        return Record(
            rows=max((len(rows) for rows in self._rows.values()), default=0),
            outputs={
                name: _output_record(rows, self._numbers, is_float=self._is_float[name])
                for name, rows in self._rows.items()
            },
            metrics={name: _metric_record(scores) for name, scores in self._scores.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; `Record.from_json` reads them."""
        return self.record.to_json()


def merge(records: Sequence[Record], numbers: Sequence[int]) -> Record:
    """One record of several parts of the same rows.

    Args:
        records: at least one; of the same outputs and metrics.
        numbers: of all rows, part after part; the merged rows are in their order.
    """
    first, order = records[0], np.argsort(np.asarray(numbers))
    return Record(
        rows=sum(record.rows for record in records),
        outputs={
            name: _merged_output([record.outputs[name] for record in records], order)
            for name in first.outputs
        },
        metrics={
            name: _merged_metric([record.metrics[name] for record in records], order)
            for name in first.metrics
        },
    )


def _merged_output(parts: Sequence[OutputRecord], order: Indices) -> OutputRecord:
    return OutputRecord(
        is_float=parts[0].is_float,
        pooled=all(part.pooled for part in parts),
        bad_values=sum(part.bad_values for part in parts),
        problem=next((part.problem for part in parts if part.problem), None),
        table=np.concatenate([part.table for part in parts])[order],
    )


def _merged_metric(parts: Sequence[MetricRecord], order: Indices) -> MetricRecord:
    width = max(part.reference.shape[1] for part in parts)
    return MetricRecord(
        reference=_table([row for part in parts for row in part.reference], width)[order],
        candidate=_table([row for part in parts for row in part.candidate], width)[order],
    )


def _output_record(rows: Sequence[Row], numbers: Sequence[int], *, is_float: bool) -> OutputRecord:
    problem = next(
        (
            f"{row.problem} (row {number})"
            for number, row in zip(numbers, rows, strict=True)
            if row.problem
        ),
        None,
    )
    return OutputRecord(
        is_float=is_float,
        pooled=is_float and max(row.size for row in rows) < POOLED_BELOW,
        bad_values=sum(row.bad_values for row in rows),
        problem=problem,
        table=np.array([row.numbers for row in rows], dtype=np.float64).reshape(-1, len(COLUMNS)),
    )


def _metric_record(scores: Sequence[tuple[Floats, Floats]]) -> MetricRecord:
    width = max((len(score) for pair in scores for score in pair), default=1)
    return MetricRecord(
        reference=_table([before for before, _ in scores], width),
        candidate=_table([after for _, after in scores], width),
    )


def _table(scores: Sequence[Floats], width: int) -> Floats:
    """[rows, width], filled up with NaN."""
    table = np.full((len(scores), width), np.nan)
    for row, score in zip(table, scores, strict=True):
        row[: len(score)] = score
    return table
