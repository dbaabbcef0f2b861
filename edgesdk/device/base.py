"""What a place must offer so that artifacts can be measured on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from edgesdk.evidence import Evidence


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


class Device(ABC):
    """A place where artifacts run.

    Facts about it are read there, by a runner, so that they are read the same way everywhere.
    """

    name: ClassVar[str]
    evidence: ClassVar[Evidence]
    """What times taken here are."""

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
