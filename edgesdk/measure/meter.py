"""Who measures: this process, with the device at hand, or somebody who has one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from edgesdk.device.base import Device
from edgesdk.device.bounded import BoundedDevice
from edgesdk.device.link import LinkLost
from edgesdk.measure.counting import Counts, count_runs
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.result import Measurement
from edgesdk.measure.settings import Inputs, Settings, Target


class Meter(ABC):
    """Measures artifacts on the devices of one kind; a pair always on one and the same."""

    @abstractmethod
    def pair(
        self,
        baseline: Target,
        candidate: Target,
        inputs: Inputs,
        settings: Settings,
        folder: Path,
        *,
        left_s: Callable[[], float],
    ) -> tuple[Measurement, Measurement]:
        """As `edgesdk.measure.pair.measure_candidate`, within the time left at any moment."""

    @abstractmethod
    def counts(
        self,
        target: Target,
        inputs: Inputs,
        settings: Settings,
        folder: Path,
        *,
        left_s: Callable[[], float],
    ) -> Counts:
        """As `edgesdk.measure.counting.count_runs`, within the time left at any moment."""


class DirectMeter(Meter):
    """On a device that this process talks with."""

    def __init__(self, device: Device) -> None:
        """Measure on `device`."""
        self._device = device

    def pair(
        self,
        baseline: Target,
        candidate: Target,
        inputs: Inputs,
        settings: Settings,
        folder: Path,
        *,
        left_s: Callable[[], float],
    ) -> tuple[Measurement, Measurement]:
        """Measured once more where the connection broke, which says nothing about the candidate."""
        device = BoundedDevice(self._device, left_s)
        try:
            return measure_candidate(baseline, candidate, inputs, settings, device, folder)
        except LinkLost:
            return measure_candidate(baseline, candidate, inputs, settings, device, folder)

    def counts(
        self,
        target: Target,
        inputs: Inputs,
        settings: Settings,
        folder: Path,
        *,
        left_s: Callable[[], float],
    ) -> Counts:
        """Counted in one process."""
        device = BoundedDevice(self._device, left_s)
        return count_runs(target, inputs, settings, device, folder)
