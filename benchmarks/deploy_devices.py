"""Reference models deployed to devices that are not here: a bundle, or a refusal with its reason.

    python -m benchmarks.deploy_devices --ref build/ref --out benchmarks/results --rows 32 [--pad 32] [NAME…]

Every profile is deployed to as its documentation says that it can be without the board: processors are
emulated, units with a compiler of their own are simulated. What counts is that each deploy ends in a
bundle whose manifest says of every figure how it was obtained, or in a typed error. With `--pad`, samples of
many lengths are filled up with zeros to one length, as an app does for a unit that takes fixed shapes.
With `--minutes`, each deploy has a time budget, as emulation is slow: what it does not get to is listed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Subject, opened, run
from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.bundle.read import read_manifest
from edgesdk.deployment import BUNDLE, deploy
from edgesdk.errors import EdgeSdkError
from edgesdk.measure.settings import Settings
from edgesdk.report.document import Row

DEVICES = {
    "raspberry-pi-4": "emulated:cortex-a72",
    "raspberry-pi-5": "emulated:cortex-a76",
    "x86-haswell": "emulated:haswell",
    "jetson": "simulated",
    "mobile-npu": "simulated",
    "ethos-u": "simulated",
}
MODELS = ("kws", "efflite0", "minilm")
SETTINGS = Settings(rows=2)
"""Inputs whose instructions are counted; emulation takes a second and more for a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of one deploy.

    Attributes:
        bundle: of the winner: its name, the headline, the verdict on quality, and each figure of the
            manifest with its evidence; None where there is none.
        refusal: type and message of the error, or None.
        others: status and reason of every other candidate.
        candidates: the figures of all that have any.
        padded: to which length the samples were filled up, and how many longer ones were left out.
    """

    model: str
    seconds: float
    bundle: dict[str, Any] | None
    refusal: dict[str, str] | None
    others: dict[str, str]
    candidates: dict[str, dict[str, Any]]
    padded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All models on one device."""

    profile: str
    device: str
    ended: tuple[Ended, ...]


def main() -> int:
    """Run it for all profiles, or those named."""
    return run(
        "deploy_devices", __doc__, _all_models, _verdict, names=tuple(DEVICES), add_options=_options
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default=",".join(MODELS), help="which reference models")
    parser.add_argument("--minutes", type=float, help="time budget of each deploy")
    parser.add_argument("--pad", type=int, help="fill up samples of many lengths to this one")


def _all_models(profile: str, options: argparse.Namespace) -> Found:
    ended = []
    for model in options.models.split(","):
        with opened(options.ref / model, options.rows) as subject:
            ended.append(_deployed(*_padded(subject, options.pad), profile, options.minutes))
    return Found(profile=profile, device=DEVICES[profile], ended=tuple(ended))


def _padded(subject: Subject, length: int | None) -> tuple[Subject, str | None]:
    """The same with samples of one length, and what was done; itself where they have one already."""
    if length is None or subject.samples.uniform_shapes[subject.model.inputs[0].name]:
        return subject, None
    names = {info.name for info in subject.model.inputs}
    out = subject.scratch / "padded"
    out.mkdir()
    longer = 0
    for file in sorted(Path(subject.source).glob("*.npz")):
        arrays = load_arrays(file)
        if max(arrays[name].shape[1] for name in names) > length:
            longer += 1
            continue
        for name in names:
            arrays[name] = np.pad(arrays[name], ((0, 0), (0, length - arrays[name].shape[1])))
        save_arrays(out / file.name, arrays)
    return replace(subject, source=str(out)), f"to {length}, {longer} longer ones left out"


def _figures(row: Row) -> dict[str, Any]:
    """What is known of a candidate."""
    known = {
        "cosine": row.cosine,
        "rows": row.rows,
        "size_bytes": row.size_bytes,
        "instructions": row.instructions,
        "ratio": row.speedup.value if row.speedup else None,
        "estimate_ms": row.estimate_ms,
        "cycles": row.cycles,
        "working_bytes": row.working_bytes,
        "nodes": dict(row.placement) or None,
        **{metric.name: metric.value for metric in row.metrics},
    }
    return {name: value for name, value in known.items() if value is not None}


def _deployed(subject: Subject, padded: str | None, profile: str, minutes: float | None) -> Ended:
    asked = {**subject.asked, "profile": profile, "device": DEVICES[profile]}
    asked["accept_undecided"] = True  # the rows are few, as emulation is slow
    asked["settings"] = SETTINGS
    asked["time_budget_s"] = None if minutes is None else 60 * minutes
    out = subject.scratch / "out"
    begun = time.monotonic()
    try:
        done = deploy(subject.model.path, out=out, **asked)
    except EdgeSdkError as exc:
        told = str(exc).replace(str(subject.scratch), "OUT")
        return Ended(
            model=subject.name,
            seconds=time.monotonic() - begun,
            bundle=None,
            refusal={"error": type(exc).__name__, "message": told},
            others={},
            candidates={},
            padded=padded,
        )
    manifest = read_manifest(out / BUNDLE)
    figures = [*manifest.measured, *manifest.quality.figures]
    return Ended(
        model=subject.name,
        seconds=time.monotonic() - begun,
        bundle={
            "chosen": done.decision.chosen,
            "headline": done.decision.headline,
            "verdict": f"{manifest.quality.verdict}: {manifest.quality.reason}",
            "figures": {
                f"{item.name} {item.of or ''}".strip(): f"{item.value:.6g} {item.unit}, {item.evidence}"
                for item in figures
            },
        },
        refusal=None,
        others={
            item.name: f"{item.status}: {item.reason}"
            for item in done.decision.judged
            if item.name != done.decision.chosen
        }
        | {item.name: f"not tried: {item.reason}" for item in done.plan.rejected},
        candidates={row.name: _figures(row) for row in done.report.rows if row.has_figures},
        padded=padded,
    )


def _verdict(found: Found) -> tuple[str, bool]:
    told = [f"{one.model}: {_line(one)}" for one in found.ended]
    reasoned = all(one.bundle or (one.refusal and one.refusal["message"]) for one in found.ended)
    return "; ".join(told), reasoned


def _line(one: Ended) -> str:
    if one.bundle:
        return f"{one.bundle['chosen']}, {one.bundle['headline']}"
    return f"refused: {one.refusal}"


if __name__ == "__main__":
    sys.exit(main())
