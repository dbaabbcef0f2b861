"""Measuring one candidate beside the baseline, and keeping what was found.

Times are of a pair: both were taken in the same minutes. Instructions are of one artifact, and are
counted once. Where nothing runs as on the device, sizes and what compilers state are all there is.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgesdk.bench import Bench, Built
from edgesdk.evidence import Evidence
from edgesdk.files import read_json, write_json
from edgesdk.measure.counting import Counts, compare_counts
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.settings import Inputs
from edgesdk.samples import INPUT_PREFIX

TIMED_ROWS = 8
"""Evaluation rows that latency is measured over, cycled."""

_MEASURED, _COUNTED = "measurement.json", "counts.json"


def measure_pair(
    bench: Bench, baseline: Built, built: Built, *, attempt: int = 1, hopeless: float | None = None
) -> tuple[Measurement, Measurement, bool]:
    """The measurements of both; the third value says whether that was earlier.

    Args:
        bench: what the trials share.
        baseline: what speed is compared with.
        built: what is compared.
        attempt: another number measures anew.
        hopeless: a speedup surely below this is not measured any closer; None for the settings'.

    Raises:
        StepFailed: a runner crashed, hung, took too much memory, or there was no time left.
        EdgeSdkError: an adapter or the device refused.
    """
    match bench.device.tells:
        case "instructions":
            before, after, cached = _counted(bench, baseline, built)
        case "sizes":
            before, after, cached = *_weighed(bench, baseline, built), True
        case _:
            before, after, cached = _timed(bench, baseline, built, attempt, hopeless)
    if bench.evidence != Evidence.MEASURED:
        before, after = (replace(item, evidence=bench.evidence) for item in (before, after))
    return before, after, cached


def _timed(
    bench: Bench, baseline: Built, built: Built, attempt: int, hopeless: float | None
) -> tuple[Measurement, Measurement, bool]:
    """Both measured alternately."""
    settings = bench.settings
    settings = settings if hopeless is None else replace(settings, hopeless=hopeless)
    key = bench.workshop.cache.key(
        "measure",
        baseline=bench.identity(baseline.choice, baseline.converted),
        candidate=bench.identity(built.choice, built.converted),
        rows=bench.samples.fingerprint,
        machine=bench.machine_key,
        settings=asdict(bench.settings),  # without what the best so far says
        attempt=attempt,
    )
    cached = bench.workshop.has(key)
    clock = bench.workshop.clock
    work = (("measure", built.choice.backend),)

    def build(folder: Path) -> None:
        with clock.bounding(work):
            before, after = bench.meter.pair(
                baseline.target(bench.threads),
                built.target(bench.threads),
                _inputs(bench),
                settings,
                folder,
                left_s=lambda: clock.left_s,
            )
        found = {"before": before.to_json(), "after": after.to_json()}
        write_json(folder / _MEASURED, {**found, "hopeless": settings.hopeless})

    folder = bench.workshop.folder(key, build)
    data = read_json(folder / _MEASURED)
    if cached and not _knows_enough(data, settings.hopeless) and clock.allows(work):
        data = read_json(bench.workshop.folder(key, build, again=True) / _MEASURED)
        cached = False
    before, after = (Measurement.from_json(data[side]) for side in ("before", "after"))
    return before, after, cached


def _counted(bench: Bench, baseline: Built, built: Built) -> tuple[Measurement, Measurement, bool]:
    """Instructions of both, each counted by itself."""
    cached = True
    found = []
    for side in (baseline, built):
        key = bench.workshop.cache.key(
            "counted",
            artifact=bench.identity(side.choice, side.converted),
            rows=bench.samples.fingerprint,
            machine=bench.machine_key,
            inputs=bench.settings.rows,
        )
        cached = cached and bench.workshop.has(key)
        found.append((side.target(1), _counts(bench, side, key)))
    before, after = compare_counts(found[0], found[1], bench.device)
    return before, after, cached


def _counts(bench: Bench, side: Built, key: str) -> Counts:
    clock = bench.workshop.clock

    def build(folder: Path) -> None:
        with clock.bounding((("measure", side.choice.backend),)):
            counts = bench.meter.counts(
                side.target(1),
                _inputs(bench),
                bench.settings,
                folder,
                left_s=lambda: clock.left_s,
            )
        write_json(folder / _COUNTED, counts.to_json())

    folder = bench.workshop.folder(key, build)
    return Counts.from_json(read_json(folder / _COUNTED))


def _weighed(bench: Bench, baseline: Built, built: Built) -> tuple[Measurement, Measurement]:
    """Sizes of both, and what compilers state of their runs."""
    same = Interval(value=1.0, low=1.0, high=1.0)
    before, after = (_stated(bench, side) for side in (baseline, built))
    ratio = before.artifact_bytes / max(after.artifact_bytes, 1)
    return (
        replace(before, speedup=same),
        replace(after, speedup=Interval(value=ratio, low=ratio, high=ratio)),
    )


def _stated(bench: Bench, side: Built) -> Measurement:
    stated = side.program or {}
    files = side.target(1).all_files()
    return Measurement(
        speedup=Interval(value=1.0, low=1.0, high=1.0),
        stable=True,
        artifact_bytes=stated.get("bytes") or sum(file.stat().st_size for file in files),
        threads=1,
        evidence=bench.evidence,
        estimate_ms=stated.get("estimate_ms"),
        cycles=stated.get("cycles"),
        working_bytes=stated.get("memory_bytes"),
        environment={"device": bench.device.name, "execution": side.choice.recipe.execution},
    )


def _inputs(bench: Bench) -> Inputs:
    return Inputs(
        names=tuple(info.name for info in bench.model.inputs),
        rows=bench.samples.evaluation.subset(TIMED_ROWS).paths(),
        prefix=INPUT_PREFIX,
    )


def _knows_enough(found: dict[str, Any], hopeless: float) -> bool:
    """Whether an earlier measurement went as far as one would that may end below `hopeless`."""
    high = float(found["after"]["speedup"]["high"])
    return high >= found["hopeless"] or high < hopeless
