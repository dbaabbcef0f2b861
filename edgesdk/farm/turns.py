"""Turns on one machine: what is timed there has it to itself, everything else may go side by side.

Workers and deploys are processes that know nothing of each other, so files are locked; the kernel frees
them when a holder dies. Who wants the machine to itself waits at the door, and nobody passes by.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesdk.device.local import LocalDevice
from edgesdk.errors import StepFailed
from edgesdk.isolate import StepResult


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Have this machine, alone or beside others who do not time anything."""
    place = Path(tempfile.gettempdir()) / f"edgesdk-turns-{os.getuid()}"
    place.mkdir(exist_ok=True)
    with (place / "room").open("ab") as room:
        with (place / "door").open("ab") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


class MakingPlace(LocalDevice):
    """This machine where artifacts are made for devices of a farm, some of which it may drive itself.

    Several deploys of one process make one thing at a time, as each step may take most of the memory.
    """

    _making = threading.Lock()

    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Run it in a child process here, when it is its turn; waiting counts."""
        begun = time.monotonic()
        with self._making, turn(alone=False):
            left_s = timeout_s - (time.monotonic() - begun)
            if left_s <= 0.0:
                raise StepFailed(f"step {target} did not get its turn in time", kind="timeout")
            return super().run_step(
                target, request, folder=folder, timeout_s=left_s, memory_bytes=memory_bytes
            )
