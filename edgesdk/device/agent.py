"""What runs on a device: `python -P -m edgesdk.device.agent FOLDER CLIENT`, over its standard streams.

It does for another machine what `LocalDevice` does for this one, and keeps the files for it:

    FOLDER/lock            held as long as an agent runs, so that two never disturb each other
    FOLDER/files/SHA256    what was sent, whole: a file is there when its hash was right
    FOLDER/tree/…          the same files by the names that requests use, as links
    FOLDER/steps/ID        folders of steps, until their files were fetched

It ends, with all that it started, when its input ends or nothing was heard for `PATIENCE_S`; or when
the same client comes again, whose connection must have broken. What an earlier one left half done is
removed before anything else.

Requests are answered in order, `ping` at once:

    place    files {path: sha256}              links those that are there; says which hashes are not
    put      sha256 size offset + bytes        a piece of a file; the last one is checked and renamed
    step     id target request timeout_s memory_bytes
                                               its answer; name, size and hash of files it wrote
    get      id name offset most               a piece of such a file
    drop     id                                the folder is not needed any more
    start    id threads memory_bytes           a runner
    ask      id request timeout_s              its answer
    freeze, thaw, close     id
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgesdk.device.base import Runner
from edgesdk.device.frames import Message, Unpacker, pack
from edgesdk.device.local import LocalDevice
from edgesdk.device.shelf import Shelf
from edgesdk.errors import DeviceError, EdgeSdkError
from edgesdk.isolate import LOG
from edgesdk.process import error_to_json

PATIENCE_S = 15.0
"""The other side says something every 2 s; silence that long means that it is gone."""

_READ_BYTES = 1 << 20
_LOCK_S = 5.0


class _Agent:
    def __init__(self, folder: Path) -> None:
        self._shelf = Shelf(folder)
        self._device = LocalDevice()
        self._runners: dict[str, Runner] = {}
        self.verbs: dict[str, Callable[..., tuple[Message, bytes]]] = {
            "place": self.place,
            "put": self.put,
            "step": self.step,
            "get": self.get,
            "drop": self.drop,
            "start": self.start,
            "ask": self.ask,
            "freeze": self.freeze,
            "thaw": self.thaw,
            "close": self.close,
        }

    def tidy(self) -> None:
        """Remove what an agent that was killed left behind."""
        self._shelf.tidy()

    def place(self, _: bytes, files: dict[str, str]) -> tuple[Message, bytes]:
        return {"missing": self._shelf.place(files)}, b""

    def put(self, body: bytes, sha256: str, size: int, offset: int) -> tuple[Message, bytes]:
        self._shelf.put(body, sha256=sha256, size=size, offset=offset)
        return {}, b""

    def step(
        self,
        _: bytes,
        id: str,
        target: str,
        request: dict[str, Any],
        timeout_s: float,
        memory_bytes: int | None,
    ) -> tuple[Message, bytes]:
        folder = self._shelf.steps / id
        try:
            found = self._device.run_step(
                target,
                self._shelf.mapped(request),
                folder=folder,
                timeout_s=timeout_s,
                memory_bytes=memory_bytes,
            )
        except EdgeSdkError as exc:
            return {"error": error_to_json(exc), "files": self._listed(folder)}, b""
        return {
            "response": found.response,
            "peak_mib": found.peak_mib,
            "seconds": found.seconds,
            "files": self._listed(folder),
        }, b""

    def get(
        self,
        _: bytes,
        id: str,
        name: str,
        offset: int,
        most: int,
    ) -> tuple[Message, bytes]:
        with (self._shelf.steps / id / name).open("rb") as stream:
            stream.seek(offset)
            return {}, stream.read(most)

    def drop(self, _: bytes, id: str) -> tuple[Message, bytes]:
        shutil.rmtree(self._shelf.steps / id, ignore_errors=True)
        return {}, b""

    def start(
        self,
        _: bytes,
        id: str,
        threads: int,
        memory_bytes: int | None,
    ) -> tuple[Message, bytes]:
        log = self._shelf.steps / id / LOG
        self._runners[id] = self._device.start_runner(
            log, threads=threads, memory_bytes=memory_bytes
        )
        return {}, b""

    def ask(
        self,
        _: bytes,
        id: str,
        request: dict[str, Any],
        timeout_s: float,
    ) -> tuple[Message, bytes]:
        answer = self._runners[id].ask(self._shelf.mapped(request), timeout_s=timeout_s)
        return {"answer": answer}, b""

    def freeze(self, _: bytes, id: str) -> tuple[Message, bytes]:
        self._runners[id].freeze()
        return {}, b""

    def thaw(self, _: bytes, id: str) -> tuple[Message, bytes]:
        self._runners[id].thaw()
        return {}, b""

    def close(self, _: bytes, id: str) -> tuple[Message, bytes]:
        if runner := self._runners.pop(id, None):
            runner.close()
        return self.drop(b"", id)

    def _listed(self, folder: Path) -> list[list[Any]]:
        """Name, size and hash of each file; they are kept, as later steps may read them."""
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        return [
            [str(file.relative_to(folder)), file.stat().st_size, sha256]
            for file, sha256 in self._shelf.keep(files)
        ]


class _Ears(threading.Thread):
    """Hears what comes in while the agent works; ends the process when nobody speaks any more."""

    def __init__(self, say: Callable[[Message, bytes], None]) -> None:
        super().__init__(daemon=True)
        self.heard: queue.SimpleQueue[tuple[Message, bytes]] = queue.SimpleQueue()
        self._say = say
        self._last = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def run(self) -> None:
        try:
            self._listen()
        except Exception:  # nonsense came in; there is nobody to tell
            traceback.print_exc()
        os._exit(0)  # children are on a leash that breaks with us

    def _listen(self) -> None:
        unpacker = Unpacker()
        while piece := os.read(0, _READ_BYTES):
            self._last = time.monotonic()
            unpacker.add(piece)
            while (found := unpacker.message()) is not None:
                message, body = found
                if message["do"] == "ping":
                    self._say({"pong": True}, b"")
                else:
                    self.heard.put((message, body))

    def _watch(self) -> None:
        while time.monotonic() - self._last < PATIENCE_S:
            time.sleep(1.0)
        os._exit(4)


def _answer(agent: _Agent, message: Message, body: bytes) -> tuple[Message, bytes]:
    number = message.pop("number")
    try:
        told, data = agent.verbs[message.pop("do")](body, **message)
    except BaseException as exc:  # the border of the process: all is reported
        return {"number": number, "error": error_to_json(exc)}, b""
    return {"number": number, **told}, data


def _hold_lock(folder: Path, client: str) -> None:
    """Be the only agent here, now or soon.

    Args:
        folder: where the lock is.
        client: who is asking; an agent of the same one is ended.

    Raises:
        DeviceError: another one is.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"the device is in use: process {_holder(lock)[1]} there holds {folder}; "
                    "wait until that has ended"
                ) from None
            holder, pid = _holder(lock)
            if holder == client:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{client} {os.getpid()}".encode(), 0)
            return


def _holder(lock: int) -> tuple[str, int]:
    """The client and the process that hold a lock, as far as they wrote it down."""
    client, _, pid = os.pread(lock, 200, 0).decode(errors="replace").partition(" ")
    return (client, int(pid)) if pid.isdigit() else ("", 0)


def main() -> None:
    """Answer until the input ends."""
    out = os.dup(1)
    os.dup2(2, 1)  # what anything prints does not touch the protocol
    speaking = threading.Lock()

    def say(message: Message, body: bytes) -> None:
        data = pack(message, body)
        with speaking, contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(out, data) :]

    folder = Path(sys.argv[1]).resolve()
    try:
        _hold_lock(folder, sys.argv[2])
        agent = _Agent(folder)
        agent.tidy()
    except (EdgeSdkError, OSError) as exc:
        say({"ready": False, "error": error_to_json(exc)}, b"")
        return
    ears = _Ears(say)
    ears.start()
    say({"ready": True}, b"")
    while True:
        say(*_answer(agent, *ears.heard.get()))


if __name__ == "__main__":
    main()
