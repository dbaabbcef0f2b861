"""What the samples say about each quality floor: PASS, FAIL or UNDECIDED, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from edgesdk.bounds import UNBOUNDED, Bounds, Tails
from edgesdk.budget import CLOSENESS, Floor
from edgesdk.closeness import OutputRecord
from edgesdk.comparison import Record
from edgesdk.errors import BudgetError
from edgesdk.figures import (
    Figure,
    agreement_figure,
    cosine_figure,
    decibel_figure,
    level_figure,
)
from edgesdk.metrics import Metric
from edgesdk.usercode import did_you_mean

_ROUNDING = 1e-12


class Verdict(StrEnum):
    """What the samples say about a floor."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorResult:
    """What the samples say about one floor on one output or metric.

    Attributes:
        floor: as the user wrote it, or the default.
        subject: the output or metric.
        value: in the floor's own terms: the value, the change, or the change as a share.
        bound: what it must keep, in the same terms.
        low, high: one-sided 95 % bounds of the value, stricter where a check has several looks;
            None where the rows allow none.
        samples_needed: rows that would likely decide, when undecided; None where more rows are not
            expected to help or nothing can be said.
        reason: the verdict in a sentence.
    """

    floor: str
    subject: str
    verdict: Verdict
    value: float | None
    bound: float
    low: float | None
    high: float | None
    rows: int
    samples_needed: int | None
    reason: str


def default_floors(record: Record, metrics: Sequence[Metric]) -> tuple[Floor, ...]:
    """What is asked when the user asks nothing.

    With metrics: each may get worse by 1 % of the original's value. Without: cosine of at least
    0.99 on every float output, or 99 % equal values where no output is float.
    """
    if metrics:
        return tuple(
            Floor(
                quantity=metric.name,
                kind="relative",
                bound=-0.01 if metric.higher_is_better else 0.01,
                text=f"{metric.name}={'-' if metric.higher_is_better else '+'}1%",
            )
            for metric in metrics
        )
    if any(output.is_float for output in record.outputs.values()):
        return (Floor(quantity="cosine", kind="value", bound=0.99, text="cosine=0.99"),)
    return (Floor(quantity="agreement", kind="value", bound=0.99, text="agreement=0.99"),)


def check_floor(
    floor: Floor,
    record: Record,
    metrics: Sequence[Metric],
    changes: Mapping[str, Figure],
    tails: Tails,
) -> list[FloorResult]:
    """The results of one floor: one for each output it is about, or one for its metric.

    Args:
        floor: what must be kept.
        record: of a comparison.
        metrics: those the comparison scored.
        changes: `change_figure` of each, by its name.
        tails: how sure a verdict must be.
    """
    if floor.quantity not in CLOSENESS:
        metric = _metric_of(floor, metrics)
        return [_check_metric(floor, record, metric, changes[metric.name], tails)]
    results = []
    for name, output in _outputs_of(floor, record):
        subject = f"{floor.quantity} of {name}"
        asked = _Asked(floor=floor, subject=subject, bound=floor.bound, tails=tails)
        if floor.quantity == "max_error":
            results.append(replace(asked, at_least=False).answer(_worst(output), equal=False))
        else:
            figure = _closeness_figure(floor.quantity, output)
            results.append(asked.answer(figure, equal=output.is_equal()))
    return results


def _worst(output: OutputRecord) -> Figure:
    """The largest error seen; what unseen rows may do beyond it has no bound, so it has none."""
    worst = float(output.column("max_error").max())
    return Figure(value=worst, rows=len(output.table), bounds=lambda _: (worst, worst))


def _closeness_figure(quantity: str, output: OutputRecord) -> Figure:
    figures = {"cosine": cosine_figure, "sqnr": decibel_figure, "agreement": agreement_figure}
    figure = figures[quantity](output)
    if figure is None:
        raise BudgetError(f"this output has no {quantity}")
    return figure


def _outputs_of(floor: Floor, record: Record) -> list[tuple[str, OutputRecord]]:
    """The outputs a closeness floor is about; those that broke are judged by that alone."""
    if floor.output is not None and floor.output not in record.outputs:
        legal = tuple(record.outputs)
        raise BudgetError(
            f"floor {floor.text!r}: no output {floor.output!r}{did_you_mean(floor.output, legal)} "
            f"Outputs: {', '.join(legal)}"
        )
    named = {
        name: output for name, output in record.outputs.items() if floor.output in (None, name)
    }
    fitting = [
        (name, output)
        for name, output in named.items()
        if output.problem or _has(floor.quantity, output)
    ]
    if not fitting:
        raise BudgetError(
            f"floor {floor.text!r}: {', '.join(named)} has no {floor.quantity}; cosine, sqnr "
            "and max_error are for float outputs, agreement for classes along the last axis and "
            "for integers"
        )
    return [(name, output) for name, output in fitting if not output.problem]


def _has(quantity: str, output: OutputRecord) -> bool:
    return output.is_float if quantity != "agreement" else agreement_figure(output) is not None


def _metric_of(floor: Floor, metrics: Sequence[Metric]) -> Metric:
    # A user's metric goes by the name of its function.
    wanted = str(floor.metric).rpartition(":")[2] if ":" in floor.quantity else str(floor.metric)
    named = [metric for metric in metrics if metric.name == wanted]
    # `top1` finds `top1@logits` where that is the only one.
    named = named or [metric for metric in metrics if metric.name.partition("@")[0] == wanted]
    if len(named) == 1:
        return named[0]
    scored = ", ".join(metric.name for metric in metrics) or "none"
    raise BudgetError(f"floor {floor.text!r}: no such metric was scored; scored: {scored}")


def _check_metric(
    floor: Floor, record: Record, metric: Metric, change: Figure, tails: Tails
) -> FloorResult:
    scores = record.metrics[metric.name]
    at_least = metric.higher_is_better
    asked = _Asked(
        floor=floor, subject=metric.name, bound=floor.bound, tails=tails, at_least=at_least
    )
    if floor.kind == "value":
        return asked.answer(level_figure(metric, scores.candidate), equal=False)
    if (floor.bound > 0) == at_least and floor.bound:
        better, sign = ("higher", "-") if at_least else ("lower", "+")
        raise BudgetError(
            f"floor {floor.text!r}: {metric.name} is better when {better}; what it may lose is "
            f"written with {sign}, e.g. {metric.name}={sign}1%"
        )
    equal = all(output.is_equal() for output in record.outputs.values())
    asked = replace(asked, subject=f"change of {metric.name}")
    if floor.kind == "points":
        return asked.answer(change, equal=equal)
    whole = abs(level_figure(metric, scores.reference).value)
    return asked.answer(_share(change, whole), equal=equal)


def _share(change: Figure, whole: float) -> Figure:
    """A change as a share of the original's value; that value's own error is of second order."""
    if not whole > 0:
        return replace(change, value=math.nan)

    def bounds(tail: float) -> Bounds:
        low, high = change.bounds(tail)
        return low / whole, high / whole

    return replace(change, value=change.value / whole, bounds=bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A floor on one subject, waiting for the figure."""

    floor: Floor
    subject: str
    bound: float
    tails: Tails
    at_least: bool = True

    def answer(self, figure: Figure, *, equal: bool) -> FloorResult:
        """The verdict on a figure; `equal` tells that rows equal the original within rounding."""
        if math.isnan(figure.value):
            why = "these rows give it no value (a constant column, or an original that scores 0)"
            return self._result(figure, UNBOUNDED, Verdict.UNDECIDED, f"{self.subject}: {why}")
        low, high = self._bounds(figure)
        good, bad = (low, high) if self.at_least else (-high, -low)
        bound = self.bound if self.at_least else -self.bound
        value = figure.value if self.at_least else -figure.value
        head = f"{self.subject} is {self._show(figure.value)}"
        if equal and value >= bound:
            tail = "every row equals the float original within rounding"
            return self._result(figure, (low, high), Verdict.PASS, f"{head}; {tail}")
        edge = "above" if self.at_least else "below"
        other = "below" if self.at_least else "above"
        asked = f"the floor is {self.floor.text.rpartition('=')[2].strip()}"
        if good >= bound - _ROUNDING:
            shown = self._show(low if self.at_least else high)
            text = f"{head}, with 95 % confidence {edge} {shown}; {asked}"
            return self._result(figure, (low, high), Verdict.PASS, text)
        if bad < bound - _ROUNDING:
            shown = self._show(high if self.at_least else low)
            text = f"{head}, with 95 % confidence {other} {shown}; {asked}"
            return self._result(figure, (low, high), Verdict.FAIL, text)
        needed = _samples_needed(figure, value - bound, value - good)
        text = (
            f"{head}; {figure.rows} rows place it only between {self._show(low)} and "
            f"{self._show(high)}; {asked}"
        )
        text += f"; about {needed:,} rows would tell" if needed else ""
        return self._result(figure, (low, high), Verdict.UNDECIDED, text, needed)

    def _bounds(self, figure: Figure) -> Bounds:
        """The bound that PASS rests on and the one that FAIL rests on, the lower first."""
        sides = (self.tails.passing, self.tails.failing)
        low, high = sides if self.at_least else reversed(sides)
        return figure.bounds(low)[0], figure.bounds(high)[1]

    def _show(self, value: float) -> str:
        if self.floor.kind == "relative":
            return f"{100.0 * value:+.2f} %"
        return f"{value:.5g}" if self.floor.kind == "value" else f"{value:+.5g}"

    def _result(
        self,
        figure: Figure,
        bounds: Bounds,
        verdict: Verdict,
        reason: str,
        samples_needed: int | None = None,
    ) -> FloorResult:
        return FloorResult(
            floor=self.floor.text,
            subject=self.subject,
            verdict=verdict,
            value=finite_or_none(figure.value),
            bound=self.bound,
            low=finite_or_none(bounds[0]),
            high=finite_or_none(bounds[1]),
            rows=figure.rows,
            samples_needed=samples_needed,
            reason=reason,
        )


def _samples_needed(figure: Figure, margin: float, width: float) -> int | None:
    """Rows at which the bound would reach the floor if the figure stays as it is."""
    if margin <= 0 or not math.isfinite(width):
        return None
    ratio = width / margin
    return max(figure.rows + 1, math.ceil(figure.rows * (ratio if figure.unseen else ratio**2)))


def broken_outputs(record: Record) -> list[FloorResult]:
    """A failure for every output that holds what no floor can excuse."""
    results = []
    for name, output in record.outputs.items():
        reason = output.problem
        if not reason and output.bad_values:
            reason = f"{output.bad_values} NaN or infinite values where the original has none"
        if reason:
            results.append(
                FloorResult(
                    floor="finite, and of the original's shape and dtype",
                    subject=name,
                    verdict=Verdict.FAIL,
                    value=None,
                    bound=0.0,
                    low=None,
                    high=None,
                    rows=record.rows,
                    samples_needed=None,
                    reason=f"output {name}: {reason}",
                )
            )
    return results


def finite_or_none(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else None
