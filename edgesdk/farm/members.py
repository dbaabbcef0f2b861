"""The devices of a farm: which are of one kind, and which kind stands for a profile. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgesdk.device.base import EngineThere, Tells
from edgesdk.errors import DeviceError
from edgesdk.evidence import Evidence
from edgesdk.files import sha256_json
from edgesdk.machine import Machine
from edgesdk.profile_values import Profile

_ORDER = list(Evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One device of a farm, and the worker that drives it.

    Attributes:
        address: the worker's, which is another one after it was restarted.
        worker: its name; by default its address.
        device: what it drives, as `--device` takes it; `local` for the worker's own machine.
        evidence: what figures taken there are.
        tells: what candidates can be compared by there.
        machine: what it is.
        engines: of the backends asked for.
    """

    address: str
    worker: str
    device: str
    evidence: Evidence
    tells: Tells
    machine: Machine
    engines: Mapping[str, EngineThere]

    @classmethod
    def of(cls, address: str, worker: str, told: Mapping[str, Any]) -> Self:
        """From what `edgesdk.farm.host.describe` tells."""
        machine = told["machine"]
        return cls(
            address=address,
            worker=worker,
            device=told["device"],
            evidence=Evidence(told["evidence"]),
            tells=told["tells"],
            machine=Machine(**{**machine, "features": frozenset(machine["features"])}),
            engines={name: EngineThere(**item) for name, item in told["engines"].items()},
        )

    @property
    def kind(self) -> str:
        """What figures taken there depend on: equal for devices that can stand in for each other."""
        return sha256_json([facts for _, facts in self._facts()])

    @property
    def title(self) -> str:
        """For people."""
        if self.tells != "times":
            return self.device
        return self.machine.board or self.machine.cpu or self.machine.arch

    def difference(self, other: Member) -> str:
        """What makes another one a device of another kind."""
        pairs = zip(self._facts(), other._facts(), strict=True)
        told = [f"{name} {b}, not {a}" for (name, a), (_, b) in pairs if a != b]
        return "; ".join(told)

    def _facts(self) -> list[tuple[str, Any]]:
        return [
            ("device", self.device if self.tells != "times" else "a real one"),
            *self.machine.to_json().items(),
            *((name, item.version or "absent") for name, item in sorted(self.engines.items())),
        ]


def choose(
    members: Sequence[Member], profile: Profile, wanted: str | None = None
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """The devices of the one kind that comes closest to a profile's.

    That is the kind whose figures prove most; then the one with most of the profile's instruction
    sets; then with the processor that it names; then the one with most devices.

    Args:
        members: the whole farm.
        profile: whose device they stand for.
        wanted: the device or worker of this name only.

    Returns:
        The devices, in order of their names, and about each that is left out, why.

    Raises:
        DeviceError: none can stand in for the profile's device.
    """
    unfit: dict[str, str] = {}
    kinds: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda item: item.worker):
        why = profile.mismatch(member.machine)
        if wanted not in (None, member.device, member.worker):
            why = "not asked for"
        if why:
            unfit[member.worker] = why
        else:
            kinds.setdefault(member.kind, []).append(member)
    if not kinds:
        told = "; ".join(f"{name}: {why}" for name, why in unfit.items())
        asked = f" called {wanted}" if wanted else ""
        raise DeviceError(
            f"the farm has no device{asked} that can stand in for profile {profile.name!r}: {told}"
        )
    best = min(kinds.values(), key=lambda kind: _rank(kind, profile))
    notes = [f"{name}: {why}" for name, why in unfit.items()]
    for kind in kinds.values():
        if kind is not best:
            notes += [f"{item.worker}: another kind, {best[0].difference(item)}" for item in kind]
    return tuple(best), tuple(notes)


def _rank(kind: Sequence[Member], profile: Profile) -> tuple[int, int, bool, int, str]:
    one = kind[0]
    proves = profile.proves(one.machine, one.evidence)
    shared = len(profile.features & one.machine.features)
    named = bool(one.machine.cpu) and any(one.machine.cpu in unit.title for unit in profile.units)
    return _ORDER.index(proves), -shared, not named, -len(kind), one.worker
