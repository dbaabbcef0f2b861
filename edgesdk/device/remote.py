"""Another machine, reached by a program that runs commands there and carries bytes.

Nothing of edgesdk is installed on it. What it needs is sent over the connection itself: a zip file
with edgesdk, and engines as wheels where it has none. Figures are measured there, by the code that
measures here.
"""

from __future__ import annotations

import itertools
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from edgesdk.cache import Cache
from edgesdk.device.base import Device, EngineThere, Runner
from edgesdk.device.frames import Message
from edgesdk.device.link import CONNECT_S, SLOWEST, Link, LinkLost, Part
from edgesdk.device.payload import payload_zip
from edgesdk.device.requests import files_of, placed
from edgesdk.device.survey import survey_device
from edgesdk.device.wheels import distributions_of, pinned, wheels_zip
from edgesdk.errors import DeviceError, EdgeSdkError, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.files import sha256_file
from edgesdk.isolate import LOG, StepResult
from edgesdk.machine import Machine
from edgesdk.process import error_from_json

_T = TypeVar("_T")

_PIECE_BYTES = 1 << 20
_PLACE_S = 60.0
_TRIES = 3
_GRACE_S = 3.0
"""What a device, and fetching what it wrote, may take beyond a limit."""

_OLDEST_PYTHON = (3, 11)
_NO_SUCH_PROGRAM = (126, 127)
"""What a shell exits with where a program may not be run, or is not there."""

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")


class RemoteDevice(Device):
    """A machine with an agent of ours, started when it is first needed."""

    evidence = Evidence.MEASURED
    link: Link | None
    """The connection, while there is one."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        backends: Sequence[str],
        cache: Cache,
        *,
        also: Sequence[str] = (),
        python: str = "python3",
        wheelhouse: Path | None = None,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        """Connect, and look at the machine.

        Args:
            name: what `--device` was given.
            command: a program and its arguments that run a shell command line there.
            backends: those whose engines are sent where they are not installed there.
            cache: where what is sent is kept.
            also: other distributions that are sent alike.
            python: the interpreter there, 3.11 or newer.
            wheelhouse: a folder of wheels to take engines from; None for the package index.
            wait: called before each connection with the seconds that it may take; raises `LinkLost`
                when the machine is not there by then. None where connecting tells that at once.

        Raises:
            DeviceError: it cannot be reached or used.
        """
        self.name = name
        self._needed = (*distributions_of(backends), *also)
        self._versions: dict[str, str] = {}
        self._wheelhouse, self._python, self._wait = wheelhouse, python, wait
        self._command = [
            *command,
            shlex.join(
                [python, "-c", _BOOTSTRAP.read_text(encoding="utf-8"), uuid4().hex, *self._needed]
            ),
        ]
        self._cache = cache
        self.link = None
        self._deadline = 0.0
        self._ids = (f"{number:06d}" for number in itertools.count())
        self._logs = tempfile.TemporaryDirectory(prefix="edgesdk-")
        try:
            self._machine, _ = survey_device(self, ())
        except BaseException:
            self.close()
            raise
        self.identity = f"{name} {sorted(self._machine.features)} {sorted(self._versions.items())}"

    def machine(self) -> Machine:
        """As it was found there."""
        return self._machine

    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """As the adapters find them there."""
        return survey_device(self, backends)[1]

    def start_runner(self, log: Path, *, threads: int, memory_bytes: int | None = None) -> Runner:
        """Have the agent start it."""
        self.limit(_PLACE_S)

        def start(link: Link) -> Runner:
            name = next(self._ids)
            self.call(
                link,
                "start",
                within_s=_PLACE_S,
                id=name,
                threads=threads,
                memory_bytes=memory_bytes,
            )
            return _RemoteRunner(self, link, name)

        return self._try(start)

    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Place its files there, run it, fetch what it wrote. Tried again where the link breaks."""
        self.limit(timeout_s)

        def run(link: Link) -> StepResult:
            return self._run(link, target, request, folder, memory_bytes)

        return self._try(run)

    def limit(self, seconds: float) -> None:
        """Have what follows end within that time, and little more for saying so."""
        self._deadline = time.monotonic() + seconds

    def call(
        self, link: Link, verb: str, *, within_s: float, body: bytes = b"", **request: Any
    ) -> tuple[Message, bytes]:
        """`Link.call` within the limit."""
        left_s = max(0.1, min(within_s, self._left_s() + _GRACE_S))
        return link.call(verb, within_s=left_s, body=body, **request)

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    def close(self) -> None:
        """End the agent. Calling it twice is harmless."""
        self._disconnect()
        self._logs.cleanup()

    def _disconnect(self) -> None:
        if self.link:
            self.link.close()
            self.link = None

    def _run(
        self,
        link: Link,
        target: str,
        request: dict[str, Any],
        folder: Path,
        memory_bytes: int | None,
    ) -> StepResult:
        self.place(link, request)
        name = next(self._ids)
        left_s = max(0.1, self._left_s())
        told, _ = self.call(
            link,
            "step",
            within_s=left_s + _GRACE_S,
            id=name,
            target=target,
            request=placed(request),
            timeout_s=round(left_s, 2),
            memory_bytes=memory_bytes,
        )
        folder.mkdir(parents=True, exist_ok=True)
        for relative, size, sha256 in told["files"]:
            self._fetch(link, name, relative, size, sha256, folder)
        self.call(link, "drop", within_s=_PLACE_S, id=name)
        if "error" in told:
            log = folder / LOG
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            raise error_from_json(told["error"], what="", log=text[-4000:])
        return StepResult(
            response=told["response"], peak_mib=told["peak_mib"], seconds=told["seconds"]
        )

    def place(self, link: Link, request: Any) -> None:
        """Send what the device has not got yet, and name it there."""
        files = {str(file.absolute()): sha256_file(file) for file in files_of(request)}
        if not files:
            return
        known = {sha256: Path(name) for name, sha256 in files.items()}
        told, _ = self.call(link, "place", within_s=_PLACE_S, files=files)
        for sha256 in dict.fromkeys(told["missing"]):
            self._send(link, known[sha256], sha256)
        if told["missing"]:
            self.call(link, "place", within_s=_PLACE_S, files=files)

    def _send(self, link: Link, file: Path, sha256: str) -> None:
        size, offset = file.stat().st_size, 0
        with file.open("rb") as stream:
            while offset < size or offset == 0:
                piece = stream.read(_PIECE_BYTES)
                self.call(
                    link,
                    "put",
                    within_s=_PLACE_S + len(piece) / SLOWEST,
                    body=piece,
                    sha256=sha256,
                    size=size,
                    offset=offset,
                )
                offset += max(len(piece), 1)

    def _fetch(
        self, link: Link, name: str, relative: str, size: int, sha256: str, folder: Path
    ) -> None:
        target = folder / relative
        if not target.resolve().is_relative_to(folder.resolve()):
            raise DeviceError(f"device {self.name} names a file outside of its step: {relative!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            while stream.tell() < size:
                _, piece = self.call(
                    link,
                    "get",
                    within_s=_PLACE_S + _PIECE_BYTES / SLOWEST,
                    id=name,
                    name=relative,
                    offset=stream.tell(),
                    most=_PIECE_BYTES,
                )
                if not piece:
                    break
                stream.write(piece)
        if sha256_file(target) != sha256:
            raise LinkLost(f"device {self.name} sent {relative} damaged")

    def _try(self, work: Callable[[Link], _T]) -> _T:
        """Do it over a connection, and over a new one where that breaks, at most three times."""
        for number in itertools.count(1):
            try:
                return work(self._connected())
            except LinkLost as exc:
                self._disconnect()
                if self._left_s() <= 0 or number == _TRIES:
                    raise DeviceError(f"{exc} (tried {number} times)") from exc
                time.sleep(0.5 * number)
        raise AssertionError

    def _connected(self) -> Link:
        if self.link is None or self.link.closed:
            if self._wait:
                self._wait(self._connect_s())
            try:
                self.link = Link(
                    self._command,
                    self._parts,
                    Path(self._logs.name) / "agent.log",
                    name=self.name,
                    within_s=self._connect_s(),
                )
            except LinkLost as exc:
                if exc.code in _NO_SUCH_PROGRAM:
                    raise DeviceError(
                        f"{exc}; Python 3.11 or newer is needed there, as {self._python}: install "
                        "it (Android brings none), or name another with ?python=COMMAND"
                    ) from exc
                raise
        return self.link

    def _connect_s(self) -> float:
        return max(0.1, min(CONNECT_S, self._left_s() + _GRACE_S))

    def _parts(self, facts: dict[str, Any]) -> list[Part]:
        """What the agent needs there, by what the machine says of itself."""
        python = tuple(facts["python"])
        if python < _OLDEST_PYTHON:
            raise DeviceError(
                f"device {self.name} has Python {python[0]}.{python[1]}, and 3.11 is needed; name "
                "another interpreter with ?python=COMMAND"
            )
        payload = payload_zip(self._cache)
        parts = [Part(name="payload", file=payload, key=sha256_file(payload))]
        self._versions = dict(facts["has"])
        missing = [name for name in self._needed if facts["has"].get(name) is None]
        if not missing:
            return parts
        pins = pinned(missing)
        self._versions |= dict(zip(missing, pins, strict=True))
        library, release = facts["libc"]
        if library != "glibc":
            raise DeviceError(
                f"device {self.name} lacks {', '.join(missing)}, and wheels for its C library "
                f"({library or 'unknown'}) cannot be chosen here; install them there"
            )
        wheels = wheels_zip(
            self._cache,
            pins,
            arch=facts["arch"],
            python=f"{python[0]}.{python[1]}",
            glibc=int(release.split(".")[1]),
            wheelhouse=self._wheelhouse,
        )
        return [*parts, Part(name="wheels", file=wheels, key=sha256_file(wheels), unpack=True)]


class _RemoteRunner(Runner):
    def __init__(self, device: RemoteDevice, link: Link, name: str) -> None:
        self._device, self._link, self._name = device, link, name
        self._closed = False

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        if self._closed:
            raise StepFailed(f"the runner's {request['do']!r}: it was ended")
        self._device.limit(timeout_s)
        self._device.place(self._link, request)
        told, _ = self._device.call(
            self._link,
            "ask",
            within_s=timeout_s + _GRACE_S,
            id=self._name,
            request=placed(request),
            timeout_s=timeout_s,
        )
        answer: dict[str, Any] = told["answer"]
        return answer

    def freeze(self) -> None:
        self._link.call("freeze", within_s=_PLACE_S, id=self._name)

    def thaw(self) -> None:
        self._link.call("thaw", within_s=_PLACE_S, id=self._name)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._link.closed:
            try:
                self._link.call("close", within_s=_PLACE_S, id=self._name)
            except EdgeSdkError:
                self._link.close()  # the agent goes, and with it everything that it started
