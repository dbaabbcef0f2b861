"""What the sides of a measurement share, and one side: a runner that rests unless it is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from edgesdk.device.base import Device, Runner
from edgesdk.measure.environment import changes
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.sensing import WATCHED, Sensed, Watched, summarise_sensors, throttled
from edgesdk.measure.series import Window, is_settled, remarks, spread_out, summarise
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.profile_values import Sensor

_SETTLE_S = 0.02
"""Runs that are not timed after a runner was frozen: its caches and the clock come back."""
_VARIED_CYCLE_S = 1.0
"""A cycle over inputs of different shapes may take this long, to have more of them in it."""
_SLOW_MS = 1000.0
"""From here on a window is one cycle."""
_COMMON_CPU_NOTE = "runs are not pinned to cores on this system"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """What one fresh process took to get ready.

    Attributes:
        import_ms, load_ms, first_run_ms: as in `Measurement`.
        base_mib, peak_load_mib: as in `Measurement`.
    """

    import_ms: float
    load_ms: float
    first_run_ms: float
    base_mib: float
    peak_load_mib: float


class Bench:
    """A device made ready for one measurement. A context manager: leaving it ends all runners.

    Attributes:
        cores: what runs are pinned to.
        rows: the inputs chosen to stand for all.
        cycle: which of these a window goes through; known once the first side was opened.
    """

    def __init__(
        self, inputs: Inputs, settings: Settings, device: Device, folder: Path, *, threads: int
    ) -> None:
        self.settings, self.device, self.folder, self.inputs = settings, device, folder, inputs
        sizes = [row.stat().st_size for row in inputs.rows]
        self.rows = [inputs.rows[row] for row in spread_out(sizes, settings.rows)]
        self.cycle: list[int] | None = None
        self.own: list[int] = []
        self._threads = threads
        self._runners = ExitStack()

    def __enter__(self) -> Self:
        try:
            # Beside the sides there is a runner that opens nothing and reads the device's clocks.
            self._observer = self.start_runner("observer", threads=1)
            told = self._ask({"do": "facts"})
            self.own += told["own"]
            self.facts: dict[str, str] = told["facts"]
            self.free_mib: float | None = told["free_mib"]
            if self.settings.cores is None:
                self.cores: list[int] = self._ask({"do": "cores", "count": self._threads})["cores"]
            else:
                self.cores = list(self.settings.cores)
            self._rest = self._sense(self.settings.sensors, 0.0)
            self._watched = _power_sensors(self.settings.sensors, self._rest)
            if self._watched:
                self._rest = self._sense(self.settings.sensors, self.settings.sense_seconds)
            self._before = self._ask({"do": "counters"})
        except BaseException:
            self._runners.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._runners.close()

    def start_runner(self, label: str, *, threads: int) -> Runner:
        """A runner that ends with the bench at the latest."""
        runner = self.device.start_runner(
            self.folder / f"{label}.log", threads=threads, memory_bytes=self.settings.memory_bytes
        )
        return self._runners.enter_context(runner)

    def choose_cycle(self, groups: Sequence[int], run_ms: float) -> None:
        """Fix, once, which rows a window goes through, so that one cycle fits into it."""
        if self.cycle is None:
            varied = len(set(groups)) > 1
            limit_s = max(self.settings.window_s, _VARIED_CYCLE_S if varied else 0.0)
            fitting = max(1, int(limit_s * 1000 / run_ms))
            self.cycle = spread_out([0] * len(groups), fitting)

    def environment(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Facts for the record and warnings about what else went on since the bench was entered."""
        after = self._ask({"do": "counters"})
        seen, warnings = changes(self._before, after, cores=self.cores, own=self.own)
        count = len(self.cycle or ())
        facts = {
            **self.facts,
            **seen,
            "device": self.device.name,
            "pinned_cores": ", ".join(map(str, self.cores)) or "no",
            "timed_inputs": f"{count} of {len(self.inputs.rows)}",
        }
        warnings += throttled(self._rest, self._sense(self.settings.sensors, 0.0))
        return facts, warnings if self.cores else (*warnings, _COMMON_CPU_NOTE)

    def sense(self, runner: Runner) -> tuple[Sensed, ...]:
        """What sensors of power tell while a runner goes on through the cycle; empty without any."""
        if not self._watched:
            return ()
        request = _sensing(self._watched, self.cycle or [0], self.settings.sense_seconds)
        told = runner.ask(request, timeout_s=self.settings.timeout_s)
        return summarise_sensors(self._rest, told["watched"], told["seconds"] / told["runs"])

    def _sense(self, sensors: Sequence[Sensor], seconds: float) -> Watched:
        """What sensors tell while nothing runs."""
        if not sensors:
            return []
        watched: Watched = self._ask(_sensing(sensors, [], seconds))["watched"]
        return watched

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._observer.ask(request, timeout_s=self.settings.timeout_s)


def _sensing(sensors: Sequence[Sensor], rows: list[int], seconds: float) -> dict[str, Any]:
    """The request to watch sensors."""
    listed = [asdict(sensor) for sensor in sensors]
    return {"do": "sense", "sensors": listed, "rows": rows, "seconds": seconds}


def _power_sensors(sensors: Sequence[Sensor], seen: Watched) -> tuple[Sensor, ...]:
    """Those of power that gave a reading, and with them those that tell how warm it gets."""
    kinds = {item["kind"] for item in seen[-1]["readings"]} if seen else set()
    if not kinds & WATCHED:
        return ()
    return tuple(sensor for sensor in sensors if sensor.kind in kinds)


class Side:
    """One target under measurement.

    Attributes:
        windows: what was timed, in order.
        starts: one for each process that it was opened in.
        unsettled: a warm-up ended without becoming steady.
        sensed: what sensors told while it ran, once asked.
    """

    def __init__(self, label: str, target: Target, bench: Bench) -> None:
        self.target = target
        self.windows: list[Window] = []
        self.starts: list[ColdStart] = []
        self.unsettled = False
        self.sensed: tuple[Sensed, ...] = ()
        self._label, self._bench = label, bench
        self._runner: Runner | None = None
        self._groups: list[int] = []
        self._peak_run_mib = 0.0
        self._version = ""
        self._run_ms = 0.0

    @property
    def levels_ms(self) -> list[float]:
        """Typical time of a run in each window."""
        return [window.level_ms for window in self.windows]

    def start(self) -> None:
        """Open the artifact in a fresh process; cold, and awake."""
        target, bench = self.target, self._bench
        self._runner = bench.start_runner(self._label, threads=target.threads)
        told = self._ask(
            {
                "do": "open",
                "backend": target.backend,
                "artifact": target.artifact.resolve(),
                "execution": target.execution,
                "threads": target.threads,
                "cores": bench.cores,
                "files": [file.resolve() for file in target.all_files()],
                "names": {name: bench.inputs.prefix + name for name in bench.inputs.names},
                "rows": [row.resolve() for row in bench.rows],
                "first": len(bench.rows) // 2,
            }
        )
        bench.own.append(told["pid"])
        self._groups, self._version = told["groups"], told["version"]
        self._run_ms = min(told["first_run_ms"], told["second_run_ms"])
        bench.choose_cycle(self._groups, self._run_ms)
        self.starts.append(
            ColdStart(**{name: told[name] for name in ColdStart.__dataclass_fields__})
        )

    def warm_up(self) -> None:
        """Run until three windows in a row agree, or the time for it is over."""
        settings = self._bench.settings
        deadline = time.monotonic() + settings.warmup_seconds
        levels: list[float] = []
        while not is_settled(levels, settings.settled):
            if len(levels) >= 3 and time.monotonic() > deadline:
                self.unsettled = True
                return
            levels.append(self._window(settings.window_s / 2, 1, settle_s=0.0).level_ms)
            self._run_ms = levels[-1]

    def time_window(self) -> None:
        """Time one window and keep it."""
        settings = self._bench.settings
        runs = settings.window_runs if self._run_ms < _SLOW_MS else 1
        settle_s = _SETTLE_S if self._run_ms < 2000 * _SETTLE_S else 0.0
        self.windows.append(self._window(settings.window_s, runs, settle_s=settle_s))

    def sense(self) -> None:
        """Run on for a while, awake and not timed, with an eye on the device's sensors."""
        assert self._runner is not None, "start comes first"
        self.sensed = self._bench.sense(self._runner)

    def freeze(self) -> None:
        """Rest: idle threads of engines spin, and would take the cores of the other side."""
        if self._runner:
            self._runner.freeze()

    def thaw(self) -> None:
        """Wake up."""
        if self._runner:
            self._runner.thaw()

    def stop(self) -> None:
        """End the process, having noted what it took."""
        if self._runner:
            self._peak_run_mib = max(self._peak_run_mib, self._ask({"do": "memory"})["peak_mib"])
            self._runner.close()
            self._runner = None

    def result(
        self,
        speedup: Interval,
        noise: Sequence[str],
        environment: dict[str, str],
        warnings: Sequence[str],
    ) -> Measurement:
        """Everything that was seen, as one value; the side must be stopped."""
        latency = summarise(self.windows)
        return Measurement(
            latency=latency,
            speedup=speedup,
            stable=not noise,
            import_ms=min(start.import_ms for start in self.starts),
            load_ms=min(start.load_ms for start in self.starts),
            first_run_ms=min(start.first_run_ms for start in self.starts),
            base_mib=max(start.base_mib for start in self.starts),
            peak_load_mib=max(start.peak_load_mib for start in self.starts),
            peak_run_mib=self._peak_run_mib,
            artifact_bytes=sum(file.stat().st_size for file in self.target.all_files()),
            threads=self.target.threads,
            evidence=self._bench.device.evidence,
            sensed=self.sensed,
            environment={
                **environment,
                self.target.backend: self._version,
                "execution": self.target.execution,
                "processes": str(len(self.starts)),
                "windows": str(len(self.windows)),
            },
            warnings=(*noise, *warnings, *remarks(self.levels_ms, latency.count)),
        )

    def _window(self, seconds: float, min_runs: int, *, settle_s: float) -> Window:
        cycle = self._bench.cycle or [0]
        told = self._ask(
            {
                "do": "window",
                "rows": cycle,
                "seconds": seconds,
                "min_runs": min_runs,
                "settle_s": settle_s,
            }
        )
        ms = tuple(told["ms"])
        groups = [self._groups[row] for row in cycle]
        return Window(ms=ms, groups=tuple(groups * (len(ms) // len(cycle))))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._runner is not None, "start comes first"
        return self._runner.ask(request, timeout_s=self._bench.settings.timeout_s)
