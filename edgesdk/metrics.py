"""Task metrics: what one sample scores, and the figure that all samples make together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgesdk.errors import SamplesError
from edgesdk.statistics import Floats, Indices
from edgesdk.usercode import did_you_mean, is_reference, load_object, user_code

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]

BUILT_IN = ("top1", "top5", "accuracy", "f1", "iou", "spearman", "pair_cosine_spearman")
"""Names that `load_metric` knows; `name@output` says which output is meant."""

_MASK_THRESHOLD = 0.5


class Metric(Protocol):
    """Scores samples one at a time and aggregates the scores of any choice of rows.

    Attributes:
        name: unique among the metrics of a deploy.
        higher_is_better: False for an error rate.
        averaged: True when `aggregate` is the mean of single scores; then bounds are sharper.
    """

    @property
    def name(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def averaged(self) -> bool: ...

    def score(self, outputs: Arrays, labels: Arrays) -> float | Sequence[float] | Floats:
        """One sample's contribution: a number, or several that `aggregate` can work with."""
        ...

    def aggregate(self, scores: Floats, rows: Indices) -> float:
        """The figure of some rows (with repetitions).

        Args:
            scores: [rows, numbers], float64; short rows are filled up with NaN.
            rows: which of them count.
        """
        ...


def load_metric(name: str, output: str | None = None) -> Metric:
    """The metric of that name.

    Args:
        name: one of `BUILT_IN`, with `@output` where it shall look at that output; or
            `module:function` or `file.py:function` of the user's. A function takes
            `(outputs, labels)` and returns a number, which is averaged; an object, or a class
            without arguments, has `score` and `aggregate` (and `higher_is_better`, `averaged`
            where True and False do not fit). It is called by the function's name.
        output: the same as `@output`.

    Raises:
        SamplesError: there is no such metric, or the user's code does not load.
    """
    if is_reference(name):
        return _user_metric(name)
    plain, _, at = name.partition("@")
    output = output or at or None
    full = f"{plain}@{output}" if output else plain
    match plain:
        case "top1" | "top5":
            return _Top(name=full, output=output, k=int(plain[3:]))
        case "accuracy":
            return _Accuracy(name=full, output=output)
        case "f1":
            return _MacroF1(name=full, output=output)
        case "iou":
            return _Iou(name=full, output=output)
        case "spearman":
            return _Spearman(name=full, output=output)
        case "pair_cosine_spearman":
            return _PairCosineSpearman(name=full, output=output)
    raise SamplesError(
        f"no metric {name!r}{did_you_mean(plain, BUILT_IN)} Legal: {', '.join(BUILT_IN)}, "
        "module:function or file.py:function"
    )


def own_names(references: Iterable[str]) -> tuple[str, ...]:
    """Names of those metrics among `references` that are the user's own code.

    Raises:
        SamplesError: as `load_metric`.
    """
    return tuple(load_metric(name).name for name in references if is_reference(name))


def mean_score(scores: Floats, rows: Indices) -> float:
    """The `aggregate` of metrics that average."""
    return float(scores[rows, 0].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Top:
    """Share of rows whose class is among the k highest scores; ties go to the lower index."""

    name: str
    output: str | None
    k: int
    higher_is_better: bool = True
    averaged: bool = True

    def score(self, outputs: Arrays, labels: Arrays) -> float:
        values = _output(self.name, self.output, outputs)
        if values.ndim == 0 or values.shape[-1] < 2:
            raise SamplesError(f"{self.name}: output of shape {list(values.shape)} has no classes")
        truth = _truth(self.name, self.output, labels, values.shape[:-1])
        # Wider than any float type, and negatable for unsigned ones.
        best = np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., : self.k]
        return float((best == truth[..., None]).any(axis=-1).mean())

    aggregate = staticmethod(mean_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accuracy:
    """Share of right class numbers; see `_classes` for what counts as the prediction."""

    name: str
    output: str | None
    higher_is_better: bool = True
    averaged: bool = True

    def score(self, outputs: Arrays, labels: Arrays) -> float:
        predicted, truth = _classes(self.name, self.output, outputs, labels)
        return float((predicted == truth).mean())

    aggregate = staticmethod(mean_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MacroF1:
    """Mean over classes of F1; classes are those that occur as truth or prediction.

    Negative labels (an ignore index) do not count.
    """

    name: str
    output: str | None
    higher_is_better: bool = True
    averaged: bool = False

    def score(self, outputs: Arrays, labels: Arrays) -> Floats:
        predicted, truth = _classes(self.name, self.output, outputs, labels)
        pairs = np.stack([predicted.ravel(), truth.ravel()], axis=-1)
        return pairs[pairs[:, 1] >= 0].astype(np.float64).ravel()

    def aggregate(self, scores: Floats, rows: Indices) -> float:
        pairs = scores[rows].reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs[:, 0])].astype(np.int64)
        if not pairs.size:
            return float("nan")
        predicted, truth = pairs.T
        classes = int(pairs.max()) + 1
        hits = np.bincount(truth[predicted == truth], minlength=classes)
        seen = np.bincount(predicted, minlength=classes) + np.bincount(truth, minlength=classes)
        return float((2.0 * hits[seen > 0] / seen[seen > 0]).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Iou:
    """Intersection over union of a map cut at 0.5 and a 0/1 mask; 1 where both are empty."""

    name: str
    output: str | None
    higher_is_better: bool = True
    averaged: bool = True

    def score(self, outputs: Arrays, labels: Arrays) -> float:
        values = _output(self.name, self.output, outputs)
        found = np.asarray(values >= _MASK_THRESHOLD)
        mask = _truth(self.name, self.output, labels, found.shape) >= _MASK_THRESHOLD
        union = int((found | mask).sum())
        return float((found & mask).sum() / union) if union else 1.0

    aggregate = staticmethod(mean_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spearman:
    """Rank correlation between predicted numbers and labels."""

    name: str
    output: str | None
    higher_is_better: bool = True
    averaged: bool = False

    def score(self, outputs: Arrays, labels: Arrays) -> Floats:
        values = _output(self.name, self.output, outputs)
        truth = _truth(self.name, self.output, labels, values.shape)
        return np.stack([values.ravel(), truth.ravel()], axis=-1).astype(np.float64).ravel()

    def aggregate(self, scores: Floats, rows: Indices) -> float:
        return rank_correlation(scores[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairCosineSpearman:
    """Rank correlation between the cosine of two embeddings (output [2, width]) and the label."""

    name: str
    output: str | None
    higher_is_better: bool = True
    averaged: bool = False

    def score(self, outputs: Arrays, labels: Arrays) -> Floats:
        values = _output(self.name, self.output, outputs).astype(np.float64)
        if values.ndim != 2 or len(values) != 2:
            raise SamplesError(
                f"{self.name}: output of shape {list(values.shape)}; a sample is a pair, [2, width]"
            )
        norms = float(np.linalg.norm(values[0]) * np.linalg.norm(values[1]))
        cosine = float(values[0] @ values[1]) / norms if norms else 0.0
        truth = _truth(self.name, self.output, labels, ())
        return np.array([cosine, truth.item()], dtype=np.float64)

    def aggregate(self, scores: Floats, rows: Indices) -> float:
        return rank_correlation(scores[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class _UserMetric:
    """The user's function or object; whatever it raises becomes a `SamplesError` with its line."""

    name: str
    reference: str
    higher_is_better: bool
    averaged: bool
    scorer: Callable[[dict[str, Array], dict[str, Array]], Any]
    aggregator: Callable[[Floats, Indices], Any]

    def score(self, outputs: Arrays, labels: Arrays) -> Floats:
        with user_code(self.reference):
            numbers = np.atleast_1d(
                np.asarray(self.scorer(dict(outputs), dict(labels)), np.float64)
            )
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise SamplesError(f"{self.reference} returned {numbers}; expected a finite number")
        return numbers

    def aggregate(self, scores: Floats, rows: Indices) -> float:
        with user_code(self.reference):
            return float(self.aggregator(scores, rows))


def _user_metric(reference: str) -> Metric:
    found = load_object(reference)
    with user_code(reference):
        brought = found() if isinstance(found, type) else found
    name = reference.rpartition(":")[2]
    higher = bool(getattr(brought, "higher_is_better", True))
    if hasattr(brought, "score") and hasattr(brought, "aggregate"):
        return _UserMetric(
            name=name,
            reference=reference,
            higher_is_better=higher,
            averaged=bool(getattr(brought, "averaged", False)),
            scorer=brought.score,
            aggregator=brought.aggregate,
        )
    if not callable(brought):
        raise SamplesError(
            f"{reference} is a {type(brought).__name__}; expected a function (outputs, labels) -> "
            "number, or an object with score and aggregate"
        )
    return _UserMetric(
        name=name,
        reference=reference,
        higher_is_better=higher,
        averaged=True,
        scorer=brought,
        aggregator=mean_score,
    )


def rank_correlation(pairs: Floats) -> float:
    """Spearman's correlation of rows of pairs, equal values sharing their mean rank.

    NaN where one side is constant: there is no order to agree with.
    """
    pairs = pairs.reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    left, right = (_ranks(column) for column in pairs.T)
    spread = float(left.std() * right.std()) if len(pairs) else 0.0
    if spread == 0.0:
        return float("nan")
    return float(((left - left.mean()) * (right - right.mean())).mean() / spread)


def _ranks(values: Floats) -> Floats:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2.0)[group]
    return ranks


def _output(metric: str, wanted: str | None, outputs: Arrays) -> NDArray[Any]:
    """The output a metric looks at: the named one, else the first float one, else the first."""
    if wanted is not None:
        if wanted not in outputs:
            raise SamplesError(
                f"{metric}: no output {wanted!r}{did_you_mean(wanted, tuple(outputs))} "
                f"Outputs: {', '.join(outputs)}"
            )
        return outputs[wanted]
    floats = [name for name, value in outputs.items() if value.dtype.kind == "f"]
    chosen = floats[:1] if floats else list(outputs)[:1]
    return outputs[chosen[0]]


def _truth(metric: str, output: str | None, labels: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    """The label of that output (or `label`, or the only one) in the shape of the prediction."""
    if not labels:
        raise SamplesError(f"{metric} needs labels; add an array named 'label' to the samples")
    name = next((key for key in (output, "label") if key in labels), None)
    if name is None:
        if len(labels) > 1:
            raise SamplesError(
                f"{metric}: which label? There are {', '.join(labels)}; write e.g. "
                f"{metric.partition('@')[0]}@{next(iter(labels))}"
            )
        name = next(iter(labels))
    label: NDArray[Any] = labels[name]
    if label.dtype.kind not in "biuf":
        raise SamplesError(f"{metric}: label {name!r} has dtype {label.dtype}; expected numbers")
    if label.size != int(np.prod(shape)):
        raise SamplesError(
            f"{metric}: label {name!r} has shape {list(label.shape)}; expected {list(shape)}"
        )
    return label.reshape(shape)


def _classes(
    metric: str, output: str | None, outputs: Arrays, labels: Arrays
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predicted and true class numbers in one shape.

    Integer and bool outputs are class numbers already. Float outputs are class scores along the
    last axis; where there is one number for each label, it is a probability cut at 0.5.
    """
    values = _output(metric, output, outputs)
    if values.dtype.kind in "biu":
        return values, _truth(metric, output, labels, values.shape)
    if values.ndim == 0 or values.shape[-1] < 2:
        found = np.asarray(values >= _MASK_THRESHOLD).astype(np.int64)
        return found, _truth(metric, output, labels, values.shape)
    return values.argmax(axis=-1), _truth(metric, output, labels, values.shape[:-1])
