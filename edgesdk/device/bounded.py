"""Any device, with an end to the time that its runners have for all their answers together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgesdk.device.base import Device, EngineThere, Runner
from edgesdk.isolate import StepResult
from edgesdk.machine import Machine


class BoundedDevice(Device):
    """A device whose runners answer within the time left, or are ended."""

    def __init__(self, device: Device, left_s: Callable[[], float]) -> None:
        """Bound `device` by `left_s`, which tells the seconds left at any moment."""
        self._device, self._left_s = device, left_s
        self.name, self.evidence, self.identity = device.name, device.evidence, device.identity
        self.tells = device.tells
        self.simulates = device.simulates

    def machine(self) -> Machine:
        """That of the device itself."""
        return self._device.machine()

    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """Those of the device itself."""
        return self._device.engines(backends)

    def start_runner(self, log: Path, *, threads: int, memory_bytes: int | None = None) -> Runner:
        """Start a runner of the device itself."""
        runner = self._device.start_runner(log, threads=threads, memory_bytes=memory_bytes)
        return _BoundedRunner(runner, self._left_s)

    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Run it on the device itself, within the time left."""
        return self._device.run_step(
            target,
            request,
            folder=folder,
            timeout_s=max(0.0, min(timeout_s, self._left_s())),
            memory_bytes=memory_bytes,
        )


class _BoundedRunner(Runner):
    def __init__(self, runner: Runner, left_s: Callable[[], float]) -> None:
        self._runner, self._left_s = runner, left_s

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        return self._runner.ask(request, timeout_s=max(0.0, min(timeout_s, self._left_s())))

    def freeze(self) -> None:
        self._runner.freeze()

    def thaw(self) -> None:
        self._runner.thaw()

    def close(self) -> None:
        self._runner.close()
