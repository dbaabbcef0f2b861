"""What this machine is: architecture, instruction sets, and the cores and memory left to a process.

Everything is read from `/proc`, `/sys` and the interpreter: no root, no third-party library. What
cannot be read is unknown (`None` or empty), never guessed. Parsers take text, `detect` takes the
root of the file tree, so both are tested on recorded files.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

X86_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
)
"""Instruction sets that decide how fast a model runs; the Linux kernel's names."""

ARM_FEATURES = {
    "asimd": "neon",
    "asimddp": "neon_dotprod",
    "asimdhp": "fp16",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
    "sme2": "sme2",
}
"""The same for ARM: the kernel's name and the profile's word for it."""

FEATURES_BY_ARCH = {"x86_64": X86_FEATURES, "aarch64": tuple(ARM_FEATURES.values())}
"""Words that a profile may use for the features of a CPU."""

_ARCH = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_OS = {"linux": "linux", "win32": "windows", "darwin": "macos", "android": "android"}
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd08": "Cortex-A72",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
_NO_LIMIT = 1 << 60
"""cgroup v1 writes a number near 2**63 for "no memory limit"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine as this process may use it.

    Attributes:
        arch: `x86_64`, `aarch64`, or what the system calls itself.
        os: `linux`, `windows`, `macos`, `android`, or what the system calls itself.
        kernel: release of the operating system's kernel.
        cpu: marketing or core name of the CPU; empty if unknown.
        board: name in the device tree (`Raspberry Pi 5 Model B Rev 1.0`); empty on PCs.
        features: instruction sets, in the words of profiles; empty if they cannot be read.
        physical_cores: cores behind the logical ones that this process may use; None if unknown.
        logical_cores: cores this process may use, after affinity and cgroup quota; at least 1.
        memory_bytes: memory this process may use, after cgroup limits; None if unknown.
    """

    arch: str
    os: str
    kernel: str
    cpu: str
    board: str
    features: frozenset[str]
    physical_cores: int | None
    logical_cores: int
    memory_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "features": sorted(self.features)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuInfo:
    """What `/proc/cpuinfo` says.

    Attributes:
        model: name of the CPU; empty if untold.
        board: name of the board, as Raspberry Pi kernels print it; empty elsewhere.
        features: instruction sets that every core has.
        cores: logical processor number and the physical core (package, core) it belongs to.
    """

    model: str
    board: str
    features: frozenset[str]
    cores: tuple[tuple[int, tuple[str, str]], ...]


def detect(root: Path = Path("/")) -> Machine:
    """The machine this process runs on; unknown parts stay empty, nothing raises.

    Args:
        root: where `proc` and `sys` are.
    """
    cpu = parse_cpuinfo(_read(root / "proc/cpuinfo"))
    allowed = _affinity()
    quota = _cpu_quota(root)
    logical = min(len(allowed), quota) if quota else len(allowed)
    physical = len({core for number, core in cpu.cores if number in allowed}) or None
    limits = [parse_meminfo(_read(root / "proc/meminfo")), _memory_limit(root)]
    board = _read(root / "proc/device-tree/model").rstrip("\0\n")
    return Machine(
        arch=_ARCH.get(platform.machine().lower(), platform.machine().lower()),
        os=_OS.get(sys.platform, sys.platform),
        kernel=platform.release(),
        cpu=cpu.model or platform.processor(),
        board=board or cpu.board,
        features=cpu.features,
        physical_cores=min(physical, logical) if physical else None,
        logical_cores=logical,
        memory_bytes=min((limit for limit in limits if limit), default=None),
    )


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read the text of Linux's `/proc/cpuinfo`, x86 or ARM; anything else yields empty fields.

    On mixed clusters (big.LITTLE) only what every core can do counts: a thread may run on any.
    """
    cores: list[tuple[int, tuple[str, str]]] = []
    flags: list[frozenset[str]] = []
    model = board = ""
    for entry in _entries(text):
        board = board or entry.get("Model", "")
        if "processor" not in entry or not entry["processor"].isdecimal():
            continue
        number = entry["processor"]
        cores.append((int(number), (entry.get("physical id", ""), entry.get("core id", number))))
        flags.append(frozenset((entry.get("flags") or entry.get("Features", "")).split()))
        model = (
            model or entry.get("model name", "") or _ARM_PARTS.get(entry.get("CPU part", ""), "")
        )
    common = frozenset.intersection(*flags) if flags else frozenset()
    x86 = common.intersection(X86_FEATURES)
    arm = frozenset(word for flag, word in ARM_FEATURES.items() if flag in common)
    # An x86 kernel lists no ARM flag and the other way round ("bf16" alone is ARM's).
    features = arm if "asimd" in common else x86
    return CpuInfo(model=model, board=board, features=features, cores=tuple(cores))


def _entries(text: str) -> Iterator[dict[str, str]]:
    """The `key : value` blocks of a text, which empty lines separate."""
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        yield {key.strip(): value.strip() for key, _, value in pairs}


def parse_meminfo(text: str) -> int | None:
    """Total memory in bytes from the text of `/proc/meminfo`."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def parse_cpu_max(text: str) -> int | None:
    """Whole cores, at least 1, that `cpu.max` (v1: `quota period`) leaves; None: no limit."""
    match = re.fullmatch(r"(\d+)\s+([1-9]\d*)", text.strip())
    return max(1, int(match[1]) // int(match[2])) if match else None


def parse_memory_limit(text: str) -> int | None:
    """Bytes of a cgroup memory limit; None: no limit."""
    value = text.strip()
    return int(value) if value.isdecimal() and 0 < int(value) < _NO_LIMIT else None


def parse_self_cgroup(text: str) -> dict[str, str]:
    """Path of this process by controller, from `/proc/self/cgroup`; the key of v2 is empty."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _affinity() -> frozenset[int]:
    """Logical processors that this process may run on."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cpu_quota(root: Path) -> int | None:
    """The strictest quota from this process's cgroup up to the root, in whole cores."""
    limits = [parse_cpu_max(_read(folder / "cpu.max")) for folder in _cgroups(root, "")]
    for folder in _cgroups(root, "cpu"):
        quota, period = (_read(folder / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
        limits.append(parse_cpu_max(f"{quota.strip()} {period.strip()}"))
    return min((limit for limit in limits if limit), default=None)


def _memory_limit(root: Path) -> int | None:
    """The strictest memory limit from this process's cgroup up to the root, in bytes."""
    files = [folder / "memory.max" for folder in _cgroups(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _cgroups(root, "memory")]
    limits = [parse_memory_limit(_read(file)) for file in files]
    return min((limit for limit in limits if limit), default=None)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and its parents; a container sees its own as the root."""
    mount = root / "sys/fs/cgroup" / controller
    path = parse_self_cgroup(_read(root / "proc/self/cgroup")).get(controller)
    if path is None:
        return
    inner = Path(path.lstrip("/"))
    yield from (mount / part for part in (inner, *inner.parents))


def _read(file: Path) -> str:
    """Text of a small system file; empty when it is not there or not for us."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
