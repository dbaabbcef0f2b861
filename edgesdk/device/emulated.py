"""A processor that is not here, emulated instruction by instruction.

What comes out of an engine there, and which kernels it takes, is what the real processor would give.
Times mean nothing, so instructions are counted instead; memory would be the emulator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesdk.cache import Cache
from edgesdk.device.base import Device, EngineThere, Runner
from edgesdk.device.cores import core_named
from edgesdk.device.guest import Guest
from edgesdk.device.local import start_hosted_runner
from edgesdk.device.requests import plain
from edgesdk.device.survey import survey_device
from edgesdk.evidence import Evidence
from edgesdk.isolate import StepResult, run_isolated
from edgesdk.machine import Machine


class EmulatedDevice(Device):
    """A processor under qemu's user-mode emulation, with this machine's files and kernel."""

    evidence = Evidence.EMULATED
    tells = "instructions"

    def __init__(self, core: str, backends: Sequence[str], cache: Cache) -> None:
        """Set it up; the first time this downloads what it needs.

        Args:
            core: a name of `edgesdk.device.cores.CORES`.
            backends: those whose engines it is to have, as far as their wheels exist for it.
            cache: where its parts are kept.

        Raises:
            DeviceError: there is no such processor, or it cannot be set up here.
        """
        self.name = f"emulated:{core}"
        self._guest = Guest(core_named(core), backends, cache)
        self.identity = self._guest.identity

    def machine(self) -> Machine:
        """The processor, with this machine's kernel, cores and memory."""
        return survey_device(self, ())[0]

    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """Those whose wheels were unpacked for it."""
        return survey_device(self, backends)[1]

    def start_runner(self, log: Path, *, threads: int, memory_bytes: int | None = None) -> Runner:
        """Start it under the emulator, counting."""
        launcher = self._guest.launcher(log.with_suffix(".counts"))
        return start_hosted_runner(
            log, threads=threads, memory_bytes=memory_bytes, launcher=launcher
        )

    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Run it under the emulator, with this machine's files."""
        return run_isolated(
            target,
            plain(request),
            folder=folder,
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
            launcher=self._guest.launcher(),
        )
