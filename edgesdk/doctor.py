"""Can this machine do the job? Findings with what to do about each."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgesdk.backend import backend_names, load_backend
from edgesdk.cache import default_root
from edgesdk.errors import BackendUnavailable
from edgesdk.machine import Machine, detect
from edgesdk.profile import load_profile

State = Literal["ok", "warn", "bad"]
_LITTLE_MEMORY_BYTES = 2 * 1024**3
_LITTLE_DISK_BYTES = 2 * 1024**3
_QUIET_LOAD_PER_CORE = 0.3
_FAST_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "neon_dotprod", "i8mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    what: str
    state: State
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


def diagnose() -> list[Finding]:
    """Everything a deploy on this machine depends on."""
    machine = detect()
    return [
        Finding(what="python", state="ok", found=sys.version.split()[0]),
        _cpu(machine),
        _int8(machine),
        *_engines(),
        _quantizers(),
        _memory(machine),
        _disk(),
        _load(machine),
        _profile(),
    ]


def _cpu(machine: Machine) -> Finding:
    found = f"{machine.cpu or 'unknown CPU'}, {machine.arch}, {machine.logical_cores} cores"
    return Finding(what="cpu", state="ok", found=found)


def _int8(machine: Machine) -> Finding:
    fast = [feature for feature in _FAST_INT8 if feature in machine.features]
    if fast:
        return Finding(what="int8 instructions", state="ok", found=", ".join(fast))
    remedy = "int8 may bring little and, as u8s8 without VNNI, may saturate; edgesdk measures both"
    return Finding(what="int8 instructions", state="warn", found="none known", remedy=remedy)


def _engines() -> list[Finding]:
    findings = []
    usable = 0
    for name in backend_names():
        if name == "null":
            continue
        try:
            backend = load_backend(name)
            problem = backend.unavailable()
        except BackendUnavailable as exc:
            problem = str(exc)
        if problem:
            findings.append(
                Finding(what=f"backend {name}", state="warn", found="missing", remedy=problem)
            )
        else:
            usable += 1
            findings.append(Finding(what=f"backend {name}", state="ok", found=backend.version()))
    if not usable:
        remedy = "pip install 'edgesdk[all]'"
        findings.append(Finding(what="backends", state="bad", found="none usable", remedy=remedy))
    return findings


def _quantizers() -> Finding:
    from importlib.util import find_spec

    missing = [name for name in ("onnxruntime", "nncf") if find_spec(name) is None]
    if not missing:
        return Finding(what="quantizers", state="ok", found="onnxruntime, nncf")
    remedy = "pip install 'edgesdk[all]'; without them their recipes are left out"
    return Finding(
        what="quantizers", state="warn", found=f"without {', '.join(missing)}", remedy=remedy
    )


def _memory(machine: Machine) -> Finding:
    if machine.memory_bytes is None:
        return Finding(what="memory", state="warn", found="unknown")
    found = f"{machine.memory_bytes / 2**20:,.0f} MiB"
    if machine.memory_bytes < _LITTLE_MEMORY_BYTES:
        remedy = "models above a few hundred MB may not fit; see --memory-limit"
        return Finding(what="memory", state="warn", found=found, remedy=remedy)
    return Finding(what="memory", state="ok", found=found)


def _disk() -> Finding:
    root = default_root()
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free for the cache at {root}"
    if not os.access(place, os.W_OK):
        remedy = "set EDGESDK_CACHE to a folder that can be written"
        return Finding(what="cache", state="bad", found=f"{root} is not writable", remedy=remedy)
    if free < _LITTLE_DISK_BYTES:
        remedy = "set EDGESDK_CACHE to a larger disk"
        return Finding(what="cache", state="warn", found=found, remedy=remedy)
    return Finding(what="cache", state="ok", found=found)


def _load(machine: Machine) -> Finding:
    try:
        load = os.getloadavg()[0]
    except OSError:
        return Finding(what="load", state="warn", found="unknown")
    found = f"{load:.2f} over the last minute"
    if load > _QUIET_LOAD_PER_CORE * machine.logical_cores:
        remedy = "other programs take the cores; times will be noisy, ratios still hold"
        return Finding(what="load", state="warn", found=found, remedy=remedy)
    return Finding(what="load", state="ok", found=found)


def _profile() -> Finding:
    profile = load_profile("x86") if detect().arch == "x86_64" else load_profile("arm-cpu")
    return Finding(what="profile of this machine", state="ok", found=profile.title)
