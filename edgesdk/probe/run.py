"""Probing a device: which experiments, in child processes, until the time is over."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import Any

from edgesdk.cache import Cache
from edgesdk.device.base import Device
from edgesdk.device.find import LOCAL, find_device, is_timed
from edgesdk.errors import DeviceError, EdgeSdkError, InputError, OutputError
from edgesdk.events import Event, Listener, nobody
from edgesdk.files import write_text
from edgesdk.probe.doubts import doubtful, settled
from edgesdk.probe.engines import MAKERS, candidates, native_precisions, profile_of, usable
from edgesdk.probe.points import Experiment, experiments
from edgesdk.probe.series import Timed, series_of
from edgesdk.probe.write import Engine, Findings, profile_text
from edgesdk.profile import load_profile
from edgesdk.profile_values import Profile

_CHUNK = 16
"""Experiments in one child process: what a crash costs at most."""
_REVISITED = 48
"""Doubtful experiments that are taken again together."""
_STEP_TIMEOUT_S = 120.0
_CLOSING_S = 2.0
"""Kept for ending the last child and writing the profile."""
_GRACE_S = 5.0
"""A child ends by itself when time is over; only if it then does not, it is killed."""
_MEMORY_SHARE, _MEMORY_S = 0.1, 15.0
"""Of the time, and seconds at most, for finding out what memory the engines take."""
_BIG_WIDTH = 2048
_BIG_BYTES = 4 * _BIG_WIDTH**2
_MOST_BIG = 16
_LOADED = 8
"""Weights of 16 MiB that memory is taken with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came of a probe.

    Attributes:
        path: the profile that was written.
        profile: the same, loaded.
        measured, planned: experiments that were done, and that there are.
        failures: what did not run, as `backend precision kind: reason`.
        seconds: how long it took.
    """

    path: Path
    profile: Profile
    measured: int
    planned: int
    failures: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "path": str(self.path),
            "profile": self.profile.name,
            "extends": self.profile.taken_from,
            "series": len(self.profile.speeds),
            "measured": self.measured,
            "planned": self.planned,
            "failures": list(self.failures),
            "seconds": round(self.seconds, 1),
        }


def probe_machine(
    out: Path,
    *,
    backends: Sequence[str] = (),
    seconds: float = 300.0,
    threads: int | None = None,
    device: str = LOCAL,
    listen: Listener = nobody,
) -> Probed:
    """Measure the engines of a device and write a profile that extends that of the machine.

    Args:
        out: the profile, a new file that ends in `.toml`.
        backends: engines to probe; all usable ones of the profile unless given.
        seconds: how long it may take once the device is ready; above 0. A fifth of 300 s already
            covers every kind.
        threads: threads inside one run; all usable cores unless given.
        device: where; see `edgesdk.device.find`.
        listen: called with each `Event`.

    Raises:
        DeviceError: the device cannot be reached or used, or tells no times.
        InputError: seconds or threads out of range.
        OutputError: the file exists, is no `.toml`, or cannot be written.
        ProfileError: no installed profile describes the machine.
        BackendUnavailable: a backend is unknown or not usable, or none is.
        StepFailed: nothing could be measured.
    """
    if not seconds > 0 or (threads is not None and threads < 1):
        raise InputError(f"{seconds:g} seconds and {threads} threads; legal: above 0, and 1 up")
    _check_out(out)
    if not is_timed(device):
        raise DeviceError(
            f"{device} tells no times: what is emulated takes as long as the emulator takes; probe "
            "the device itself, by ssh://[user@]host"
        )
    cache = Cache()
    with closing(find_device(device, (), cache)) as place:
        machine = place.machine()
    base = profile_of(machine)
    wanted = candidates(base, backends, device)
    names = [name for name, against in wanted.items() if against is None]
    with (
        closing(find_device(device, names, cache, also=MAKERS)) as place,
        tempfile.TemporaryDirectory(prefix="edgesdk-probe-") as folder,
    ):
        engines = usable(wanted, place.engines(names), asked=bool(backends))
        count = threads or machine.logical_cores
        planned = experiments([(name, native_precisions(base, name)) for name in engines])
        listen(Event(stage="probe", message=f"{len(planned)} experiments on {', '.join(engines)}"))
        begun = time.monotonic()
        end = begun + seconds - _CLOSING_S
        share_s = min(_MEMORY_SHARE * seconds, _MEMORY_S)
        bench = _Bench(place, Path(folder), count, end - share_s, listen)
        timed = bench.all(planned)
        found = bench.engines(engines, end)
        failures = tuple(bench.failures)
        bandwidth = bench.bandwidth
    series = series_of(timed)
    if not series:
        raise EdgeSdkError(f"nothing could be measured: {'; '.join(failures) or 'no time'}")
    findings = Findings(
        name=out.stem,
        machine=machine,
        base=base,
        engines=tuple(found),
        threads=count,
        bandwidth=bandwidth,
        series=series,
        day=date.today(),
    )
    write_text(out, profile_text(findings))
    return Probed(
        path=out,
        profile=load_profile(str(out)),
        measured=sum(len(points) for points in series.values()),
        planned=len(planned),
        failures=failures,
        seconds=time.monotonic() - begun,
    )


def _check_out(out: Path) -> None:
    if out.suffix != ".toml":
        raise OutputError(f"{out} does not end in .toml, as profiles do; choose another --out")
    if out.exists():
        raise OutputError(f"{out} exists; choose another --out or remove it")
    folder = out.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; make it or choose another --out")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise OutputError(
            f"{folder} is not writable: {exc.strerror}; choose another --out"
        ) from exc


class _Bench:
    """Runs experiments in child processes on a device until the time is over."""

    def __init__(
        self, device: Device, folder: Path, threads: int, deadline: float, listen: Listener
    ) -> None:
        self._device, self._folder, self._threads = device, folder, threads
        self._deadline, self._listen = deadline, listen
        self._numbers = itertools.count()
        self.failures: list[str] = []
        self.bandwidth: float | None = None
        self._is_gone = False

    def engines(self, versions: Mapping[str, str], deadline: float) -> list[Engine]:
        """Memory that each takes, as far as there is time; bandwidth by the first."""
        self._deadline = deadline
        return [self._engine(name, version) for name, version in versions.items()]

    def _engine(self, backend: str, version: str) -> Engine:
        small = self._open(backend, width=16, layers=2)
        loaded = self._open(backend, width=_BIG_WIDTH, layers=_LOADED)
        if not small or not loaded:
            return Engine(name=backend, version=version)
        weights_mib = _LOADED * _BIG_BYTES / 2**20
        if self.bandwidth is None:
            big = self._open(backend, width=_BIG_WIDTH, layers=_MOST_BIG)
            self.bandwidth = _MOST_BIG * _BIG_BYTES / big["us"] * 1e6 if big else None
        return Engine(
            name=backend,
            version=version,
            footprint_mib=small["peak_mib"],
            weight_copies=max(1.0, (loaded["peak_mib"] - small["peak_mib"]) / weights_mib),
        )

    def all(self, planned: Sequence[Experiment]) -> list[Timed]:
        """As many experiments as there is time for, then those again that are doubtful."""
        timed: list[Timed] = []
        for chunk in _chunks(planned):
            if self._left_s() <= 0:
                break
            timed += self._time(chunk, done=len(timed), total=len(planned))
        again = self._again(timed)
        message = f"{len(timed)} of {len(planned)} experiments"
        self._listen(
            Event(
                stage="probe",
                state="done",
                message=f"{message}, {len(again)} of them again",
                done=len(timed),
                total=len(planned),
            )
        )
        return [again.get(item.experiment, item) for item in timed]

    def _again(self, timed: Sequence[Timed]) -> dict[Experiment, Timed]:
        """What contradicts its neighbours, taken once more, the most doubtful first."""
        found: dict[Experiment, Timed] = {}
        doubts = doubtful(timed)
        for start in range(0, len(doubts), _REVISITED):
            visited = {item.experiment: item for item in doubts[start : start + _REVISITED]}
            ordered = sorted(visited, key=attrgetter("backend", "precision", "turn"))
            for _, group in itertools.groupby(ordered, key=attrgetter("backend", "precision")):
                if self._left_s() <= 0:
                    return found
                for item in self._time(list(group), done=len(timed), total=len(timed)):
                    found[item.experiment] = settled(visited[item.experiment], item)
        return found

    def _time(self, chunk: Sequence[Experiment], *, done: int, total: int) -> list[Timed]:
        """Experiments of one backend and precision, in one child process."""
        first = chunk[0]
        subject = f"{first.backend} {first.precision}"
        self._listen(Event(stage="probe", subject=subject, state="begin", done=done, total=total))
        answers = self._ask(
            "time_experiments",
            {
                "backend": first.backend,
                "execution": first.execution,
                "precision": first.precision,
                "threads": self._threads,
                "seconds": self._left_s(),
                "experiments": [[item.kind, list(item.sizes)] for item in chunk],
            },
            subject,
        )
        timed = []
        for item, answer in zip(chunk, (answers or {"times": []})["times"], strict=False):
            if "error" in answer:
                self.failures.append(f"{subject} {item.kind}: {answer['error']}")
            timed.append(Timed(experiment=item, answer=answer))
        return timed

    def _open(self, backend: str, *, width: int, layers: int) -> dict[str, Any] | None:
        request = {
            "backend": backend,
            "threads": self._threads,
            "width": width,
            "layers": layers,
        }
        return self._ask("open_weights", request, f"{backend} memory")

    def _ask(self, step: str, request: dict[str, Any], subject: str) -> dict[str, Any] | None:
        """A child's answer, or None with the reason among the failures."""
        if self._left_s() <= 0:
            return None
        try:
            return self._device.run_step(
                f"edgesdk.probe.child:{step}",
                request,
                folder=self._folder / str(next(self._numbers)),
                timeout_s=min(_STEP_TIMEOUT_S, self._left_s() + _GRACE_S),
            ).response
        except EdgeSdkError as exc:
            self.failures.append(f"{subject}: {exc}")
            self._listen(Event(stage="probe", subject=subject, state="failed", message=str(exc)))
            if isinstance(exc, DeviceError):
                self._is_gone = True
            return None

    def _left_s(self) -> float:
        return 0.0 if self._is_gone else self._deadline - time.monotonic()


def _chunks(planned: Sequence[Experiment]) -> Iterator[list[Experiment]]:
    """Neighbours of one pass, backend and precision, at most `_CHUNK` of them."""
    for _, group in itertools.groupby(planned, key=attrgetter("turn", "backend", "precision")):
        members = list(group)
        for start in range(0, len(members), _CHUNK):
            yield members[start : start + _CHUNK]
