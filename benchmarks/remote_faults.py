"""What becomes of runs on a machine over SSH or adb while things break.

    python -m benchmarks.remote_faults --out benchmarks/results [--over adb] [--count 200] [--seed 1]

OpenSSH's own client and server, or adb and adbd, on this machine, with a network between them that is
cut, falls silent or comes back, an agent or a step that is killed, hangs, crashes or swells, a server
that is away for a while, a device in use, and files that earlier agents left half written. The
schedule follows from the seed. Every fault must end in the right result or in a typed error, within the
time limit and 5 s, and leave nothing behind: no process, no half-written file, no folder of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from edgesdk.cache import Cache
from edgesdk.device.find import find_device
from edgesdk.device.remote import RemoteDevice
from edgesdk.errors import EdgeSdkError
from edgesdk.files import sha256_file
from edgesdk.machine import detect
from edgesdk.testing.adb import Board, Client
from edgesdk.testing.openssh import Proxy, Server, client

COUNT_MARK, GRACE_S = 200, 5.0
_DRILL = "edgesdk.device.drill"
_LIMIT_S = 8.0
_SETTLE_S = 25.0
"""An agent that nobody speaks to ends by itself after 15 s."""
_MEGABYTE = 1 << 20


class _Server(Protocol):
    """What listens on the device.

    Attributes:
        port: of 127.0.0.1.
        home: of the user that agents run as.
    """

    port: int
    home: Path


class _Place:
    """The server, the network before it, and the device behind it, for one fault."""

    def __init__(
        self,
        server: _Server,
        address: Callable[[int], str],
        path: Path,
        chance: random.Random,
        cache: Cache,
    ) -> None:
        self.server, self.chance, self.path, self.cache = server, chance, path, cache
        self.network = Proxy(server.port)
        self.url = f"{address(self.network.port)}?python={sys.executable}"
        self.device = self.open()
        self.there = server.home / ".cache/edgesdk-device"
        self.found_there = self._half_done()
        self._timers: list[threading.Timer] = []

    def open(self) -> RemoteDevice:
        found = find_device(self.url, ("onnxruntime",), self.cache)
        assert isinstance(found, RemoteDevice)
        return found

    def _half_done(self) -> list[str]:
        """What a new agent should have removed of the last one's, and has not."""
        left = [*(self.there / "files").glob("*.part"), *(self.there / "steps").glob("*")]
        return [str(path.relative_to(self.there)) for path in left]

    def later(self, seconds: float, what: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def file(self, megabytes: float) -> Path:
        path = self.path / f"{self.chance.getrandbits(64):x}.bin"
        path.write_bytes(self.chance.randbytes(int(megabytes * _MEGABYTE)))
        return path

    def step(self, name: str, request: dict[str, Any], **limits: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self.path) as folder:
            return self.device.run_step(
                f"{_DRILL}:{name}",
                request,
                folder=Path(folder),
                timeout_s=_LIMIT_S,
                **limits,
            ).response

    def digest(self, path: Path, seconds: float = 0.0) -> bool:
        """Whether the device has the file as it is here."""
        found = self.step("digest", {"file": path, "seconds": seconds})
        return bool(found["sha256"] == sha256_file(path))

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self.network.speak()
        self.device.close()
        self.network.close()


Fault = Callable[[_Place], bool]
"""Does its work while it goes wrong; whether the result is right."""


def cut_while_sending(place: _Place) -> bool:
    file = place.file(6)
    place.network.cut(after_bytes=place.chance.randrange(1, 6 * _MEGABYTE))
    return place.digest(file)


def cut_again_and_again(place: _Place) -> bool:
    file = place.file(4)
    for number in range(4):
        place.later(0.2 + 0.9 * number, place.network.cut)
    return place.digest(file)


def cut_while_running(place: _Place) -> bool:
    file = place.file(0.1)
    place.later(place.chance.uniform(0.3, 1.5), place.network.cut)
    return place.digest(file, seconds=1.5)


def silent_for_good(place: _Place) -> bool:
    place.later(place.chance.uniform(0.0, 1.0), place.network.fall_silent)
    return place.digest(place.file(2), seconds=2.0)


def silent_for_a_while(place: _Place) -> bool:
    file = place.file(3)
    begin = place.chance.uniform(0.0, 0.5)
    place.later(begin, place.network.fall_silent)
    place.later(begin + place.chance.uniform(0.5, 3.0), place.network.speak)
    return place.digest(file)


def agent_killed(place: _Place) -> bool:
    file = place.file(0.1)
    place.later(place.chance.uniform(0.2, 1.2), lambda: _kill(place, "edgesdk.device.agent"))
    return place.digest(file, seconds=1.5)


def step_killed(place: _Place) -> bool:
    place.later(place.chance.uniform(0.5, 1.5), lambda: _kill(place, "edgesdk.isolate"))
    return place.digest(place.file(0.1), seconds=3.0)


def step_hangs(place: _Place) -> bool:
    place.step("hang", {})
    return False


def step_crashes(place: _Place) -> bool:
    place.step("crash", {})
    return False


def step_swells(place: _Place) -> bool:
    place.step("swell", {"mib": 400}, memory_bytes=200 * _MEGABYTE)
    return False


def runner_killed(place: _Place) -> bool:
    with place.device.start_runner(place.path / "log.txt", threads=1) as runner:
        runner.ask({"do": "facts"}, timeout_s=_LIMIT_S)
        _kill(place, "edgesdk.measure.runner")
        runner.ask({"do": "facts"}, timeout_s=_LIMIT_S)
    return False


def server_away(place: _Place) -> bool:
    file = place.file(0.5)
    place.network.refuse()
    place.network.cut()
    place.later(place.chance.uniform(0.2, 0.9), place.network.accept_again)
    return place.digest(file)


def half_written(place: _Place) -> bool:
    file = place.file(1)
    place.device.close()
    _gone(place)
    files = place.there / "files"
    (files / f"{sha256_file(file)}.part").write_bytes(b"half of it")
    (place.there / "steps/000001").mkdir(parents=True)
    place.device = place.open()
    return place.digest(file)


def in_use(place: _Place) -> bool:
    place.open().close()
    return False


def disk_full(place: _Place) -> bool:
    """More than is free, as the agent sees it: a sparse file that nobody has the room for."""
    free = shutil.disk_usage(place.there).free
    file = place.path / "vast.bin"
    with file.open("wb") as stream:
        stream.truncate(64)
    link = place.device.link
    assert link is not None
    link.call("put", within_s=_LIMIT_S, body=b"x", sha256="0" * 64, size=free, offset=0)
    return False


FAULTS: tuple[Fault, ...] = (
    cut_while_sending,
    cut_again_and_again,
    cut_while_running,
    silent_for_good,
    silent_for_a_while,
    agent_killed,
    step_killed,
    step_hangs,
    step_crashes,
    step_swells,
    runner_killed,
    server_away,
    half_written,
    in_use,
    disk_full,
)


def main() -> int:
    """Inject the faults, write the figures; exits 1 when one ended badly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the result file")
    parser.add_argument("--over", choices=sorted(_OVER), default="ssh")
    parser.add_argument("--count", type=int, default=COUNT_MARK)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    schedule = [FAULTS[number % len(FAULTS)] for number in range(options.count)]
    chance.shuffle(schedule)
    cache = Cache()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, _OVER[options.over](Path(name), cache) as reached:
        for number, fault in enumerate(schedule):
            folder = Path(name) / str(number)
            folder.mkdir()
            place = _Place(*reached, folder, chance, cache)
            if found:
                found[-1]["left_behind"] += place.found_there
            item = _inject(fault, place)
            print(json.dumps({"number": number, **item}), flush=True)
            found.append(item)
            shutil.rmtree(folder)
    document = _document(found, options)
    options.out.mkdir(parents=True, exist_ok=True)
    over = "" if options.over == "ssh" else f"-{options.over}"
    path = options.out / f"{document['date']}-remote-faults{over}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document["summary"]))
    return int(not document["summary"]["kept"])


def _inject(fault: Fault, place: _Place) -> dict[str, Any]:
    begun = time.monotonic()
    ended, told = "wrong result", ""
    try:
        if fault(place):
            ended = "result"
    except EdgeSdkError as exc:
        ended, told = f"error {type(exc).__name__}", str(exc).partition("\n")[0][:160]
    except Exception as exc:  # what must not happen is counted, not raised
        ended, told = f"untyped {type(exc).__name__}", str(exc)[:160]
    seconds = time.monotonic() - begun
    place.close()
    left = _gone(place)
    return {
        "fault": fault.__name__,
        "ended": ended,
        "told": told.replace(place.url, f"{place.url.partition(':')[0]}://…").replace(
            str(place.server.home), "~"
        ),
        "seconds": round(seconds, 2),
        "late": seconds > _LIMIT_S + GRACE_S,
        "left_behind": left,
    }


def _gone(place: _Place) -> list[str]:
    """What is still there when there was time to tidy up."""
    deadline = time.monotonic() + _SETTLE_S
    while (left := _left(place)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _left(place: _Place) -> list[str]:
    """Processes now; files when the next agent has started."""
    return [f"process {name}" for _, name in _processes(place)]


def _processes(place: _Place) -> Iterator[tuple[int, str]]:
    """Our processes whose home is the server's."""
    wanted = f"HOME={place.server.home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if "edgesdk" in words:
                    yield int(entry.name), words[:80]


def _kill(place: _Place, module: str) -> None:
    for pid, words in _processes(place):
        if module in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


_Reached = tuple[_Server, Callable[[int], str]]
"""A server, and its address by the port of the network before it."""


@contextlib.contextmanager
def _over_ssh(folder: Path, cache: Cache) -> Iterator[_Reached]:
    (folder / "sshd").mkdir()
    server = Server(folder / "sshd", cache)
    with client(folder / "client", server) as programs:
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        yield server, lambda port: f"ssh://{server.user}@127.0.0.1:{port}"
    server.close()


@contextlib.contextmanager
def _over_adb(folder: Path, cache: Cache) -> Iterator[_Reached]:
    board, known = Board(folder / "board", cache), Client(folder / "client", cache)
    os.environ["PATH"] = f"{known.folder}{os.pathsep}{os.environ['PATH']}"
    try:
        yield board, lambda port: f"adb://{known.connect(port)}"
    finally:
        known.close()
        board.kill()


_OVER = {"ssh": _over_ssh, "adb": _over_adb}


def _document(found: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    wrong = [item for item in found if item["ended"].startswith(("wrong", "untyped"))]
    late = [item for item in found if item["late"]]
    left = [item for item in found if item["left_behind"]]
    return {
        "command": f"python -m benchmarks.remote_faults --out O --over {options.over} "
        f"--count {options.count} --seed {options.seed}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {**detect().to_json(), "python": platform.python_version()},
        "limit_s": _LIMIT_S,
        "summary": {
            "faults": len(found),
            "results": sum(item["ended"] == "result" for item in found),
            "typed_errors": sum(item["ended"].startswith("error") for item in found),
            "wrong": len(wrong),
            "late": len(late),
            "left_behind": len(left),
            "slowest_s": max(item["seconds"] for item in found),
            "kept": not (wrong or late or left) and len(found) >= COUNT_MARK,
        },
        "by_fault": {
            fault.__name__: dict(
                Counter(item["ended"] for item in found if item["fault"] == fault.__name__)
            )
            for fault in FAULTS
        },
        "faults": found,
    }


if __name__ == "__main__":
    sys.exit(main())
