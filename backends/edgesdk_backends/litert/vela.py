"""Arm's compiler for Ethos-U: a TFLite file in; a file for the NPU, a schedule's cost and reasons out.

Vela is a command. It is run in a process of its own, because it ends with a segmentation fault where a
file is damaged.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesdk.errors import ProfileError, StepFailed
from edgesdk.process import child_environment, ended_badly

MODULE = "ethosu.vela"
CONFIG = "Arm/vela.ini"
"""Arm's own descriptions of systems, which come with Vela; a target may name another file."""
TIMEOUT_S = 900.0

_NEEDED = ("accelerator_config", "system_config", "memory_mode")
_OPTIONAL = "config"
_REASON = re.compile(
    r"^Warning \(supported operators\) operator: [^,\n]*, ofm: '(.*)'\nReason: (.+(?:\n.+)*)",
    re.MULTILINE,
)
_WRONG_TARGET = ("CliOptionError", "ConfigOptionError", "InputFileError", "vela: error: argument")
_MEMORIES = {
    "sram": "SRAM",
    "dram": "DRAM",
    "on_chip_flash": "on-chip flash",
    "off_chip_flash": "off-chip flash",
}
_TOLD = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What Vela compiles for, in its own words.

    Attributes:
        accelerator: the NPU and its multipliers, such as `ethos-u65-256`.
        system: clocks and memories around it: a `System_Config` of the configuration file.
        memory: what lies in which memory: a `Memory_Mode` of that file.
        config: the configuration file; Vela finds its own ones by folder and name.
    """

    accelerator: str
    system: str
    memory: str
    config: str = CONFIG

    @classmethod
    def read(cls, table: Mapping[str, str]) -> Target:
        """The `target` table of a profile's runtime.

        Raises:
            ProfileError: a key is missing or unknown. What the values may be is Vela's to say.
        """
        missing = [key for key in _NEEDED if not table.get(key)]
        unknown = sorted(set(table) - {*_NEEDED, _OPTIONAL})
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
            raise ProfileError(
                f"the target of runtime 'ethos-u' {what}; legal: {', '.join(_NEEDED)}, without which "
                f"Vela's figures mean nothing, and {_OPTIONAL} (default {CONFIG})"
            )
        return cls(
            accelerator=table["accelerator_config"],
            system=table["system_config"],
            memory=table["memory_mode"],
            config=table.get(_OPTIONAL, CONFIG),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What Vela says about the file that it wrote.

    Attributes:
        program: that file.
        reasons: by the tensor that an operation writes, why the operation is left to the CPU.
        cycles: of the NPU and of what it waits for, for one run; operations on the CPU count nothing.
        estimate_ms: the same by the clock of the system.
        memory: bytes that a run takes of each kind of memory, weights included, by its name.
    """

    program: Path
    reasons: Mapping[str, str]
    cycles: int
    estimate_ms: float
    memory: Mapping[str, int]


def compile_file(file: Path, target: Target, folder: Path) -> Report:
    """Compile a TFLite file into an empty or new folder.

    Raises:
        ProfileError: Vela does not know the target.
        StepFailed: it does not take the file, crashed, or took too long.
    """
    said = _run(
        [
            str(file.resolve()),
            *("--accelerator-config", target.accelerator),
            *("--config", target.config),
            *("--system-config", target.system),
            *("--memory-mode", target.memory),
            *("--output-dir", str(folder.resolve())),
        ],
        target,
    )
    try:
        (summary,) = folder.glob(f"{file.stem}_summary_*.csv")
        (figures,) = csv.DictReader(summary.read_text(encoding="utf-8").splitlines())
        return Report(
            program=(folder / f"{file.stem}_vela.tflite").resolve(strict=True),
            reasons=reasons_in(said),
            cycles=round(float(figures["cycles_total"])),
            estimate_ms=1e3 * float(figures["inference_time"]),
            memory={
                name: round(1024 * float(figures[f"{column}_memory_used"]))
                for column, name in _MEMORIES.items()
                if float(figures[f"{column}_memory_used"])
            },
        )
    except (OSError, ValueError, KeyError) as exc:
        raise StepFailed(f"vela wrote something unexpected: {exc!r}", log=said) from exc


def reasons_in(said: str) -> dict[str, str]:
    """Why operations are left to the CPU, by the tensor that each writes, from Vela's messages."""
    return {tensor: " ".join(why.split()) for tensor, why in _REASON.findall(said)}


def _run(arguments: list[str], target: Target) -> str:
    """What Vela prints, both streams in the order in which it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", MODULE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=child_environment(None),
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise StepFailed(f"vela did not end within {TIMEOUT_S:g} s", kind="timeout") from exc
    if not done.returncode:
        return done.stdout
    last = done.stdout.strip().rpartition("\n")[2]
    if any(word in last for word in _WRONG_TARGET):
        raise ProfileError(
            f"vela does not take the target {target}: {last[:_TOLD]}; "
            f"`vela --list-configs {target.config}` lists what it knows"
        )
    if done.returncode > 0 and last:
        raise StepFailed(f"vela cannot compile the file: {last[:_TOLD]}", log=done.stdout)
    raise ended_badly("vela", done.returncode, done.stdout)
