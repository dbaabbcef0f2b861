"""A step in a child process, with limits: native code that crashes, hangs or swells fails alone.

The folder of a step, its working directory, keeps the record:

    request.json    what it was asked
    response.json   what it answered; only there when it did
    outcome.json    its peak memory, and the error that it raised
    log.txt         what it and native code printed
    progress.txt    what it told of itself on the way, a line each; only there when it did

`python -m edgesdk.isolate FOLDER` runs the same step again by hand.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.errors import StepFailed
from edgesdk.files import read_json, write_json
from edgesdk.process import (
    Child,
    Launcher,
    ended_badly,
    error_from_json,
    error_to_json,
    hold_leash,
    memory_now,
)

REQUEST, RESPONSE, OUTCOME, LOG = "request.json", "response.json", "outcome.json", "log.txt"
PROGRESS = "progress.txt"
RECORD = frozenset({REQUEST, RESPONSE, OUTCOME, LOG, PROGRESS})

_POLL_S = 0.05
_FOLLOW_S = 0.5
_MIB = 1 << 20
_LOG_LIMIT_BYTES = 16 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What an isolated step delivered.

    Attributes:
        response: what the function returned.
        peak_mib: peak resident memory of the step and all it started.
        seconds: wall-clock time, start of the interpreter included.
    """

    response: dict[str, Any]
    peak_mib: float
    seconds: float


def run_isolated(
    target: str,
    request: dict[str, Any],
    *,
    folder: Path,
    timeout_s: float,
    memory_bytes: int | None = None,
    threads: int | None = None,
    launcher: Launcher | None = None,
) -> StepResult:
    """Call `target(request)` in a fresh process; it, and all it starts, is gone when this returns.

    Args:
        target: `module:function`, taking and returning a JSON object.
        request: give paths to read as absolute text.
        folder: the step's working directory and record; made when missing.
        timeout_s: wall-clock limit.
        memory_bytes: limit on resident and swapped memory of the step and all it started, looked at
            20 times a second; None for none.
        threads: what OpenMP and the like are told; None leaves it to them.
        launcher: what starts the process; None for this interpreter.

    Raises:
        EdgeSdkError: the step raised it; same class, same message.
        StepFailed: it crashed, hung, took too much memory or raised anything else.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (RESPONSE, OUTCOME, PROGRESS):
        (folder / stale).unlink(missing_ok=True)
    (folder / LOG).write_bytes(b"")
    write_json(
        folder / REQUEST, {"target": target, "request": request, "asked_in": str(Path.cwd())}
    )
    start = time.monotonic()
    with Child(
        "edgesdk.isolate", str(folder), log=folder / LOG, threads=threads, launcher=launcher
    ) as child:
        peak_mib = _watch(child, target, start, timeout_s, memory_bytes)
        code, log = child.kill(), child.log_tail()
    if code != 0 or not (folder / OUTCOME).is_file():
        raise ended_badly(f"step {target}", code, log)
    outcome = read_json(folder / OUTCOME)
    if outcome["error"] is not None:
        raise error_from_json(outcome["error"], what=f"step {target}", log=log)
    return StepResult(
        response=read_json(folder / RESPONSE),
        peak_mib=max(peak_mib, outcome["peak_mib"]),
        seconds=time.monotonic() - start,
    )


def tell(line: str) -> None:
    """Called in a step: a line of its progress, for who follows it (`following`)."""
    with Path(PROGRESS).open("a", encoding="utf-8") as stream:
        stream.write(" ".join(line.split()) + "\n")


@contextlib.contextmanager
def following(folder: Path, hear: Callable[[str], None]) -> Iterator[None]:
    """Around a step that runs in a folder of this machine: every line that it tells is heard at once.

    What a step tells that runs elsewhere is not heard.
    """
    ended = threading.Event()
    file = folder / PROGRESS

    def follow() -> None:
        heard = 0
        over = False
        while not over:
            over = ended.wait(_FOLLOW_S)
            told = file.read_text(encoding="utf-8") if file.exists() else ""
            lines = told[: told.rfind("\n") + 1].splitlines()
            for line in lines[heard:]:
                hear(line)
            heard = len(lines)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(
    child: Child, target: str, start: float, timeout_s: float, memory_bytes: int | None
) -> float:
    """The peak memory seen in MiB, once the child has ended within its limits."""
    peak_mib = 0.0
    while not child.ended(_POLL_S):
        peak_mib = max(peak_mib, child.memory_mib())
        if memory_bytes is not None and peak_mib * _MIB > memory_bytes:
            child.kill()
            raise StepFailed(
                f"step {target} took {peak_mib:.0f} MiB of memory; "
                f"its limit is {memory_bytes / _MIB:.0f} MiB",
                kind="memory",
                log=child.log_tail(),
            )
        if time.monotonic() - start > timeout_s:
            _print_stack(child)
            child.kill()
            raise StepFailed(
                f"step {target} did not end within {timeout_s:g} s",
                kind="timeout",
                log=child.log_tail(),
            )
        _bound_log(child.log)
    return peak_mib


def _print_stack(child: Child) -> None:
    """Let a child that is about to be killed write to its log where it hangs (see `_main`)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGUSR1)
    child.ended(_POLL_S)


def _bound_log(log: Path) -> None:
    """Drop what was printed so far when it threatens to fill the disk."""
    if log.stat().st_size > _LOG_LIMIT_BYTES:
        os.truncate(log, 0)  # the child appends, so it goes on at the new end


def _resolve(target: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    module, _, name = target.partition(":")
    function: Callable[[dict[str, Any]], dict[str, Any]] = getattr(
        importlib.import_module(module), name
    )
    return function


def _call(request: dict[str, Any]) -> None:
    # Code that the user brings lies where they stand; last, so that it hides nothing.
    sys.path.append(request["asked_in"])
    response = _resolve(request["target"])(request["request"])
    if not isinstance(response, dict):
        raise TypeError(f"a step returns a JSON object, not {type(response).__name__}")
    write_json(Path(RESPONSE), response)


def _main(folder: Path) -> None:
    hold_leash()
    os.chdir(folder)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    error = None
    try:
        _call(read_json(Path(REQUEST)))
    except BaseException as exc:  # the border of the process: all is reported
        traceback.print_exc()
        error = error_to_json(exc)
    write_json(Path(OUTCOME), {"error": error, "peak_mib": memory_now()["peak_mib"]})
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines have been seen to crash or hang in their destructors; the answer is already safe.
    os._exit(0)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
