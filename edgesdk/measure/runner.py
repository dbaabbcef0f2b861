"""The program that opens and times one artifact on a device: `python -m edgesdk.measure.runner`.

It answers JSON requests, one a line, on standard input and output. It needs numpy, one engine and
no other part of edgesdk than the modules imported here, so it can run where little else does.

    facts                                    what the machine is; its free memory
    counters                                 where its clocks stand
    cores     count                          which cores to pin to
    open      backend artifact execution threads cores files names rows first
                                             import, load and first run, with their costs
    window    rows seconds min_runs settle_s times of runs, whole cycles over those rows
    count     rows runs                      instructions of runs, where an emulator counts them
    sense     sensors rows seconds           sensors watched, while it runs those rows or nothing
    memory                                   its peak since loading; processor time used

Every answer is an object; `{"error": …}` is an error of ours as plain values.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from edgesdk.backend import Array, OpenOptions, Session, require_backend
from edgesdk.errors import DeviceError, EdgeSdkError, SamplesError
from edgesdk.measure.environment import choose_cores, counters, facts, free_mib
from edgesdk.measure.sensing import Watch
from edgesdk.process import COUNTS, error_to_json, hold_leash, memory_now, reset_peak
from edgesdk.profile_values import Sensor

Answer = dict[str, Any]

_CHUNK = 1 << 20
_MARK = 0xED6E
_NS_PER_MS = 1e6


class _Runner:
    """One artifact, once opened, and the verbs of the protocol."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._feeds: list[dict[str, Array]] = []
        self.verbs: dict[str, Callable[..., Answer]] = {
            "facts": self.facts,
            "counters": counters,
            "cores": lambda count: {"cores": choose_cores(count)},
            "open": self.open,
            "window": self.window,
            "count": self.count,
            "sense": self.sense,
            "memory": self.memory,
        }

    def facts(self) -> Answer:
        return {
            "facts": facts(),
            "free_mib": free_mib(),
            "own": [os.getpid(), os.getppid()],
        }

    def open(
        self,
        backend: str,
        artifact: str,
        execution: str,
        threads: int,
        cores: list[int],
        files: list[str],
        names: dict[str, str],
        rows: list[str],
        first: int,
    ) -> Answer:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)  # before the engine looks at how many there are
        self._feeds = [_load_row(Path(row), names) for row in rows]
        start = time.perf_counter_ns()
        engine = require_backend(backend)
        version = engine.version()
        import_ms = _ms_since(start)
        for file in files:
            _warm(Path(file))
        gc.collect()
        base_mib = memory_now()["peak_mib"]
        reset_peak()
        start = time.perf_counter_ns()
        self._session = engine.open(
            Path(artifact), OpenOptions(threads=threads, execution=execution)
        )
        load_ms = _ms_since(start)
        peak_load_mib = memory_now()["peak_mib"]
        reset_peak()
        self._feeds = [_taken(self._session, feed) for feed in self._feeds]
        first_ms, second_ms = self._time([self._feeds[first]], 0.0, 2)
        return {
            "pid": os.getpid(),
            "version": version,
            "groups": _groups(self._feeds),
            "import_ms": import_ms,
            "load_ms": load_ms,
            "first_run_ms": first_ms,
            "second_run_ms": second_ms,
            "base_mib": base_mib,
            "peak_load_mib": peak_load_mib,
        }

    def window(self, rows: list[int], seconds: float, min_runs: int, settle_s: float) -> Answer:
        feeds = [self._feeds[row] for row in rows]
        if settle_s > 0:  # caches and clocks after being frozen
            self._time(feeds[:1], settle_s, 1)
        return {"ms": self._time(feeds, seconds, min_runs)}

    def count(self, rows: list[int], runs: int) -> Answer:
        assert self._session is not None, "open comes first"
        run = self._session.run
        gc.collect()
        gc.disable()
        try:
            for _ in range(runs):
                for row in rows:
                    _mark(row)
                    outputs = run(self._feeds[row])
                    _mark(row)
                    del outputs
        finally:
            gc.enable()
        return {"instructions": _counted(runs * len(rows))}

    def sense(self, sensors: list[dict[str, str]], rows: list[int], seconds: float) -> Answer:
        watched = [Sensor(**sensor) for sensor in sensors]  # type: ignore[arg-type]
        runs = 0
        begun = time.monotonic()
        with Watch(watched) as watch:
            if rows:
                runs = len(self._time([self._feeds[row] for row in rows], seconds, 1))
            else:
                time.sleep(seconds)
        return {"watched": watch.seen, "seconds": time.monotonic() - begun, "runs": runs}

    def memory(self) -> Answer:
        return {"peak_mib": memory_now()["peak_mib"], "cpu_s": time.process_time()}

    def _time(self, feeds: list[dict[str, Array]], seconds: float, min_runs: int) -> list[float]:
        """Milliseconds that each `Session.run` took, in whole cycles over the feeds."""
        assert self._session is not None, "open comes first"
        run, now = self._session.run, time.perf_counter_ns
        took: list[int] = []
        gc.collect()
        gc.disable()
        try:
            deadline = now() + int(seconds * 1e9)
            while len(took) < min_runs or now() < deadline:
                for feed in feeds:
                    start = now()
                    outputs = run(feed)
                    took.append(now() - start)
                    del outputs  # freed outside the timed part
        finally:
            gc.enable()
        return [ns / _NS_PER_MS for ns in took]


def _mark(label: int) -> None:
    """Have the emulator write down how many instructions were executed so far.

    A system call that fails on any kernel; see `edgesdk/device/icount.c`.
    """
    with contextlib.suppress(OSError):
        os.getpriority(_MARK, label)


def _counted(runs: int) -> list[int]:
    """Instructions between the two marks of each of the last runs."""
    file = os.environ.get(COUNTS)
    if file is None:
        raise DeviceError("nothing counts instructions here; they are counted under an emulator")
    lines = Path(file).read_text(encoding="utf-8").splitlines()[-2 * runs :]
    totals = [int(line.split()[1]) for line in lines]
    if len(totals) < 2 * runs:
        raise DeviceError(f"the emulator wrote {len(totals)} counts of {2 * runs} into {file}")
    return [after - before for before, after in zip(totals[::2], totals[1::2], strict=True)]


def _load_row(path: Path, names: dict[str, str]) -> dict[str, Array]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        absent = [array for array in names.values() if array not in arrays.files]
        if absent:
            raise SamplesError(f"{path.name} has no {', '.join(absent)}; it has {arrays.files}")
        return {name: np.require(arrays[array], requirements="C") for name, array in names.items()}


def _taken(session: Session, feed: dict[str, Array]) -> dict[str, Array]:
    """What the artifact takes of a row: conversion may have dropped an input that did nothing."""
    return {info.name: feed[info.name] for info in session.inputs if info.name in feed}


def _groups(feeds: list[dict[str, Array]]) -> list[int]:
    """A number for each row; equal where all shapes are equal."""
    known: dict[object, int] = {}
    shapes = [tuple((name, array.shape) for name, array in feed.items()) for feed in feeds]
    return [known.setdefault(shape, len(known)) for shape in shapes]


def _warm(path: Path) -> None:
    """Read a file once, so that loading is timed without the disk."""
    with path.open("rb") as stream:
        while stream.read(_CHUNK):
            pass


def _ms_since(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / _NS_PER_MS


def _take_over(fd: int, mode: str, instead: int) -> IO[str]:
    """A private stream on what `fd` is now; the number itself goes to `instead`.

    What native code reads or prints then does not touch the protocol.
    """
    mine = os.dup(fd)
    os.dup2(instead, fd)
    return os.fdopen(mine, mode, encoding="utf-8", newline="\n")


def _answer(runner: _Runner, line: str) -> Answer:
    try:
        request = json.loads(line)
        return runner.verbs[request.pop("do")](**request)
    except EdgeSdkError as exc:
        return {"error": error_to_json(exc)}
    except BaseException as exc:  # the border of the process: all is reported
        traceback.print_exc()
        return {"error": error_to_json(exc)}


def main() -> None:
    """Answer until the input ends."""
    hold_leash()
    faulthandler.enable()
    requests = _take_over(0, "r", os.open(os.devnull, os.O_RDONLY))
    answers = _take_over(1, "w", 2)
    runner = _Runner()
    for line in requests:
        answers.write(json.dumps(_answer(runner, line)) + "\n")
        answers.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing left to say; engines may crash in their destructors


if __name__ == "__main__":
    main()
