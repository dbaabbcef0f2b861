"""A connection to an agent: a program such as `ssh` or `adb` whose pipes carry messages.

Whatever happens to the other side, a call ends: with its answer, or with `LinkLost` at its deadline
at the latest. A dead peer is noticed within seconds, because both sides speak all the time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.device.frames import Message, Unpacker, pack
from edgesdk.errors import DeviceError
from edgesdk.process import error_from_json

PING_S = 2.0
SILENCE_S = 8.0
"""A peer that answers no ping for that long is gone."""
CONNECT_S = 30.0
SLOWEST = 1e5
"""Bytes a second; a slower link is as good as none."""

_MARKER = b"\nEDGESDK AGENT\n"
"""What comes before it was printed by the device's login, and is kept for messages."""
_READ_BYTES = 1 << 20
_LOUDEST = 4000
_POLITE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A zip file that goes on the import path of the agent.

    Attributes:
        name: what it is called there, together with its key.
        file: the zip file here.
        key: its SHA-256.
        unpack: extract it there, as compiled modules cannot be imported from inside.
    """

    name: str
    file: Path
    key: str
    unpack: bool = False


class LinkLost(DeviceError):
    """The connection broke, or the other side fell silent: worth another try.

    Attributes:
        code: what the connecting program exited with, as far as that is known.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Link:
    """An agent that answers. A context manager that ends it.

    Attributes:
        log: the file that takes what the connecting program and the agent print.
    """

    def __init__(
        self,
        command: Sequence[str],
        choose: Callable[[dict[str, Any]], Sequence[Part]],
        log: Path,
        *,
        name: str,
        within_s: float = CONNECT_S,
    ) -> None:
        """Connect, and give the device what it has not got.

        Args:
            command: runs the bootstrap on the device.
            choose: what it needs, by the facts that the bootstrap tells.
            log: made where missing.
            name: of the device, for messages.
            within_s: seconds until the device must have answered; sending what it needs may take longer.

        Raises:
            LinkLost: the device cannot be reached, or went away.
            DeviceError: it cannot be used: no Python 3.11, the disk is full, it is in use.
        """
        self.log, self._name = log, name
        self._numbers = itertools.count()
        self._unpacker = Unpacker()
        self._writing = threading.Lock()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._said_before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._last = time.monotonic()
        self._closed = threading.Event()
        try:
            self._patience_s = math.inf  # until the agent runs there is nobody who answers pings
            self._open(choose, within_s)
            self._patience_s = SILENCE_S
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep_speaking, daemon=True).start()

    def call(
        self, verb: str, *, within_s: float, body: bytes = b"", **request: Any
    ) -> tuple[Message, bytes]:
        """The answer to one request of the agent's protocol, and the bytes that came with it.

        Args:
            verb: as in `edgesdk.device.agent`.
            within_s: seconds until an answer must be there.
            body: bytes that go with it.
            request: its other values.

        Raises:
            LinkLost: no answer in time, or none is to be expected any more; the link is closed.
            EdgeSdkError: what the agent raised.
        """
        number = next(self._numbers)
        self._last = time.monotonic()  # nobody listened since the last call
        deadline = self._last + within_s
        self._write(pack({"do": verb, "number": number, **request}, body), deadline)
        while True:
            message, data = self._next(deadline)
            if message.get("number") == number:
                break
        if "error" in message:
            raise error_from_json(message["error"], what="", log="")
        return message, data

    @property
    def pid(self) -> int:
        """Of the connecting program, which leads a process group of its own."""
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether it can be used no more."""
        return self._closed.is_set()

    def close(self) -> None:
        """End the connection, and with it the agent. Calling it twice is harmless."""
        self._closed.set()
        if not self._writing.acquire(timeout=_POLITE_S):
            self._kill()  # whoever is writing sees the end now
            self._writing.acquire()
        try:
            self._process.stdin.close()  # type: ignore[union-attr]
        except OSError:
            pass
        finally:
            self._writing.release()
        try:
            self._process.wait(_POLITE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _open(self, choose: Callable[[dict[str, Any]], Sequence[Part]], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        heard = self._skip_to_marker(deadline)
        parts = choose(json.loads(self._line(deadline)))
        deadline = time.monotonic() + within_s  # choosing may have taken its time
        asked = [[part.name, part.key, part.file.stat().st_size, part.unpack] for part in parts]
        self._write(json.dumps(asked).encode() + b"\n", deadline)
        for part in parts:
            answer = self._line(deadline)
            if answer == b"need":
                deadline = time.monotonic() + within_s + part.file.stat().st_size / SLOWEST
                self._write(part.file.read_bytes(), deadline)
                answer = self._line(deadline)
            if answer != b"have":
                said = answer.decode(errors="replace") or heard
                raise DeviceError(f"device {self._name} cannot be used: {said}")
        message, _ = self._next(deadline)
        if not message.get("ready"):
            raise error_from_json(message["error"], what="", log="")

    def _skip_to_marker(self, deadline: float) -> str:
        """Read past what a login prints; that text."""
        return self._line(deadline, _MARKER).decode(errors="replace").strip()

    def _line(self, deadline: float, end: bytes = b"\n") -> bytes:
        while (found := self._unpacker.line(end)) is None:
            self._read(deadline)
        return found

    def _next(self, deadline: float) -> tuple[Message, bytes]:
        try:
            while (found := self._unpacker.message()) is None:
                self._read(deadline)
        except ValueError as exc:
            raise self._lost(f"spoke nonsense: {exc}") from exc
        return found

    def _read(self, deadline: float) -> None:
        """Take in what the device says next.

        Raises:
            LinkLost: it fell silent, its connection ended, or the deadline is over.
        """
        silent_at = self._last + self._patience_s
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise self._lost("did not answer in time")
            if now >= silent_at:
                raise self._lost(f"has said nothing for {self._patience_s:g} s")
            wait_s = min(deadline, silent_at) - now
            if _wait(self._out, select.POLLIN, wait_s):
                break
        piece = os.read(self._out, _READ_BYTES)
        if not piece:
            raise self._lost("ended the connection")
        self._last = time.monotonic()
        self._unpacker.add(piece)

    def _write(self, data: bytes, deadline: float) -> None:
        with self._writing:
            problem = self._send(data, deadline)
        if problem:
            raise self._lost(problem)

    def _send(self, data: bytes, deadline: float) -> str | None:
        """Send all of it; why that was not possible, or None."""
        if self._closed.is_set():
            return "is not connected any more"
        view = memoryview(data)
        while view:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return "did not take what was sent in time"
            try:
                if not _wait(self._in, select.POLLOUT, min(left_s, SILENCE_S)):
                    return f"has taken nothing for {SILENCE_S:g} s"
                view = view[os.write(self._in, view[:_READ_BYTES]) :]
            except BlockingIOError:
                continue
            except (OSError, ValueError):  # ValueError: closed here
                return "ended the connection"
        return None

    def _keep_speaking(self) -> None:
        """Ping, so that each side knows that the other is there while one of them works.

        Where that fails the program is killed, so that whoever reads from it sees its end.
        """
        while not self._closed.wait(PING_S):
            with self._writing:
                problem = self._send(pack({"do": "ping"}), time.monotonic() + SILENCE_S)
            if problem:
                self._kill()
                return

    def _lost(self, what: str) -> LinkLost:
        self.close()
        said = self.log.read_bytes()[self._said_before :][-_LOUDEST:]
        told = said.decode(errors="replace").strip()
        text = f"device {self._name} {what}" + (f": {told}" if told else "")
        return LinkLost(text, code=self._process.returncode)


def _wait(fd: int, event: int, seconds: float) -> bool:
    """Whether something can be read or written within that time, or the other end is gone."""
    waiting = select.poll()
    waiting.register(fd, event)
    return bool(waiting.poll(max(0.0, seconds) * 1000))
