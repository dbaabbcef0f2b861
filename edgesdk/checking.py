"""Is a candidate good enough? Look at ever more rows until that is certain, or until all were seen.

Every look runs only rows that no earlier one ran, as a step of its own, so that it is cached like any
other and a check that stopped early is completed from where it was. `looks.py` says when to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesdk.bench import Bench, Built, Original, metric_identity
from edgesdk.clock import Work
from edgesdk.comparison import Record, merge
from edgesdk.files import read_json, write_json
from edgesdk.looks import Look, plan_looks, shuffled
from edgesdk.metrics import load_metric
from edgesdk.quality import Quality, judge
from edgesdk.workshop import Finished

GOLDEN_ROWS = 3
"""Evaluation rows whose outputs are kept for the bundle."""

_JUDGED = "quality.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check found.

    Attributes:
        built: what was checked, with the steps that did it.
        cached: nothing had to be run for it.
    """

    quality: Quality
    built: Built
    cached: bool


def check(bench: Bench, built: Built, original: Original, *, like: Sequence[Work] = ()) -> Checked:
    """Look at growing parts of the evaluation rows until the verdict is certain.

    Args:
        bench: what the trials share.
        built: what to check.
        original: what it is compared with.
        like: this work and what follows, for the clock.

    Raises:
        StepFailed: a look crashed, hung, ran out of memory or of time.
        BudgetError: a floor names an output or metric that is not there.
        SamplesError: a metric cannot score these outputs and labels.
    """
    cached = True
    for look in plan_looks(len(bench.samples.evaluation)):
        checked = _look(bench, built, original, look, like)
        built, cached = checked.built, cached and checked.cached
        if look.settles(checked.quality.verdict, bench.budget.floors):
            break
    return replace(checked, cached=cached)


def check_rest(bench: Bench, built: Built, original: Original) -> Checked:
    """Complete a check that stopped early: its verdict over all evaluation rows.

    Raises:
        StepFailed: as for `check`.
        SamplesError: as for `check`.
    """
    *_, last = plan_looks(len(bench.samples.evaluation))
    return _look(bench, built, original, last, ())


def is_partial(bench: Bench, quality: Quality | None) -> bool:
    """Whether a verdict is of some of the evaluation rows only."""
    return quality is not None and quality.rows < len(bench.samples.evaluation)


def _look(
    bench: Bench, built: Built, original: Original, look: Look, like: Sequence[Work]
) -> Checked:
    """Run what the look has beyond the rows that were seen, and judge all of them."""
    order = shuffled(len(bench.samples.evaluation))
    seen = sum(done.response["record"]["rows"] for done in built.checks)
    done = _run(bench, built, original, order[seen : look.rows], like)
    built = replace(
        built, checks=(*built.checks, done), outputs=built.outputs or done.folder / "golden"
    )
    return Checked(
        quality=_judged(bench, built.checks, look, order),
        built=built,
        cached=done.cached,
    )


def _run(
    bench: Bench, built: Built, original: Original, rows: Sequence[int], like: Sequence[Work]
) -> Finished:
    shared: dict[str, Any] = {"look": list(rows), "golden": 0 if built.checks else GOLDEN_ROWS}
    if bench.compared_rows and not built.checks:
        shared["kept"] = bench.compared_rows
    return bench.workshop.step(
        "check",
        {
            **bench.opening(built.choice, built.converted),
            **shared,
            "rows": bench.samples.evaluation,
            "reference": original.reference.folder / "outputs",
            "metrics": list(bench.metrics),
        },
        {
            **bench.identity(built.choice, built.converted),
            **shared,
            "rows": bench.samples.fingerprint,
            "reference": original.reference.key,
            "metrics": [metric_identity(name) for name in bench.metrics],
        },
        device=bench.device,
        like=built.choice.backend,
        then=like[1:],
    )


def _judged(bench: Bench, parts: Sequence[Finished], look: Look, order: Sequence[int]) -> Quality:
    """The verdict on what was seen; kept, as the bounds of some metrics take seconds."""
    floors = bench.budget.floors

    def build(folder: Path) -> None:
        records = [Record.from_json(part.response["record"]) for part in parts]
        record = merge(records, order[: sum(item.rows for item in records)])
        metrics = [load_metric(metric) for metric in bench.metrics]
        quality = judge(
            record, floors, metrics, synthetic=bench.samples.synthetic, tails=look.tails
        )
        if record.rows < len(order):
            seen = f"after {record.rows:,} of {len(order):,} rows"
            quality = replace(quality, reason=f"{quality.reason} ({seen})")
        write_json(folder / _JUDGED, quality.to_json())

    key = bench.workshop.cache.key(
        "judge",
        checks=[part.key for part in parts],
        passing=look.tails.passing,
        failing=look.tails.failing,
        floors=[floor.text for floor in floors],
        metrics=[metric_identity(name) for name in bench.metrics],
        synthetic=bench.samples.synthetic,
    )
    return Quality.from_json(read_json(bench.workshop.folder(key, build) / _JUDGED))
