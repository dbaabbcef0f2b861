"""A child process of ours: started clean, watched, and never left behind, nor anything it started.

A child leads a session of its own and holds the read end of a pipe, its leash. The kernel kills the
child's whole process group when the write end closes, which it does however this process ends, even
by SIGKILL, and even when the child hangs in native code, blocks signals or is frozen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from edgesdk import errors
from edgesdk.errors import EdgeSdkError, StepFailed

COUNTS = "EDGESDK_INSTRUCTIONS"
"""Names to a child the file in which the emulator that runs it counts instructions."""

_LEASH = "EDGESDK_LEASH"
_LOG_TAIL_BYTES = 4000
_PROC = Path("/proc")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """What starts Python programs: this interpreter, or another one, such as one under an emulator.

    Attributes:
        command: what the interpreter's arguments are appended to.
        environment: variables that the program gets beside ours.
    """

    command: tuple[str, ...] = (sys.executable,)
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running `python -m module …`; a context manager that kills what is left of the group.

    Attributes:
        pid: also the id of its process group and session.
        log: the file that takes what it prints.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path,
        threads: int | None = None,
        talk: bool = False,
        launcher: Launcher | None = None,
    ) -> None:
        """Start it.

        Args:
            module: run as a program; the current folder is not on its import path.
            arguments: its command line.
            log: takes standard error, and standard output unless `talk`.
            threads: what OpenMP and the like are told; None leaves it to them.
            talk: standard input and output become the pipes `stdin` and `stdout`.
            launcher: what starts it; None for this interpreter.
        """
        launcher = launcher or Launcher()
        held, self._leash = os.pipe()
        self.log = log
        self._seen: dict[int, str] = {}
        pipe = subprocess.PIPE
        try:
            with log.open("ab") as sink:
                self._process = subprocess.Popen(
                    [*launcher.command, "-P", "-m", module, *arguments],
                    stdin=pipe if talk else subprocess.DEVNULL,
                    stdout=pipe if talk else sink,
                    stderr=sink,
                    env={
                        **child_environment(threads),
                        **launcher.environment,
                        _LEASH: str(held),
                    },
                    pass_fds=[held],
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._leash)
            raise
        finally:
            os.close(held)
        self.pid = self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """Where to write to it; only with `talk`."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Where to read from it; only with `talk`."""
        assert self._process.stdout is not None
        return self._process.stdout

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended by itself, after waiting at most that long.

        It stays a zombie until `kill`, so that its id cannot be given to anyone else before that.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.001
        while not self._is_zombie():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s *= 1.5
        return True

    def _is_zombie(self) -> bool:
        if self._leash < 0:
            return True
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group, if it is still there."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def memory_mib(self) -> float:
        """Resident and swapped memory of it and all it started, now; 0 where nothing can tell."""
        table = _process_table()
        members = _members(table, self.pid)
        self._seen.update({pid: table[pid][2] for pid in members})
        return sum(_resident_mib(pid) for pid in members)

    def own_memory_mib(self) -> float:
        """The same of the child alone; cheap enough to ask beside a measurement."""
        return _resident_mib(self.pid)

    def kill(self) -> int:
        """End it and everything it started, now. Calling it twice is harmless.

        Returns:
            Its exit code, negative where a signal ended it.
        """
        if self._leash < 0:
            return self._process.wait()
        table = _process_table()
        self._seen.update({pid: table[pid][2] for pid in _members(table, self.pid)})
        self.signal(signal.SIGKILL)
        # Descendants that left the group; the start time tells them from a reused id.
        for pid, started in self._seen.items():
            if pid in table and table[pid][2] == started:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        os.close(self._leash)
        self._leash = -1
        return code

    def log_tail(self) -> str:
        """The end of what it printed."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace").strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def child_environment(threads: int | None) -> dict[str, str]:
    """The environment of a child: this one's, with telemetry off and nothing left to chance."""
    environment = {
        **os.environ,
        "NNCF_CI": "1",  # nncf reports usage unless this is set
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
    }
    for name in ("PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME"):
        environment.pop(name, None)
    return environment if threads is None else {**environment, **thread_limits(threads)}


def thread_limits(threads: int) -> dict[str, str]:
    """Variables that native libraries look at when they are loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def hold_leash() -> None:
    """In a child, first thing: from here on the group dies with the process that started it."""
    text = os.environ.pop(_LEASH, None)
    if text is None:  # started by hand
        return
    fd = int(text)
    os.set_inheritable(fd, False)
    if hasattr(fcntl, "F_SETSIG"):
        # Linux: the closing of the pipe raises a signal of our choice for the whole group.
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):  # still open
            _die_at_end(fd)
    else:
        threading.Thread(target=_die_at_end, args=(fd,), daemon=True).start()


def _die_at_end(fd: int) -> None:
    if not os.read(fd, 1):
        os.killpg(0, signal.SIGKILL)


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11, and so on."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ended_badly(what: str, code: int, log: str) -> StepFailed:
    """The error of a child that ended without an answer.

    Its `kind` is `error`, `crash`, or `killed` where someone else ended it: a person, or a kernel
    out of memory.
    """
    if code >= 0:
        return StepFailed(f"{what} ended with exit code {code} and no answer", log=log)
    name = signal_name(-code)
    if -code == signal.SIGKILL:
        message = (
            f"{what} was killed from outside ({name}); the system does so when memory runs out"
        )
        return StepFailed(message, kind="killed", log=log)
    if -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return StepFailed(f"{what} was ended from outside ({name})", kind="killed", log=log)
    return StepFailed(f"{what} crashed with {name}", kind="crash", log=log)


def error_to_json(error: BaseException) -> dict[str, str]:
    """An error as plain values, for the process that asked."""
    if isinstance(error, EdgeSdkError):
        # A third party's subclass travels as the class of ours that it extends.
        ours = next(cls for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
        return {
            "type": ours.__name__,
            "message": str(error),
            "kind": getattr(error, "kind", ""),
            "log": getattr(error, "log", ""),
        }
    memory = isinstance(error, MemoryError) or "bad_alloc" in str(error)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    kind = "memory" if memory else "error"
    return {"type": StepFailed.__name__, "message": text, "kind": kind, "log": ""}


def error_from_json(data: dict[str, str], *, what: str, log: str) -> EdgeSdkError:
    """The inverse of `error_to_json`; a `StepFailed` names `what` was running, unless it is empty."""
    cls = getattr(errors, data["type"])
    if cls is not StepFailed:
        error: EdgeSdkError = cls(data["message"])
        return error
    message = f"{what}: {data['message']}" if what else data["message"]
    return StepFailed(message, kind=data["kind"], log=data["log"] or log)


def memory_now() -> dict[str, float]:
    """This process's resident memory in MiB, and its peak since the last `reset_peak`."""
    lines = _status(os.getpid())
    if "VmHWM" in lines:
        return {"now_mib": lines["VmRSS"] / 1024, "peak_mib": lines["VmHWM"] / 1024}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
    return {"now_mib": peak_mib, "peak_mib": peak_mib}


def reset_peak() -> bool:
    """Start the peak of `memory_now` anew from now; False where that is forbidden."""
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(pid: int) -> dict[str, int]:
    """The `Vm…` lines of a process in KiB; empty when it is gone or nothing can tell."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("Vm"):
                name, value = line.split(":", 1)
                found[name] = int(value.split()[0])
    return found


def _resident_mib(pid: int) -> float:
    lines = _status(pid)
    return (lines.get("VmRSS", 0) + lines.get("VmSwap", 0)) / 1024


def _process_table() -> dict[int, tuple[int, int, str]]:
    """Parent, group and start time of every process; empty where there is no /proc."""
    table: dict[int, tuple[int, int, str]] = {}
    if not _PROC.is_dir():
        return table
    for entry in os.listdir(_PROC):  # noqa: PTH208 - iterdir costs four times as much, 20 times a second
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = (_PROC / entry / "stat").read_text(errors="replace")
                rest = text[text.rindex(")") + 2 :].split()
                table[int(entry)] = (int(rest[1]), int(rest[2]), rest[19])
    return table


def _members(table: dict[int, tuple[int, int, str]], root: int) -> set[int]:
    """The processes of a group and everything they started, as far as it can be traced."""
    members = {pid for pid, (_, group, _) in table.items() if root in (pid, group)}
    grown = True
    while grown:
        more = {pid for pid, row in table.items() if row[0] in members} - members
        members |= more
        grown = bool(more)
    return members
