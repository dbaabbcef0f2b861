"""Which engines of a device are probed, and in which precisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgesdk.backend import load_backend
from edgesdk.device.base import EngineThere
from edgesdk.device.find import LOCAL
from edgesdk.errors import BackendUnavailable, ProfileError
from edgesdk.machine import Machine
from edgesdk.profile import load_profile, profile_names
from edgesdk.profile_values import Profile
from edgesdk.recipe import Recipe

MAKERS = ("onnx", "protobuf", "ml_dtypes", "typing_extensions")
"""What making micro-graphs needs beside an engine: onnx, and what it imports."""

_TRIED = (
    ("fp32", "fp32"),
    ("bf16", "bf16"),
    ("w8a8", "w8a8-static"),
    ("w8-dynamic", "w8a8-dynamic"),
)
"""Precisions and the recipe that uses each."""


def profile_of(machine: Machine) -> Profile:
    """The installed profile that describes a machine best: its board's, else the most capable one.

    Raises:
        ProfileError: there is none for its architecture and instruction sets.
    """
    fits = [
        profile
        for profile in map(load_profile, profile_names())
        if not profile.taken_from and profile.mismatch(machine) is None
    ]
    if not fits:
        raise ProfileError(
            f"no installed profile describes the machine ({machine.arch}, {machine.cpu}); "
            f"installed: {', '.join(profile_names())}; write one first, see docs/profiles.md"
        )
    boards = [p for p in fits if any(machine.board.startswith(board) for board in p.boards)]
    plain = [profile for profile in fits if not profile.boards]
    return max(boards or plain or fits, key=lambda profile: len(profile.features))


def candidates(base: Profile, asked: Sequence[str], device: str) -> dict[str, str | None]:
    """The backends to look for on a device, each with why it cannot be probed there, or None.

    Args:
        base: the profile that describes the device.
        asked: by the user; empty for all of the profile.
        device: its name.

    Raises:
        ProfileError: the profile has no such runtime.
        BackendUnavailable: there is no such backend.
    """
    found = {}
    for name in asked or base.backends:
        base.runtime(name)
        found[name] = None if device == LOCAL else _against_elsewhere(name)
    return found


def usable(
    found: Mapping[str, str | None], there: Mapping[str, EngineThere], *, asked: bool
) -> dict[str, str]:
    """Of the candidates those that can be probed, and the versions of their engines.

    Raises:
        BackendUnavailable: one was asked for and cannot be probed, or none can.
    """
    versions, problems = {}, []
    for name, against in found.items():
        problem = against or there[name].unavailable
        if problem and asked:
            raise BackendUnavailable(f"backend {name!r}: {problem}")
        if problem:
            problems.append(f"{name}: {problem}")
        else:
            versions[name] = there[name].version
    if not versions:
        raise BackendUnavailable(f"no backend can be probed here: {'; '.join(problems)}")
    return versions


def native_precisions(base: Profile, backend: str) -> tuple[str, ...]:
    """Precisions in which a backend computes natively on the device."""
    engine = load_backend(backend)
    found = []
    for precision, name in _TRIED:
        tried = [name, f"{name}-reduce"] if precision.startswith("w8") else [name]
        recipes = [Recipe.parse(one) for one in tried]
        if any(
            engine.rejects(one) is None
            and not engine.quantizes(one)  # experiments are written as ONNX
            and base.rejects(one, backend) is None
            for one in recipes
        ):
            found.append(precision)
    return tuple(found)


def _against_elsewhere(name: str) -> str | None:
    """Why a backend cannot be probed on another machine, where graphs are made and converted too."""
    engine = load_backend(name)
    if any(engine.quantizes(Recipe.parse(recipe)) for _, recipe in _TRIED):
        return "its models are converted by tools that are not sent to a device"
    return None
