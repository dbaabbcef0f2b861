"""Six devices at once through Dask against the same ones one by one: are the verdicts the same?

    python -m benchmarks.farm --ref build/ref --out benchmarks/results [--rows 200] kws

Two workers drive this machine and four an emulated processor each. One deploy for each of five profiles
runs through the farm, all at the same time, every step anew; then each by itself, without the farm. What
a candidate's check found must be the same to the last digit, its instructions within a thousandth, and
the choice the same. All six share the cores of one machine here, and what is timed has them to itself
while it is: the seconds say nothing about a farm of real devices.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import opened, run
from edgesdk.cache import Cache, default_root
from edgesdk.decide import Outcome
from edgesdk.deployment import Deployment, deploy
from edgesdk.errors import BudgetNotMet, EdgeSdkError
from edgesdk.events import Event
from edgesdk.farm.client import Farm
from edgesdk.fleet import deploy_fleet
from edgesdk.report.document import DeployReport
from edgesdk.testing.farm import LocalFarm

FLEET = {
    "x86": "local",
    "x86-avx2": "emulated:haswell",
    "arm-cpu": "emulated:cortex-a53",
    "raspberry-pi-4": "emulated:cortex-a72",
    "raspberry-pi-5": "emulated:cortex-a76",
}
"""Profiles, and the device that each is deployed on: of devices that are equally close, the farm takes
the first by name."""
DEVICES = ("local", *FLEET.values())
BACKENDS = ("onnxruntime",)
"""The one that all of them have."""
SAME = 0.001
"""Of the instructions of a run."""


@dataclass(frozen=True)
class Compared:
    """What came of both ways.

    Attributes:
        devices: what the workers drove.
        profiles: by profile, the choice of both and their candidates.
        differences: in words; empty when the mark is kept.
        together_s, one_by_one_s: on one machine, so not comparable with a farm of real devices.
    """

    devices: tuple[str, ...]
    profiles: dict[str, Any]
    differences: tuple[str, ...]
    candidates: int
    together_s: float
    one_by_one_s: float


def compare(name: str, options: argparse.Namespace) -> Compared:
    """One model, both ways."""
    with opened(options.ref / name, options.rows) as subject:
        asked = {
            **subject.asked,
            "model": subject.model.path,
            "cache": Cache(),
            "listen": _say,
            "refresh": True,
            "backends": BACKENDS,
            "recipes": tuple(filter(None, options.recipes.split(","))),
        }
        del asked["profile"]
        with LocalFarm(cache=default_root()) as farm:
            for number, device in enumerate(DEVICES):
                farm.add(f"{number}-{device.removeprefix('emulated:')}", device=device)
            farm.wait()
            _make_ready(farm.address, BACKENDS)
            begun = time.monotonic()
            out = subject.scratch / "together"
            fleet = deploy_fleet(profiles=tuple(FLEET), farm=farm.address, out=out, **asked)
            together_s = time.monotonic() - begun
        begun = time.monotonic()
        alone = {
            profile: _alone(profile, device, subject.scratch / "alone" / profile, asked)
            for profile, device in FLEET.items()
        }
        one_by_one_s = time.monotonic() - begun
    shutil.rmtree(default_root() / "farm", ignore_errors=True)
    both = {profile: (_told(fleet[profile]), _told(alone[profile])) for profile in FLEET}
    return Compared(
        devices=DEVICES,
        profiles={name: {"together": a, "one_by_one": b} for name, (a, b) in both.items()},
        differences=tuple(
            f"{profile}: {text}" for profile, (a, b) in both.items() for text in _differences(a, b)
        ),
        candidates=sum(len(told["candidates"]) for told, _ in both.values()),
        together_s=round(together_s, 1),
        one_by_one_s=round(one_by_one_s, 1),
    )


def _make_ready(address: str, backends: Sequence[str]) -> None:
    """Emulated processors on a busy machine take longer than a deploy waits for them."""
    while True:
        with Farm(address, backends, left_s=lambda: math.inf) as farm:
            if len(farm.members) == len(DEVICES):
                return
            print("; ".join(farm.refused.values()), file=sys.stderr, flush=True)


def _say(event: Event) -> None:
    if event.state != "begin":
        print(f"{event.stage} {event.subject} {event.message}", file=sys.stderr, flush=True)


def _alone(
    profile: str, device: str, out: Path, asked: dict[str, Any]
) -> Deployment | EdgeSdkError:
    out.parent.mkdir(exist_ok=True)
    try:
        return deploy(profile=profile, device=device, out=out, **asked)
    except EdgeSdkError as exc:
        return exc


def _told(done: Deployment | EdgeSdkError) -> dict[str, Any]:
    """The choice, and of every candidate what it is judged by."""
    if isinstance(done, Deployment):
        found = {item.name: _candidate(item) for item in done.outcomes}
        return {"chosen": done.decision.chosen, "candidates": found, "notes": done.report.notes}
    if isinstance(done, BudgetNotMet) and isinstance(done.report, DeployReport):
        return {"chosen": None, "candidates": {}, "error": str(done)}
    return {"chosen": None, "candidates": {}, "error": f"{type(done).__name__}: {done}"}


def _candidate(item: Outcome) -> dict[str, Any]:
    measured = item.measurement
    return {
        "quality": item.quality.to_json() if item.quality else None,
        "error": item.error,
        "speedup": str(measured.speedup) if measured else None,
        "instructions": measured.instructions if measured else None,
        "worker": measured.environment.get("worker") if measured else None,
    }


def _differences(together: dict[str, Any], alone: dict[str, Any]) -> list[str]:
    found = []
    if together["chosen"] != alone["chosen"] or together.get("error") != alone.get("error"):
        found.append(f"chose {together['chosen']}, alone {alone['chosen']}")
    if together["candidates"].keys() != alone["candidates"].keys():
        found.append("other candidates")
    for name, one in alone["candidates"].items():
        other = together["candidates"].get(name, one)
        if one["quality"] != other["quality"]:
            found.append(f"{name}: another verdict or other figures")
        counts = [it["instructions"] for it in (one, other)]
        if None in counts and counts != [None, None]:
            found.append(f"{name}: measured one way only")
        elif None not in counts and abs(counts[0] / counts[1] - 1.0) > SAME:
            found.append(f"{name}: {counts[1]:,.0f} instructions, alone {counts[0]:,.0f}")
    return found


def _verdict(found: Compared) -> tuple[str, bool]:
    told = "; ".join(found.differences) or "the same verdicts"
    seconds = f"{found.together_s:.0f} s together, {found.one_by_one_s:.0f} s one by one"
    return f"{found.candidates} candidates on 6 devices: {told} ({seconds})", not found.differences


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipes", default="", help="only these, between commas")


if __name__ == "__main__":
    sys.exit(run("farm", __doc__, compare, _verdict, names=("kws",), add_options=_add_options))
