"""This machine, and runners that are children of this process."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesdk.device.base import Device, EngineThere, Runner
from edgesdk.device.requests import plain
from edgesdk.device.survey import look_at_engine
from edgesdk.errors import StepFailed
from edgesdk.evidence import Evidence
from edgesdk.isolate import StepResult, run_isolated
from edgesdk.machine import Machine, detect
from edgesdk.process import Child, Launcher, ended_badly, error_from_json

_RUNNER = "edgesdk.measure.runner"
_POLL_S = 0.1
_READ_BYTES = 1 << 20
_MIB = 1 << 20


class LocalDevice(Device):
    """The machine that this program runs on. Nothing is copied."""

    name = "local"
    evidence = Evidence.MEASURED

    def machine(self) -> Machine:
        """As `edgesdk.machine.detect` finds it."""
        return detect()

    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """As their adapters find them."""
        return {name: look_at_engine(name) for name in backends}

    def start_runner(self, log: Path, *, threads: int, memory_bytes: int | None = None) -> Runner:
        """Start it in a session of its own; it dies with this process."""
        return start_hosted_runner(log, threads=threads, memory_bytes=memory_bytes)

    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Run it in a child process here."""
        return run_isolated(
            target, plain(request), folder=folder, timeout_s=timeout_s, memory_bytes=memory_bytes
        )


def start_hosted_runner(
    log: Path,
    *,
    threads: int,
    memory_bytes: int | None = None,
    launcher: Launcher | None = None,
) -> Runner:
    """A runner as a child of this process; see `Device.start_runner`.

    Args:
        launcher: what starts its interpreter; None for this one.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    child = Child(_RUNNER, log=log, threads=threads, talk=True, launcher=launcher)
    return _LocalRunner(child, memory_bytes)


class _LocalRunner(Runner):
    def __init__(self, child: Child, memory_bytes: int | None) -> None:
        self._child = child
        self._memory_bytes = memory_bytes
        self._pending = b""
        self._opened = ""
        self._answers = select.poll()
        self._answers.register(child.stdout, select.POLLIN)

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        if "artifact" in request:
            self._opened = f" of {request['backend']}/{Path(request['artifact']).name}"
        what = f"the runner's {request['do']!r}{self._opened}"
        try:
            self._child.stdin.write(json.dumps(plain(request)).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed, it died earlier
            raise self._dead(what) from None
        answer: dict[str, Any] = json.loads(self._read_line(what, timeout_s))
        if "error" in answer:
            raise error_from_json(answer["error"], what=what, log=self._child.log_tail())
        return answer

    def freeze(self) -> None:
        self._child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._child.signal(signal.SIGCONT)

    def close(self) -> None:
        self._child.kill()

    def _read_line(self, what: str, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        pieces = [self._pending]
        while b"\n" not in pieces[-1]:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                self.close()
                raise StepFailed(
                    f"{what} did not end within {timeout_s:g} s",
                    kind="timeout",
                    log=self._child.log_tail(),
                )
            self._check_memory(what)
            pause_s = left_s if self._memory_bytes is None else min(left_s, _POLL_S)
            if self._answers.poll(pause_s * 1000):
                piece = os.read(self._child.stdout.fileno(), _READ_BYTES)
                if not piece:
                    raise self._dead(what)
                pieces.append(piece)
        line, _, self._pending = b"".join(pieces).partition(b"\n")
        return line

    def _check_memory(self, what: str) -> None:
        if self._memory_bytes is None:
            return
        now_mib = self._child.own_memory_mib()
        if now_mib * _MIB > self._memory_bytes:
            self.close()
            raise StepFailed(
                f"{what} took {now_mib:.0f} MiB of memory; "
                f"its limit is {self._memory_bytes / _MIB:.0f} MiB",
                kind="memory",
                log=self._child.log_tail(),
            )

    def _dead(self, what: str) -> StepFailed:
        self._child.ended(1.0)  # its pipe closes a moment before it is gone
        return ended_badly(what, self._child.kill(), self._child.log_tail())
