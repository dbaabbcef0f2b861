"""From what `--device` says to a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgesdk.backend import backend_names
from edgesdk.cache import Cache
from edgesdk.device import adb, ssh
from edgesdk.device.base import Device, EngineThere
from edgesdk.device.cores import CORES
from edgesdk.device.emulated import EmulatedDevice
from edgesdk.device.local import LocalDevice
from edgesdk.device.simulated import SIMULATED, SimulatedDevice
from edgesdk.errors import DeviceError
from edgesdk.evidence import Evidence
from edgesdk.machine import Machine

LOCAL = "local"
_EMULATED = "emulated:"


def find_device(
    name: str, backends: Sequence[str], cache: Cache, *, also: Sequence[str] = ()
) -> Device:
    """The device of that name, made ready.

    Args:
        name: `local`, `simulated`, `emulated:CORE`, `ssh://[user@]host` (see `edgesdk.device.ssh`) or
            `adb://SERIAL` (see `edgesdk.device.adb`).
        backends: those whose engines it should have.
        cache: where what it needs is kept.
        also: distributions that a machine elsewhere is to have beside the engines.

    Raises:
        DeviceError: no such device, or it cannot be made ready.
    """
    if name == LOCAL:
        return LocalDevice()
    if name == SIMULATED:
        return SimulatedDevice()
    if is_emulated(name):
        return EmulatedDevice(name.removeprefix(_EMULATED), backends, cache)
    if name.startswith(ssh.SCHEME):
        return ssh.ssh_device(name, backends, cache, also=also)
    if name.startswith(adb.SCHEME):
        return adb.adb_device(name, backends, cache, also=also)
    legal = ", ".join(item.name for item in known_devices())
    raise DeviceError(f"no device {name!r}; legal: {legal}")


def is_emulated(name: str) -> bool:
    """Whether a device of that name counts instructions instead of timing runs."""
    return name.startswith(_EMULATED)


def is_timed(name: str) -> bool:
    """Whether a device of that name measures times and memory."""
    return name != SIMULATED and not is_emulated(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """A device that can be named.

    Attributes:
        name: what `--device` takes.
        title: for people.
        evidence: what figures taken there are.
        figures: the same in words.
    """

    name: str
    title: str
    evidence: Evidence
    figures: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


def known_devices() -> tuple[KnownDevice, ...]:
    """Every device, and the form of those that have an address."""
    local = KnownDevice(
        name=LOCAL,
        title="this machine",
        evidence=Evidence.MEASURED,
        figures="times and memory, measured",
    )
    emulated = (
        KnownDevice(
            name=f"{_EMULATED}{core.name}",
            title=core.title,
            evidence=Evidence.EMULATED,
            figures="outputs and instructions, emulated",
        )
        for core in CORES
    )
    over_ssh = KnownDevice(
        name=f"{ssh.SCHEME}[user@]host",
        title="another machine, over SSH",
        evidence=Evidence.MEASURED,
        figures="times and memory, measured there",
    )
    over_adb = KnownDevice(
        name=f"{adb.SCHEME}SERIAL",
        title="a device that `adb devices` tells of",
        evidence=Evidence.MEASURED,
        figures="times and memory, measured there",
    )
    simulated = KnownDevice(
        name=SIMULATED,
        title="a unit that is not here, by its vendor's tools",
        evidence=Evidence.SIMULATED,
        figures="what compiles, where it runs, outputs; some estimates",
    )
    return (local, simulated, *emulated, over_ssh, over_adb)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDevice:
    """A device that was made ready, and what was found there."""

    name: str
    machine: Machine
    engines: Mapping[str, EngineThere]

    @property
    def usable(self) -> bool:
        """Whether any engine runs there."""
        return any(item.unavailable is None for item in self.engines.values())

    def rows(self) -> Iterator[tuple[str, str]]:
        """Label and value of each finding."""
        machine = self.machine
        yield "device", self.name
        yield "processor", machine.cpu or "unknown"
        yield "architecture", f"{machine.arch}, {machine.os} {machine.kernel}"
        yield "instruction sets", ", ".join(sorted(machine.features)) or "unknown"
        for name, item in self.engines.items():
            yield name, item.version or item.unavailable or ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        engines = {name: asdict(item) for name, item in self.engines.items()}
        return {"name": self.name, "machine": self.machine.to_json(), "engines": engines}


def check_device(name: str, backends: Sequence[str] = ()) -> CheckedDevice:
    """Make a device ready, and look at it.

    Args:
        name: as for `find_device`.
        backends: whose engines to look at; empty for all that have one.

    Raises:
        DeviceError: as `find_device`.
    """
    wanted = tuple(backends) or tuple(item for item in backend_names() if item != "null")
    device = find_device(name, wanted, Cache())
    return CheckedDevice(name=device.name, machine=device.machine(), engines=device.engines(wanted))
