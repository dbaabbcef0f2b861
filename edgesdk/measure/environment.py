"""Facts about the machine a measurement ran on, and what else it was doing. Runs on the device.

`facts` says what the machine is, `counters` where its clocks stand; `changes` compares two of the
latter. All is read from the system's own files; what cannot be read is left out, never guessed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgesdk.machine import detect, parse_self_cgroup

_BUSY_SHARE = 0.20
"""Other processes' share of our cores above which times are worth a warning."""
_STOLEN_SHARE = 0.05
"""The same for time that a hypervisor gave to other machines."""
_NAMED_SHARE = 0.05
_CLOCK_SAMPLE_S = 0.15
_MIB = 1 << 20


def facts(root: Path = Path("/")) -> dict[str, str]:
    """What the machine is, in words."""
    machine = detect(root)
    known = {
        "cpu": machine.cpu,
        "arch": machine.arch,
        "board": machine.board,
        "os": f"{machine.os} {machine.kernel}",
        "usable_cores": str(machine.logical_cores),
        "memory_mib": str(machine.memory_bytes // _MIB) if machine.memory_bytes else "",
        "governor": ", ".join(sorted(set(_each_core(root, "cpufreq/scaling_governor")))),
        "max_mhz": _mhz(_each_core(root, "cpufreq/cpuinfo_max_freq")),
        "python": platform.python_version(),
    }
    return {name: value for name, value in known.items() if value}


def free_mib(root: Path = Path("/")) -> float | None:
    """Memory that a new process may take before anything has to be swapped out; None if unknown."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            break
    else:
        return None
    for folder in _cgroups(root, "memory"):
        # version 2, then version 1
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _read(folder / limit_name).strip(), _read(folder / used_name).strip()
            if limit.isdigit() and used.isdigit():
                free = min(free, int(limit) - int(used))
    return free / _MIB


def counters(root: Path = Path("/")) -> dict[str, Any]:
    """Readings that only mean something when compared with later ones; plain JSON values."""
    return {
        "seconds": time.monotonic(),
        "cores": _core_times(root),
        "processes": _process_times(root),
        "load": os.getloadavg()[0],
        "mhz": _mhz(_each_core(root, "cpufreq/scaling_cur_freq")),
        "celsius": _temperature(root),
        "overheated": _total(root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/*_count")),
        "held_back": _quota_waits(root),
    }


def held_up_ns() -> int:
    """For how long threads of this process have been ready to run while others had the cores.

    The second field of Linux's `schedstat`, over all threads; always 0 where there is none.
    """
    total = 0
    for stat in Path("/proc/self/task").glob("*/schedstat"):
        fields = _read(stat).split()
        total += int(fields[1]) if len(fields) > 1 else 0
    return total


def stolen_ns(root: Path = Path("/")) -> int:
    """For how long the host has run others on this machine's cores; 0 where that is not told.

    `/proc/stat` counts it in ticks of usually 10 ms, so it is seen a little late.
    """
    fields = _read(root / "proc/stat").partition("\n")[0].split()
    ticks = int(fields[8]) if len(fields) > 8 and fields[0] == "cpu" else 0
    return ticks * (10**9 // os.sysconf("SC_CLK_TCK"))


def changes(
    before: dict[str, Any],
    after: dict[str, Any],
    *,
    cores: Sequence[int],
    own: Sequence[int],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What went on between two `counters`, and what of it makes times doubtful.

    Args:
        before: a reading.
        after: a later one on the same machine.
        cores: where the measured runs were pinned.
        own: processes that belong to the measurement.
    """
    elapsed_s = max(after["seconds"] - before["seconds"], 1e-3)
    seen = {
        "load_average": f"{before['load']:.2f} -> {after['load']:.2f}",
        "mhz": _moved(before["mhz"], after["mhz"]),
        "celsius": _moved(before["celsius"], after["celsius"]),
    }
    warnings = []
    others = _others(before["processes"], after["processes"], own, elapsed_s)
    total = sum(share for _, share in others)
    named = ", ".join(f"{name} {share:.0%}" for name, share in others if share >= _NAMED_SHARE)
    seen["other_processes"] = f"{total:.0%} of a core" + (f" ({named})" if named else "")
    if total > _BUSY_SHARE * len(cores):
        warnings.append(f"other processes used {seen['other_processes']} meanwhile")
    stolen = _stolen(before["cores"], after["cores"], cores)
    if stolen > _STOLEN_SHARE:
        warnings.append(f"the host took {stolen:.0%} of the time of the cores for others")
    for name, text in (
        ("overheated", "the processor throttled because of heat {} times"),
        ("held_back", "a processor quota held this process back {} times"),
    ):
        times = after[name] - before[name]
        if times > 0:
            seen[name] = str(times)
            warnings.append(text.format(times))
    return {name: value for name, value in seen.items() if value}, tuple(warnings)


def choose_cores(count: int, root: Path = Path("/")) -> list[int]:
    """The cores to pin `count` threads to; all usable ones where there are no more than that.

    The strongest first (on mixed clusters), one thread to a physical core as long as there are any
    left, the idlest first.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) <= count:
        return usable
    before = _core_times(root)
    time.sleep(_CLOCK_SAMPLE_S)
    after = _core_times(root)
    busy = {
        core: after[str(core)][0] - before[str(core)][0] for core in usable if str(core) in after
    }
    folder = root / "sys/devices/system/cpu"
    taken: dict[str, int] = {}
    ranks = {}
    for core in sorted(usable, key=lambda core: busy.get(core, 0)):
        twins = _read(folder / f"cpu{core}/topology/thread_siblings_list").strip() or str(core)
        strength = int(_read(folder / f"cpu{core}/cpu_capacity").strip() or 0)
        taken[twins] = taken.get(twins, 0) + 1
        ranks[core] = (taken[twins], -strength, busy.get(core, 0))
    return sorted(sorted(usable, key=ranks.__getitem__)[:count])


def _core_times(root: Path) -> dict[str, list[float]]:
    """Of each core: ticks busy, ticks stolen by the host, all ticks."""
    found = {}
    for line in _read(root / "proc/stat").splitlines():
        name, *rest = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [float(tick) for tick in rest[:8]]
            idle = ticks[3] + ticks[4]
            stolen = ticks[7] if len(ticks) > 7 else 0.0
            found[name[3:]] = [sum(ticks) - idle - stolen, stolen, sum(ticks)]
    return found


def _process_times(root: Path) -> dict[str, list[Any]]:
    """Of each process: its name and the processor time it has used, in seconds."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    found: dict[str, list[Any]] = {}
    for stat in root.glob("proc/[0-9]*/stat"):
        text = _read(stat)
        if ")" in text:
            head, _, rest = text.rpartition(")")
            fields = rest.split()
            found[stat.parent.name] = [
                head.partition("(")[2],
                (int(fields[11]) + int(fields[12])) * tick_s,
            ]
    return found


def _others(
    before: dict[str, list[Any]], after: dict[str, list[Any]], own: Sequence[int], elapsed_s: float
) -> list[tuple[str, float]]:
    """Name and share of a core of each process that is not ours, busiest first."""
    ours = {str(pid) for pid in own}
    shares = [
        (str(name), (used - before.get(pid, [name, 0.0])[1]) / elapsed_s)
        for pid, (name, used) in after.items()
        if pid not in ours
    ]
    return sorted((item for item in shares if item[1] > 0), key=lambda item: -item[1])


def _stolen(
    before: dict[str, list[float]], after: dict[str, list[float]], cores: Sequence[int]
) -> float:
    known = [str(core) for core in cores if str(core) in before and str(core) in after]
    ticks = sum(after[core][2] - before[core][2] for core in known)
    return sum(after[core][1] - before[core][1] for core in known) / ticks if ticks else 0.0


def _quota_waits(root: Path) -> int:
    """How often a CPU quota of a control group made its processes wait."""
    waits = 0
    for controller in ("", "cpu"):
        for folder in _cgroups(root, controller):
            for line in _read(folder / "cpu.stat").splitlines():
                if line.startswith("nr_throttled "):
                    waits = max(waits, int(line.split()[1]))
    return waits


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and its parents, version 2 and 1."""
    groups = parse_self_cgroup(_read(root / "proc/self/cgroup"))
    for name, mount in ((controller, controller), ("", "")):
        if name in groups:
            inner = Path(groups[name].lstrip("/"))
            yield from (root / "sys/fs/cgroup" / mount / part for part in (inner, *inner.parents))


def _temperature(root: Path) -> str:
    """The hottest sensor in degrees Celsius."""
    values = [_read(file).strip() for file in root.glob("sys/class/thermal/thermal_zone*/temp")]
    numbers = [int(value) / 1000 for value in values if value.lstrip("-").isdigit()]
    return f"{max(numbers):.0f}" if numbers else ""


def _each_core(root: Path, name: str) -> list[str]:
    files = root.glob(f"sys/devices/system/cpu/cpu[0-9]*/{name}")
    return [text for file in files if (text := _read(file).strip())]


def _mhz(khz: list[str]) -> str:
    numbers = [int(value) // 1000 for value in khz if value.isdigit()]
    return str(max(numbers)) if numbers else ""


def _total(files: Iterator[Path]) -> int:
    values = [_read(file).strip() for file in files]
    return sum(int(value) for value in values if value.isdigit())


def _moved(before: str, after: str) -> str:
    return f"{before} -> {after}" if before and after else ""


def _read(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
