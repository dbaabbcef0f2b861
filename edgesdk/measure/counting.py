"""Where nothing can be timed: the instructions of a run, and a candidate against its baseline by them.

They are a deterministic stand-in for time: they know which kernels an engine takes, and nothing of
caches, of memory's speed, or of how many instructions a core executes at once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from edgesdk.device.base import Device, Place
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.series import spread_out
from edgesdk.measure.settings import Inputs, Settings, Target

_WARM_RUNS, _RUNS = 2, 5
"""Of each input. Two processes count nearly the same; within one the share of the Python around the
engine varies by some hundreds, and now and then by a tenth of a small model's run, more often where the
machine is busy. What disturbs only adds, so of the runs the second fewest is taken."""
_SETTLED_AFTER = 12
"""Runs of all inputs together. The interpreter rewrites its own code while it runs for the first times
(PEP 659); of a keyword spotter on an emulated Haswell runs 5 to 9 took 0.9 % more than later ones."""
_TOLD = ("cpu", "arch", "python")
"""Facts of the device that go into the record; the rest is that of the machine that emulates it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was counted of one artifact.

    Attributes:
        runs: of each input, the instructions of every run.
        environment: facts about the device and the run, with the engine's version there.
    """

    runs: tuple[tuple[int, ...], ...]
    environment: dict[str, str]

    @property
    def mean(self) -> float:
        """Instructions of a run, the mean over the inputs."""
        return statistics.fmean(map(_few, self.runs))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(runs=tuple(map(tuple, data["runs"])), environment=data["environment"])


def count_runs(
    target: Target, inputs: Inputs, settings: Settings, device: Device, folder: Path
) -> Counts:
    """Instructions of an artifact's runs, in one thread.

    Args:
        target: what to run.
        inputs: what to run it on.
        settings: how many inputs, and the limits of a single answer.
        device: where; it must count instructions.
        folder: takes the log of the runner.

    Raises:
        StepFailed: the runner crashed, hung or took too much memory; it is not left behind.
        DeviceError: the device does not count.
        EdgeSdkError: an adapter refused, with its own error.
    """
    sizes = [row.stat().st_size for row in inputs.rows]
    rows = [inputs.rows[row] for row in spread_out(sizes, settings.rows)]
    log = folder / "runner.log"
    with device.start_runner(log, threads=1, memory_bytes=settings.memory_bytes) as runner:
        request = {
            "do": "open",
            "backend": target.backend,
            "artifact": target.artifact.resolve(),
            "execution": target.execution,
            "threads": 1,
            "cores": [],
            "files": [file.resolve() for file in target.all_files()],
            "names": {name: inputs.prefix + name for name in inputs.names},
            "rows": [row.resolve() for row in rows],
            "first": len(rows) // 2,
        }
        facts = runner.ask({"do": "facts"}, timeout_s=settings.timeout_s)["facts"]
        version = runner.ask(request, timeout_s=settings.timeout_s)["version"]
        every = list(range(len(rows)))
        # The first runs of an input prepare memory for its shapes.
        warm = max(_WARM_RUNS, math.ceil(_SETTLED_AFTER / len(rows)))
        runner.ask({"do": "count", "rows": every, "runs": warm}, timeout_s=settings.timeout_s)
        counts: list[int] = runner.ask(
            {"do": "count", "rows": every, "runs": _RUNS}, timeout_s=settings.timeout_s
        )["instructions"]
    return Counts(
        runs=tuple(tuple(counts[row :: len(rows)]) for row in every),
        environment={
            **{name: facts[name] for name in _TOLD if name in facts},
            target.backend: version,
            "device": device.name,
            "execution": target.execution,
            "counted_inputs": str(len(rows)),
        },
    )


def compare_counts(
    baseline: tuple[Target, Counts], candidate: tuple[Target, Counts], device: Place
) -> tuple[Measurement, Measurement]:
    """Baseline and candidate, by what `count_runs` found of each on a device.

    Returns:
        The baseline's measurement, whose ratio is exactly 1, and the candidate's: the ratio of the
        instructions of a run, with the least and the most that all but the outermost runs allow: now
        and then the interpreter does some work of its own in one.
    """
    old, new = baseline[1].runs, candidate[1].runs
    ratio = Interval(
        value=baseline[1].mean / candidate[1].mean,
        low=sum(map(_few, old)) / sum(map(_many, new)),
        high=sum(map(_many, old)) / sum(map(_few, new)),
    )
    same = Interval(value=1.0, low=1.0, high=1.0)
    return _result(*baseline, same, device), _result(*candidate, ratio, device)


def _few(runs: Sequence[int]) -> int:
    return sorted(runs)[1]


def _many(runs: Sequence[int]) -> int:
    return sorted(runs)[-2]


def _result(target: Target, counts: Counts, ratio: Interval, device: Place) -> Measurement:
    return Measurement(
        speedup=ratio,
        stable=True,
        artifact_bytes=sum(file.stat().st_size for file in target.all_files()),
        threads=1,
        evidence=device.evidence,
        instructions=counts.mean,
        environment=counts.environment,
    )
