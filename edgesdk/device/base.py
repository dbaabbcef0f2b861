"""What a place must offer so that artifacts can be measured on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from edgesdk.evidence import Evidence
from edgesdk.isolate import StepResult
from edgesdk.machine import Machine

Tells = Literal["times", "instructions", "sizes"]
"""What there is to compare candidates by: wall-clock times and memory; or the instructions of a run;
or, where nothing runs as on the device, the sizes of programs and what compilers state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineThere:
    """An engine as it is on a device.

    Attributes:
        version: empty where it is not usable.
        unavailable: why not, or None.
        simulated: it computes here what the device's unit would, in a version of its own.
    """

    version: str
    unavailable: str | None = None
    simulated: bool = False


class Runner(ABC):
    """A process of `edgesdk.measure.runner` on a device. A context manager that ends it."""

    @abstractmethod
    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """The answer to one request of the runner's protocol.

        Raises:
            EdgeSdkError: the runner raised it.
            StepFailed: it crashed, did not answer in time or took too much memory; it is gone then.
        """

    @abstractmethod
    def freeze(self) -> None:
        """Take the processor away from it and all its threads, which may be spinning."""

    @abstractmethod
    def thaw(self) -> None:
        """Give it back."""

    @abstractmethod
    def close(self) -> None:
        """End it, and everything it started, now. Calling it twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Place(ABC):
    """Where the artifacts of a deploy run: a device, or a farm of equal ones.

    Facts about it are read there, by a process of ours, so that they are read the same way
    everywhere.

    Attributes:
        name: what `--device` takes.
        evidence: what figures taken here are.
        tells: what candidates can be compared by there.
        simulates: sessions are opened with `OpenOptions.simulate`.
        identity: what the outputs of a step depend on besides its inputs; empty for this machine.
        lanes: runs that it takes at the same time without one disturbing another; at least 1.
        notes: what the user should know about it.
    """

    name: str
    evidence: Evidence
    tells: Tells = "times"
    simulates: bool = False
    identity: str = ""
    lanes: int = 1
    notes: tuple[str, ...] = ()

    @abstractmethod
    def machine(self) -> Machine:
        """What it is.

        Raises:
            DeviceError: the device is not there.
        """

    @abstractmethod
    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """Of each of these backends, whether its engine can be used there, and its version.

        Raises:
            DeviceError: the device is not there.
        """

    def close(self) -> None:
        """Give back what the device holds. Calling it twice is harmless."""
        return

    @abstractmethod
    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Call `target(request)` in a fresh process there; see `edgesdk.isolate.run_isolated`."""


class Device(Place):
    """A place that runners can be started on, to talk with."""

    @abstractmethod
    def start_runner(self, log: Path, *, threads: int, memory_bytes: int | None = None) -> Runner:
        """Start a runner.

        Args:
            log: a file on this machine that takes what it prints.
            threads: what OpenMP and the like are told.
            memory_bytes: limit on its resident memory; None for none.

        Raises:
            DeviceError: the device is not there.
        """
