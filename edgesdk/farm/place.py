"""Devices of one kind in a farm as the place of a deploy: whatever runs there runs on any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgesdk.device.base import Device, EngineThere, Place
from edgesdk.device.find import LOCAL
from edgesdk.farm.client import Farm
from edgesdk.farm.members import Member, choose
from edgesdk.isolate import StepResult
from edgesdk.machine import Machine
from edgesdk.measure.counting import Counts
from edgesdk.measure.meter import DirectMeter, Meter
from edgesdk.measure.result import Measurement
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.profile_values import Profile


def open_farm(
    address: str,
    profile: Profile,
    backends: Sequence[str],
    *,
    device: str,
    left_s: Callable[[], float],
) -> FarmPlace:
    """The devices of a farm that stand for a profile's.

    Args:
        address: of its scheduler.
        profile: whose device they stand for.
        backends: those whose engines they should have.
        device: the ones of this name; `local` for those that come closest.
        left_s: seconds that a deploy still has, at any moment.

    Raises:
        BackendUnavailable: Dask is not installed here.
        DeviceError: there is no such scheduler, or no device of its farm can stand in.
    """
    farm = Farm(address, backends, left_s=left_s)
    try:
        wanted = None if device == LOCAL else device
        members, left_out = choose(list(farm.members.values()), profile, wanted)
    except BaseException:
        farm.close()
        raise
    refused = (f"{name}: {why}" for name, why in sorted(farm.refused.items()))
    return FarmPlace(farm, members, (*left_out, *refused))


def meter_of(place: Place) -> Meter:
    """Who measures at a place."""
    if isinstance(place, FarmPlace):
        return FarmMeter(place)
    assert isinstance(place, Device)
    return DirectMeter(place)


class FarmPlace(Place):
    """Equal devices of a farm."""

    def __init__(self, farm: Farm, members: Sequence[Member], left_out: Sequence[str]) -> None:
        """Use these devices.

        Args:
            farm: stays open until this is closed.
            members: of one kind, at least one.
            left_out: why the others are not used.
        """
        self.farm, self.like = farm, members[0]
        self.name = self.like.device if self.like.tells != "times" else "farm"
        self.evidence = self.like.evidence
        self.tells = self.like.tells
        self.identity = f"farm {self.like.kind}"
        self.lanes = len(members)
        names = ", ".join(item.worker for item in members)
        self.notes = (
            f"{self.lanes} devices of the farm ({self.like.title}): {names}",
            *(f"left out of the farm: {why}" for why in left_out),
        )

    def machine(self) -> Machine:
        """What each of them is."""
        return self.like.machine

    def engines(self, backends: Sequence[str]) -> dict[str, EngineThere]:
        """Those of each of them."""
        return {name: self.like.engines[name] for name in backends}

    def run_step(
        self,
        target: str,
        request: dict[str, Any],
        *,
        folder: Path,
        timeout_s: float,
        memory_bytes: int | None = None,
    ) -> StepResult:
        """Run it on one of them; its limit starts when it does."""
        asked = {
            "target": target,
            "request": request,
            "timeout_s": timeout_s,
            "memory_bytes": memory_bytes,
        }
        folder.mkdir(parents=True, exist_ok=True)
        return StepResult(**self.farm.carry_out("step", asked, self.like, folder))

    def close(self) -> None:
        """Leave the farm."""
        self.farm.close()


class FarmMeter(Meter):
    """Has the workers measure, each beside its device."""

    def __init__(self, place: FarmPlace) -> None:
        """Measure there."""
        self._place = place

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
        """Both on one device."""
        told = self._ask(
            "pair", folder, left_s, inputs, settings, baseline=baseline, candidate=candidate
        )
        before, after = (Measurement.from_json(told[side]) for side in ("before", "after"))
        return before, after

    def counts(
        self,
        target: Target,
        inputs: Inputs,
        settings: Settings,
        folder: Path,
        *,
        left_s: Callable[[], float],
    ) -> Counts:
        """On one of them."""
        told = self._ask("counts", folder, left_s, inputs, settings, target=target)
        return Counts.from_json(told["counts"])

    def _ask(
        self,
        do: str,
        folder: Path,
        left_s: Callable[[], float],
        inputs: Inputs,
        settings: Settings,
        **targets: Target,
    ) -> dict[str, Any]:
        left = left_s()
        request = {
            "inputs": asdict(inputs),
            "settings": asdict(settings),
            "left_s": None if math.isinf(left) else max(left, 0.1),
            **{side: _told(target) for side, target in targets.items()},
        }
        return self._place.farm.carry_out(do, request, self._place.like, folder)


def _told(target: Target) -> dict[str, Any]:
    """With all files named, as what lies beside the artifact is another thing there."""
    files = tuple(file.absolute() for file in target.all_files())
    return {**asdict(target), "artifact": target.artifact.absolute(), "files": files}
