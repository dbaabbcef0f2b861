"""The part of a probe that runs in a child process on the device: make micro-graphs, open them, time them."""

from __future__ import annotations

import gc
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array, Backend, OpenOptions, Session, require_backend
from edgesdk.errors import EdgeSdkError
from edgesdk.measure.environment import choose_cores, held_up_ns, stolen_ns
from edgesdk.probe.micro import BASES, Micro, build, build_base
from edgesdk.process import memory_now, thread_limits
from edgesdk.recipe import Recipe

_WARM_RUNS = 3
_BURSTS, _FEWEST_BURSTS = 15, 4
_BURST_S = 0.002
_WAIT_SHARE = 0.01
_ENOUGH_S, _MOST_S = 0.15, 0.6
"""How long an experiment is timed: until there are few undisturbed bursts, and at the most."""
_PAUSE_S = 0.002
"""After being held up; the scheduler favours who has slept."""
_TARGET_UNITS_US = 2000.0
_MOST_UNITS, _FEWEST_UNITS = 16, 2
_STREAMED_BYTES = 8 << 20
"""Weights that a chain of products has at least: in a model they do not stay in the inner caches."""
_SLOW_NS = 0.05
"""Nanoseconds for each multiply-accumulate and element, to guess how many fit into a graph."""


def time_experiments(request: dict[str, Any]) -> dict[str, Any]:
    """`backend`, `execution`, `precision`, `threads`, `seconds`, `experiments` -> `times`.

    Each experiment is `[kind, sizes]`. An answer is its microseconds for each graph (with, for a tail,
    those of the graph without it), how many operations that was, and what else was in it; or the
    reason why the engine could not. The list is shorter than the request when time was over.
    """
    deadline = time.monotonic() + request["seconds"]
    _pin(request["threads"])
    backend = require_backend(request["backend"])
    options = OpenOptions(threads=request["threads"], execution=request["execution"])
    times: list[dict[str, Any]] = []
    for kind, sizes in request["experiments"]:
        if time.monotonic() > deadline:
            break
        try:
            times.append(_timed(backend, options, kind, sizes, request["precision"]))
        except EdgeSdkError as exc:
            times.append({"error": str(exc)[:300]})
    return {"times": times, "version": backend.version()}


def open_weights(request: dict[str, Any]) -> dict[str, Any]:
    """`backend`, `threads`, `width`, `layers` -> `peak_mib` of this process and microseconds a run.

    Opens products of one row with `layers` weights of `width` x `width` float32 numbers.
    """
    _pin(request["threads"])
    backend = require_backend(request["backend"])
    options = OpenOptions(threads=request["threads"])
    width = request["width"]
    micro = build("product", (1, width, width), "fp32", units=request["layers"])
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        artifact = _converted(backend, micro, Path(name))
        feed = _feed(micro)
        base_mib = memory_now()["peak_mib"]
        del micro
        gc.collect()
        with backend.open(artifact, options) as session:
            us, _ = _time(session, feed)
            return {"us": us, "peak_mib": memory_now()["peak_mib"], "base_mib": base_mib}


def _pin(threads: int) -> None:
    os.environ.update(thread_limits(threads))  # the engine is not loaded yet
    cores = choose_cores(threads)
    if cores:
        os.sched_setaffinity(0, cores)


def _timed(
    backend: Backend, options: OpenOptions, kind: str, sizes: list[int], precision: str
) -> dict[str, Any]:
    units = _units(kind, sizes)
    micro = build(kind, sizes, precision, units=units)
    us, clean = _measure(backend, options, micro)
    answer = {
        "us": us,
        "units": micro.units,
        "extra": [[name, list(of), count] for name, of, count in micro.extra],
        "bytes": micro.moved_bytes,
    }
    anchor = kind.partition(">")[0]
    if anchor != kind:
        base = build_base(anchor, sizes, precision, units=units)
        answer["base_us"], base_clean = _measure(backend, options, base)
        clean = clean and base_clean
    return {**answer, "clean": clean}


def _units(kind: str, sizes: list[int]) -> int:
    """How many operations take about one or two milliseconds; more costs time, fewer precision."""
    work = float(math.prod(sizes))
    anchor = kind.partition(">")[0]
    if anchor != kind:
        work *= BASES[anchor][0]
    guess_us = work * _SLOW_NS / 1e3
    wanted = _TARGET_UNITS_US / max(guess_us, 1e-3)
    if kind == "product":
        wanted = max(wanted, _STREAMED_BYTES / (4 * sizes[1] * sizes[2]))
    return max(_FEWEST_UNITS, min(_MOST_UNITS, int(wanted)))


def _measure(backend: Backend, options: OpenOptions, micro: Micro) -> tuple[float, bool]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        artifact = _converted(backend, micro, Path(name))
        with backend.open(artifact, options) as session:
            return _time(session, _feed(micro))


def _converted(backend: Backend, micro: Micro, folder: Path) -> Path:
    source = folder / "micro.onnx"
    source.write_bytes(micro.model.SerializeToString())
    out = folder / "artifact"
    out.mkdir()
    return backend.convert(source, Recipe(), out)


def _feed(micro: Micro) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    feed: dict[str, Array] = {}
    for info in micro.model.graph.input:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        floats = info.type.tensor_type.elem_type == 1
        feed[info.name] = (
            rng.standard_normal(shape, np.float32) * np.float32(0.5)
            if floats
            else rng.integers(0, 1000, shape)
        )
    return feed


def _time(session: Session, feed: dict[str, Array]) -> tuple[float, bool]:
    """Microseconds of a run, and whether it was undisturbed: the lower quartile of short bursts.

    What else runs on a machine only ever adds. A burst in which a thread had to wait for a core is
    not counted as long as there are others: engines' threads wait for each other, so one that is
    held up costs many times its share.
    """
    run, now = session.run, time.perf_counter_ns
    for _ in range(_WARM_RUNS):
        run(feed)
    clean: list[float] = []
    disturbed: list[float] = []
    gc.collect()
    gc.disable()
    begun = now()
    try:
        while len(clean) < _BURSTS:
            spent_s = (now() - begun) / 1e9
            tried = bool(clean or disturbed)  # a machine can hold us up for longer than all of it
            enough = spent_s > _ENOUGH_S and len(clean) >= _FEWEST_BURSTS
            if tried and (spent_s > _MOST_S or enough):
                break
            level, waited = _burst(session, feed)
            (disturbed if waited > _WAIT_SHARE else clean).append(level)
            if waited > _WAIT_SHARE:
                time.sleep(_PAUSE_S)
    finally:
        gc.enable()
    if len(clean) >= _FEWEST_BURSTS:
        return float(np.quantile(clean, 0.25)) / 1e3, True
    return min(clean + disturbed) / 1e3, False


def _burst(session: Session, feed: dict[str, Array]) -> tuple[float, float]:
    """The median time of some runs in nanoseconds, and the share of it spent waiting for cores."""
    run, now = session.run, time.perf_counter_ns
    run(feed)
    took: list[int] = []
    waited = held_up_ns() + stolen_ns()
    deadline = now() + int(_BURST_S * 1e9)
    while not took or now() < deadline:
        start = now()
        outputs = run(feed)
        took.append(now() - start)
        del outputs
    return statistics.median(took), (held_up_ns() + stolen_ns() - waited) / sum(took)
