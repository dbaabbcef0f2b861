"""What a worker of the farm does: everything here runs in the process of a `dask worker`.

A worker drives one device: this machine, or the one that `EDGESDK_FARM_DEVICE` names, as `--device`
takes it. It makes the device ready when it is first asked about it and keeps it until it ends.

Values and errors travel as plain data, so that neither side unpickles what the other made up.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from edgesdk import __version__
from edgesdk.cache import Cache
from edgesdk.clock import Clock
from edgesdk.device.base import Device
from edgesdk.device.find import LOCAL, find_device
from edgesdk.device.payload import payload_key
from edgesdk.device.shelf import Shelf
from edgesdk.device.survey import survey_device
from edgesdk.errors import EdgeSdkError
from edgesdk.farm.turns import turn
from edgesdk.measure.meter import DirectMeter
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.process import error_to_json
from edgesdk.profile_values import Sensor

DEVICE = "EDGESDK_FARM_DEVICE"
"""Environment variable of a worker: the device it drives; this machine where it is not set."""

Job = dict[str, Any]
Piece = tuple[str, int, int, bytes]
"""Of a file: its hash, its size, where in it the piece is, and the piece."""

_starting = threading.Lock()
_TIMED_STEPS = frozenset({"edgesdk.steps:look_inside"})


class _Driver:
    """The device of this process, and the files that it was sent."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self._device: Device | None = None
        self._backends: tuple[str, ...] = ()
        self._facts: dict[str, Any] | None = None
        self._slot, folder = _free_slot(Cache().root / "farm")
        self.shelf = Shelf(folder)
        self.shelf.tidy()
        self.shelf.steps.mkdir()

    def device(self, backends: Sequence[str]) -> Device:
        """The device with these engines, made ready.

        Raises:
            DeviceError: it is not there.
        """
        if self._device is None or self._backends != tuple(backends):
            if self._device is not None:
                self._device.close()
                self._device = None
            self._facts = None
            self._device = find_device(_device_name(), backends, Cache())
            self._backends = tuple(backends)
        return self._device

    def facts(self, backends: Sequence[str]) -> dict[str, Any]:
        """What is known of the device; looked at once, as emulated processors take their time.

        Raises:
            DeviceError: it is not there.
        """
        device = self.device(backends)
        if self._facts is None:
            machine, engines = survey_device(device, backends)
            self._facts = {
                "evidence": str(device.evidence),
                "tells": device.tells,
                "machine": machine.to_json(),
                "engines": {name: asdict(item) for name, item in engines.items()},
            }
        return self._facts


def describe(backends: list[str]) -> dict[str, Any]:
    """What device this worker drives, made ready with these engines; or the `error` of that."""
    who = {"device": _device_name(), "version": __version__, "code": payload_key()}
    try:
        driver = _driver()
        with driver.busy:
            return {**who, **driver.facts(backends)}
    except EdgeSdkError as exc:
        return {**who, "error": error_to_json(exc)}


def put(sender: str, pieces: list[Piece]) -> dict[str, Any]:
    """Take pieces of files, in order; see `Shelf.put`."""
    try:
        for sha256, size, offset, body in pieces:
            _driver().shelf.put(body, sha256=sha256, size=size, offset=offset, sender=sender)
    except EdgeSdkError as exc:
        return {"error": error_to_json(exc)}
    return {}


def run(job: Job) -> dict[str, Any]:
    """One run on the device, from beginning to end.

    Args:
        job: `do` (`step`, `pair` or `counts`), `backends`, `files` from names to hashes, and a
            `request` that names files by them.

    Returns:
        `missing`: hashes of files that are to be `put` to this `worker` first; or the `answer` or
        the `error`, with the `files` that were written.
    """
    try:
        driver = _driver()
        with driver.busy:
            device = driver.device(job["backends"])
            missing = driver.shelf.place(job["files"])
            if missing:
                return {"missing": missing, "worker": str(_worker().address)}
            return _run(driver, device, job)
    except EdgeSdkError as exc:
        return {"error": error_to_json(exc), "files": {}}


def _run(driver: _Driver, device: Device, job: Job) -> dict[str, Any]:
    request = driver.shelf.mapped(job["request"])
    with tempfile.TemporaryDirectory(dir=driver.shelf.steps) as name:
        folder = Path(name)
        told: dict[str, Any]
        try:
            with _turn(device, job):
                told = {"answer": _JOBS[job["do"]](device, request, folder)}
        except EdgeSdkError as exc:
            told = {"error": error_to_json(exc)}
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        return {**told, "files": {str(f.relative_to(folder)): f.read_bytes() for f in files}}


def _turn(device: Device, job: Job) -> AbstractContextManager[None]:
    """A device that is another machine needs nothing of this one."""
    if "://" in device.name:
        return nullcontext()
    timed = job["do"] == "pair" or (
        job["do"] == "step" and job["request"]["target"] in _TIMED_STEPS
    )
    return turn(alone=timed and device.tells == "times")


def _step(device: Device, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    return asdict(
        device.run_step(
            request["target"],
            request["request"],
            folder=folder,
            timeout_s=request["timeout_s"],
            memory_bytes=request["memory_bytes"],
        )
    )


def _pair(device: Device, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    before, after = DirectMeter(device).pair(
        _target(request["baseline"]),
        _target(request["candidate"]),
        _inputs(request["inputs"]),
        _settings(request["settings"]),
        folder,
        left_s=_clock(request["left_s"]),
    )
    worker = _worker()
    return {
        side: replace(item, environment={**item.environment, "worker": str(worker.name)}).to_json()
        for side, item in (("before", before), ("after", after))
    }


def _counts(device: Device, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    counts = DirectMeter(device).counts(
        _target(request["target"]),
        _inputs(request["inputs"]),
        _settings(request["settings"]),
        folder,
        left_s=_clock(request["left_s"]),
    )
    return {"counts": counts.to_json()}


_JOBS: dict[str, Callable[[Device, dict[str, Any], Path], dict[str, Any]]] = {
    "step": _step,
    "pair": _pair,
    "counts": _counts,
}


def _target(data: dict[str, Any]) -> Target:
    return Target(**{**data, "files": tuple(data["files"])})


def _inputs(data: dict[str, Any]) -> Inputs:
    return Inputs(**{**data, "names": tuple(data["names"]), "rows": tuple(data["rows"])})


def _settings(data: dict[str, Any]) -> Settings:
    cores = data["cores"]
    sensors = tuple(Sensor(**sensor) for sensor in data["sensors"])
    return Settings(
        **{**data, "cores": None if cores is None else tuple(cores), "sensors": sensors}
    )


def _clock(left_s: float | None) -> Callable[[], float]:
    """What is left of the time that was left when the run was asked for; None for no end."""
    clock = Clock(left_s)
    return lambda: clock.left_s


def _device_name() -> str:
    return os.environ.get(DEVICE) or LOCAL


def _worker() -> Any:
    from distributed import get_worker

    return get_worker()


def _driver() -> _Driver:
    with _starting:
        return _made()


@cache
def _made() -> _Driver:
    return _Driver()


def _free_slot(root: Path) -> tuple[IO[bytes], Path]:
    """A folder that no other worker on this machine uses, with the lock that keeps it so."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = root / str(number)
        folder.mkdir(exist_ok=True)
        lock = (folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return lock, folder
    raise AssertionError
