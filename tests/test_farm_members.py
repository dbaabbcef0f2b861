"""Which devices of a farm are of one kind, and which kind stands for a profile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.device.base import EngineThere
from edgesdk.device.cores import core_named
from edgesdk.errors import DeviceError
from edgesdk.evidence import Evidence
from edgesdk.farm.members import Member, choose
from edgesdk.machine import Machine, parse_cpuinfo
from edgesdk.profile import load_profile
from edgesdk.profile_values import Profile

GIB = 1 << 30


def emulated(worker: str, core: str) -> Member:
    found = core_named(core)
    cpu = parse_cpuinfo(found.proc_cpuinfo())
    return Member(
        address=f"tcp://{worker}:1",
        worker=worker,
        device=f"emulated:{core}",
        evidence=Evidence.EMULATED,
        tells="instructions",
        machine=Machine(
            arch=found.arch,
            os="linux",
            kernel="6.1",
            cpu=cpu.model,
            board="",
            features=cpu.features,
            physical_cores=1,
            logical_cores=1,
            memory_bytes=GIB,
        ),
        engines={"onnxruntime": EngineThere(version="1.31.1")},
    )


def board(worker: str, memory_gib: int = 8, version: str = "1.31.1") -> Member:
    like = emulated(worker, "cortex-a76")
    return replace(
        like,
        device="local",
        evidence=Evidence.MEASURED,
        tells="times",
        machine=replace(
            like.machine,
            board="Raspberry Pi 5 Model B Rev 1.0",
            memory_bytes=memory_gib * GIB,
            logical_cores=4,
        ),
        engines={"onnxruntime": EngineThere(version=version)},
    )


EVERYTHING = (
    board("pi-1"),
    board("pi-2"),
    board("small", memory_gib=4),
    board("old", version="1.30.0"),
    *(
        emulated(core, core)
        for core in ("cortex-a53", "cortex-a72", "cortex-a76", "armv8.6", "haswell")
    ),
)
PROFILES = [
    load_profile(name)
    for name in ("raspberry-pi-4", "raspberry-pi-5", "arm-cpu", "x86", "x86-avx2")
]


@pytest.mark.parametrize(
    ("profile", "workers"),
    [
        ("raspberry-pi-5", ["pi-1", "pi-2"]),
        ("raspberry-pi-4", ["cortex-a72"]),
        ("x86-avx2", ["haswell"]),
    ],
)
def test_the_kind_that_comes_closest_is_taken(profile: str, workers: list[str]) -> None:
    chosen, _ = choose(EVERYTHING, load_profile(profile))
    assert [item.worker for item in chosen] == workers


def test_who_is_left_out_is_told_with_the_difference() -> None:
    _, notes = choose(EVERYTHING, load_profile("raspberry-pi-5"))
    told = dict(note.split(": ", 1) for note in notes)
    assert told.keys() == {item.worker for item in EVERYTHING} - {"pi-1", "pi-2"}
    assert told["small"] == f"another kind, memory_bytes {4 * GIB}, not {8 * GIB}"
    assert told["old"] == "another kind, onnxruntime 1.30.0, not 1.31.1"
    assert "arch = 'aarch64'" in told["haswell"]


@pytest.mark.parametrize(("wanted", "workers"), [("emulated:cortex-a76", 1), ("pi-2", 1)])
def test_a_device_or_a_worker_can_be_named(wanted: str, workers: int) -> None:
    chosen, _ = choose(EVERYTHING, load_profile("raspberry-pi-5"), wanted)
    assert len(chosen) == workers
    assert wanted in (chosen[0].device, chosen[0].worker)


def test_a_device_that_nobody_drives_is_refused() -> None:
    with pytest.raises(DeviceError, match="no device called emulated:cortex-a99"):
        choose(EVERYTHING, load_profile("arm-cpu"), "emulated:cortex-a99")


@settings(deadline=None)
@given(
    members=st.lists(st.sampled_from(EVERYTHING), unique_by=lambda item: item.worker, min_size=1),
    facts=st.sampled_from(PROFILES),
)
def test_devices_chosen_are_of_one_kind_whatever_the_order(
    members: list[Member], facts: Profile
) -> None:
    try:
        chosen, notes = choose(members, facts)
    except DeviceError:
        assert all(facts.mismatch(item.machine) for item in members)
        return
    assert choose(members[::-1], facts) == (chosen, notes)
    assert len({item.kind for item in chosen}) == 1
    assert all(facts.mismatch(item.machine) is None for item in chosen)
    names = {note.split(": ", 1)[0] for note in notes} | {item.worker for item in chosen}
    assert names == {item.worker for item in members}
    kinds = {item.kind for item in chosen}
    assert all(item in chosen for item in members if item.kind in kinds)
