"""What else a machine was doing, from recorded and from real readings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgesdk.measure.environment import changes, choose_cores, counters, facts, free_mib


def reading(**changed: Any) -> dict[str, Any]:
    return {
        "seconds": 100.0,
        "cores": {"0": [10.0, 0.0, 1000.0], "1": [10.0, 0.0, 1000.0]},
        "processes": {"7": ["us", 50.0], "8": ["browser", 5.0], "9": ["idle", 1.0]},
        "load": 0.5,
        "mhz": "2000",
        "celsius": "",
        "overheated": 0,
        "held_back": 0,
    } | changed


LATER = {"seconds": 110.0}


def test_a_quiet_machine_gives_no_warning() -> None:
    after = reading(**LATER, processes={"7": ["us", 60.0], "8": ["browser", 5.1]})
    seen, warnings = changes(reading(), after, cores=[0], own=[7])
    assert warnings == ()
    assert seen["other_processes"] == "1% of a core"
    assert seen["mhz"] == "2000 -> 2000"
    assert "celsius" not in seen


def test_other_processes_are_named_and_ours_are_not() -> None:
    after = reading(**LATER, processes={"7": ["us", 60.0], "8": ["browser", 9.0], "10": ["new", 2]})
    _, (warning,) = changes(reading(), after, cores=[0], own=[7])
    assert "60% of a core (browser 40%, new 20%)" in warning


def test_time_taken_by_the_host_is_a_warning() -> None:
    after = reading(**LATER, cores={"0": [10.0, 200.0, 2000.0], "1": [10.0, 0.0, 2000.0]})
    assert changes(reading(), after, cores=[1], own=[])[1] == ()
    assert "took 20% of the time" in changes(reading(), after, cores=[0], own=[])[1][0]


@pytest.mark.parametrize(("name", "text"), [("overheated", "heat 3"), ("held_back", "quota")])
def test_throttling_is_a_warning(name: str, text: str) -> None:
    (warning,) = changes(reading(), reading(**LATER, **{name: 3}), cores=[0], own=[])[1]
    assert text in warning


def test_a_busy_process_on_this_machine_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        before = counters()
        time.sleep(0.5)
        after = counters()
        busy.kill()
    only_it = {str(busy.pid): after["processes"][str(busy.pid)]}
    seen, _ = changes(before, after | {"processes": only_it}, cores=[0], own=[])
    assert int(seen["other_processes"].split("%")[0]) > 5


def test_this_machine_is_described() -> None:
    known = facts()
    assert {"cpu", "arch", "os", "usable_cores", "python"} <= known.keys()
    assert (free_mib() or 0) > 10


def test_a_machine_without_any_of_the_files_is_described_by_what_is_known(tmp_path: Path) -> None:
    assert facts(tmp_path)["usable_cores"] == str(len(os.sched_getaffinity(0)))
    assert free_mib(tmp_path) is None
    before = counters(tmp_path)
    assert before["cores"] == before["processes"] == {}
    assert changes(before, counters(tmp_path), cores=[0], own=[])[1] == ()


def test_a_control_group_limits_the_free_memory(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    box = tmp_path / "sys/fs/cgroup/box"
    box.mkdir(parents=True)
    assert free_mib(tmp_path) == pytest.approx(8000000 / 1024)
    (box / "memory.max").write_text(f"{1 << 30}\n")
    (box / "memory.current").write_text(f"{1 << 29}\n")
    assert free_mib(tmp_path) == 512


def machine_with(root: Path, twins: list[str], busy: list[int], capacity: list[int]) -> None:
    (root / "proc").mkdir()
    lines = [f"cpu{core} {ticks} 0 0 1000 0 0 0 0" for core, ticks in enumerate(busy)]
    (root / "proc/stat").write_text("\n".join(["cpu 1 2 3", *lines, "intr 5"]))
    for core, pair in enumerate(twins):
        folder = root / f"sys/devices/system/cpu/cpu{core}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(pair + "\n")
        (folder / "cpu_capacity").write_text(f"{capacity[core]}\n")


def test_threads_get_a_physical_core_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    machine_with(tmp_path, ["0,2", "1,3", "0,2", "1,3"], [0, 0, 0, 0], [1, 1, 1, 1])
    assert choose_cores(2, tmp_path) == [0, 1]
    assert choose_cores(4, tmp_path) == [0, 1, 2, 3]
    assert choose_cores(9, tmp_path) == [0, 1, 2, 3]


def test_strong_cores_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    machine_with(tmp_path, ["0", "1", "2", "3"], [0, 0, 0, 0], [400, 400, 1024, 1024])
    assert choose_cores(2, tmp_path) == [2, 3]
