"""The scheduler of a farm: which devices there are, and runs sent to them.

Dask decides which device takes a run and starts it again elsewhere when its worker is lost. Files are
not part of what is scheduled: a worker says which it has not got, and is sent them in pieces.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from edgesdk import __version__
from edgesdk.clock import spell
from edgesdk.device.payload import payload_key
from edgesdk.device.requests import files_of, placed
from edgesdk.errors import BackendUnavailable, DeviceError, EdgeSdkError, StepFailed
from edgesdk.farm import host
from edgesdk.farm.members import Member
from edgesdk.farm.pieces import bundles, hash_of
from edgesdk.process import error_from_json

RESOURCE = "edgesdk"
"""What a worker that drives a device offers to Dask: one of these."""

START = f"dask worker SCHEDULER --nthreads 1 --resources {RESOURCE}=1"

_CONNECT_S = 10.0
_READY_S = 300.0
"""An emulated processor downloads and unpacks its parts when it is first used."""
_LATE_S = 120.0
"""For the others, once there is one; who is ready later is of use later."""
_REJOIN_S = 30.0
"""A worker that was lost may be restarted, and is looked at again."""
_ANSWER_S = 60.0
_FETCH_S = 300.0
"""For what a run wrote, over a slow connection."""
_POLL_S, _PAUSE_S = 1.0, 0.02
_GRACE_S = 5.0
_LOSSES = 3
"""Workers that may be lost over one run; Dask counts alike."""


class _Lost(Exception):
    """All workers that a run could go to are gone."""


class Farm:
    """A connection to a scheduler; may be used by several threads. A context manager that ends it.

    Attributes:
        members: the devices, by the address of their workers; as last seen.
        refused: the workers that drive no device of use, each with why.
    """

    def __init__(
        self, address: str, backends: Sequence[str], *, left_s: Callable[[], float]
    ) -> None:
        """Connect, and have every worker make its device ready.

        Args:
            address: of the scheduler, such as `tcp://host:8786`.
            backends: those whose engines the devices should have.
            left_s: seconds that a deploy still has, at any moment.

        Raises:
            BackendUnavailable: Dask is not installed here.
            DeviceError: there is no scheduler, or no worker of it drives a device.
        """
        self.address = address
        self.members: dict[str, Member] = {}
        self.refused: dict[str, str] = {}
        self._backends = list(backends)
        self._left_s = left_s
        self._looking: dict[str, tuple[str, Any]] = {}
        self._asked: set[str] = set()
        self._seen = threading.Lock()
        self._code = payload_key()
        self._client = _connected(address)
        try:
            self._survey()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the farm; workers finish the run they are at. Calling it twice is harmless."""
        self._client.close(timeout=_GRACE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def carry_out(
        self, do: str, request: dict[str, Any], like: Member, folder: Path
    ) -> dict[str, Any]:
        """One run on any device of a kind; on another one where a worker is lost.

        Args:
            do: what, of `edgesdk.farm.host.run`.
            request: for it; files are named as `edgesdk.device.requests` says.
            like: a device of that kind.
            folder: takes the files that were written.

        Returns:
            The answer.

        Raises:
            EdgeSdkError: what the run raised there.
            StepFailed: there was no time left, or workers were lost again and again.
            DeviceError: the scheduler is gone, or the last device of the kind.
        """
        files = {str(file.absolute()): hash_of(file) for file in files_of(request)}
        job = {"do": do, "backends": self._backends, "files": files, "request": placed(request)}
        there: str | None = None
        for _ in range(2 * _LOSSES):  # each once for its files, and once for the run
            try:
                told = self._run(job, [there] if there else self._addresses(like))
                if "missing" not in told:
                    return _unpacked(told, folder)
                there = told["worker"]
                self._send(told["missing"], files, there)
            except _Lost:
                there = None
        raise StepFailed(f"workers were lost again and again while they ran {do}", kind="killed")

    def _run(self, job: dict[str, Any], workers: list[str]) -> dict[str, Any]:
        from distributed import KilledWorker

        future = self._submit(host.run, job, workers)
        try:
            self._wait(future, workers)
            told: dict[str, Any] = future.result(timeout=_FETCH_S)
        except KilledWorker as exc:
            message = f"the workers that ran {job['do']} were lost: {exc}"
            raise StepFailed(message, kind="killed") from exc
        except TimeoutError as exc:  # lost with its result
            raise _Lost from exc
        except (_Lost, EdgeSdkError):
            future.cancel()
            raise
        except Exception as exc:
            raise self._failed(exc) from exc
        return told

    def _submit(self, function: Callable[..., Any], argument: Any, workers: list[str]) -> Any:
        return self._client.submit(
            function,
            argument,
            key=f"edgesdk-{function.__name__}-{uuid.uuid4().hex}",
            workers=workers,
            resources={RESOURCE: 1},
            pure=False,
        )

    def _wait(self, future: Any, workers: Collection[str]) -> None:
        """Until the future is done.

        Raises:
            _Lost: none of the workers is there any more.
            StepFailed: the time is over.
            DeviceError: the scheduler does not answer.
        """
        while True:
            end = time.monotonic() + _POLL_S
            while time.monotonic() < end:
                if future.done():
                    return
                time.sleep(_PAUSE_S)
            if self._left_s() < -_GRACE_S:
                raise StepFailed("the farm did not answer in time", kind="timeout")
            if not self._workers().keys() & set(workers):
                raise _Lost

    def _send(self, hashes: Sequence[str], files: Mapping[str, str], worker: str) -> None:
        """Give a worker files that it has not got.

        Raises:
            _Lost: it is gone.
            DeviceError: it cannot keep them.
        """
        known = {sha256: Path(name) for name, sha256 in files.items()}
        sender = uuid.uuid4().hex
        for pieces in bundles(known[sha256] for sha256 in dict.fromkeys(hashes)):
            try:
                told = self._client.run(host.put, sender, pieces, workers=[worker])[worker]
            except Exception as exc:
                self._workers()
                raise _Lost from exc
            if "error" in told:
                raise error_from_json(told["error"], what="", log="")

    def _addresses(self, like: Member) -> list[str]:
        """The workers with devices of a kind, waiting a while where there are none.

        Raises:
            DeviceError: there is none left.
        """
        deadline = time.monotonic() + _REJOIN_S
        while True:
            self._look()
            found = [m.address for m in list(self.members.values()) if m.kind == like.kind]
            if found:
                return found
            if time.monotonic() > deadline or self._left_s() < 0:
                raise DeviceError(
                    f"the farm {self.address} has no device like {like.worker} ({like.title}) any "
                    "more; start its workers again"
                )
            time.sleep(_POLL_S)

    def _survey(self) -> None:
        """Wait until every worker has said what it drives."""
        begun = time.monotonic()
        self._look()
        while self._looking:
            patience_s = min(_LATE_S if self.members else _READY_S, max(self._left_s(), 1.0))
            if time.monotonic() - begun > patience_s:
                break
            time.sleep(0.1)
            self._look()
        for name, _ in self._looking.values():
            self.refused[name] = "it did not say in time what it drives: it is busy, or hangs"
        if not self.members:
            told = "; ".join(f"{name}: {why}" for name, why in self.refused.items())
            missing = (
                f"none of its workers drives a device: {told}" if told else "it has no workers"
            )
            raise DeviceError(f"the scheduler {self.address} is there, but {missing}. Run: {START}")

    def _look(self) -> None:
        """Take notice of who came and went, without waiting for anybody."""
        there = self._workers()
        with self._seen:
            for address in self.members.keys() - there.keys():
                del self.members[address]
            for address in self._looking.keys() - there.keys():
                del self._looking[address]
            for address in there.keys() - self._asked:
                self._asked.add(address)
                name = str(there[address]["name"])
                if there[address]["resources"].get(RESOURCE, 0) >= 1:
                    future = self._submit(host.describe, self._backends, [address])
                    self._looking[address] = name, future
                else:
                    self.refused[name] = f"it offers no resource {RESOURCE!r}"
            for address, (name, future) in list(self._looking.items()):
                if future.done():
                    del self._looking[address]
                    self._take(address, name, future)

    def _take(self, address: str, name: str, future: Any) -> None:
        """What a worker said of itself."""
        self.refused.pop(name, None)
        try:
            told = future.result(timeout=_CONNECT_S)
        except ImportError as exc:
            self.refused[name] = f"it has no edgesdk like this one: {exc}"
        except Exception as exc:
            self.refused[name] = f"it does not say what it drives: {exc!r}"
        else:
            if told["version"] != __version__:
                self.refused[name] = f"it has edgesdk {told['version']}, and this is {__version__}"
            elif told["code"] != self._code:
                self.refused[name] = f"its edgesdk {__version__} is not of the same sources as this"
            elif "error" in told:
                self.refused[name] = f"{told['device']}: {told['error']['message']}"
            else:
                self.members[address] = Member.of(address, name, told)

    def _workers(self) -> dict[str, Any]:
        """What the scheduler says of each worker, by its address.

        Asked for directly: `Client.scheduler_info` shares its answer with a timer that asks for none.

        Raises:
            DeviceError: it does not answer.
        """
        ask = self._client.scheduler.identity
        try:
            found: dict[str, Any] = self._client.sync(
                ask, n_workers=-1, callback_timeout=_ANSWER_S
            )["workers"]
        except Exception as exc:
            raise DeviceError(f"the scheduler {self.address} does not answer: {exc}") from exc
        return found

    def _failed(self, problem: Exception) -> DeviceError:
        if self._client.status != "running":
            return DeviceError(f"the scheduler {self.address} does not answer any more: {problem}")
        return DeviceError(f"a worker of {self.address} failed: {problem!r}")


def _connected(address: str) -> Any:
    """A client of the scheduler.

    Raises:
        BackendUnavailable: Dask is not installed here.
        DeviceError: nobody answers there.
    """
    try:
        import distributed
    except ImportError as exc:
        raise BackendUnavailable(
            f"--farm needs Dask, which is not here ({exc}); install it with: "
            "pip install 'edgesdk[farm]'"
        ) from exc
    client: Any = distributed.Client
    try:
        return client(address, timeout=_CONNECT_S, set_as_default=False, name="edgesdk")
    except (OSError, ValueError, TimeoutError) as exc:
        raise DeviceError(
            f"no Dask scheduler answers at {address!r} within {spell(_CONNECT_S)}: {exc}; start one "
            "with `dask scheduler --no-dashboard`, and give the address that it prints"
        ) from exc


def _unpacked(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The answer of a run, with its files in the folder."""
    for name, content in told["files"].items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise DeviceError(f"a worker names a file outside of its folder: {name!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if "error" in told:
        raise error_from_json(told["error"], what="", log="")
    answer: dict[str, Any] = told["answer"]
    return answer
