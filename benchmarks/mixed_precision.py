"""What refining buys: the chosen whole-model form against the chosen one with nodes kept in float.

    python -m benchmarks.mixed_precision --ref build/ref --out benchmarks/results [NAME…]

For every reference model: deploy without and with `refine` (the second takes the first's results
from the cache), then measure both bundles' artifacts directly beside each other.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.deploy_vs_hand import CAREFUL, FLOOR, SETTINGS, thinned
from edgesdk.budget import Budget, parse_floor
from edgesdk.bundle.read import read_manifest
from edgesdk.decide import Outcome, quality_loss
from edgesdk.deployment import BUNDLE, Deployment, deploy
from edgesdk.device.local import LocalDevice
from edgesdk.machine import detect
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.result import Interval
from edgesdk.measure.settings import Inputs, Target
from edgesdk.metrics import load_metric, own_names
from edgesdk.model import read_model
from edgesdk.samples import INPUT_PREFIX, read_samples
from edgesdk.usercode import absolute_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One chosen form: its speed beside the float original, and its worst loss."""

    name: str
    speedup: Interval | None
    loss: float
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result for one model.

    Attributes:
        whole: chosen among whole-model recipes.
        mixed: chosen with refining; the same where that finds nothing better.
        tried: every form that refining tried, with its expectation and what came out.
        direct: time of `whole` / time of `mixed`, measured beside each other.
        more_seconds: what refining took.
    """

    model: str
    whole: Form
    mixed: Form
    tried: tuple[dict[str, Any], ...]
    direct: Interval
    direct_stable: bool
    more_seconds: float


def main() -> None:
    """Run it for all models, or those named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ref", type=Path, required=True, help="folder of prepared models")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result files")
    parser.add_argument("--rows", type=int, help="at most so many samples, evenly spread")
    parser.add_argument("names", nargs="*", help="only these models")
    options = parser.parse_args()
    names = options.names or sorted(p.parent.name for p in options.ref.glob("*/reference.json"))
    for name in names:
        found = compare(options.ref / name, options.rows)
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        rows = f" --rows {options.rows}" if options.rows else ""
        document = {
            "command": f"python -m benchmarks.mixed_precision --ref REF --out OUT{rows} {name}",
            "date": stamp,
            "machine": {**detect().to_json(), "python": platform.python_version()},
            **asdict(found),
        }
        path = options.out / f"{stamp}-mixed-precision-{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {found.mixed} against {found.whole}: {found.direct} x", flush=True)


def compare(folder: Path, most: int | None) -> Found:
    """Deploy one reference model both ways and measure the two bundles beside each other."""
    reference = json.loads((folder / "reference.json").read_text())
    model = read_model((folder / "model.onnx").absolute())
    metric = absolute_reference(reference["metric"])
    floor = f"{load_metric(metric).name}={FLOOR}"
    with tempfile.TemporaryDirectory(prefix="edgesdk-bench-") as scratch_name:
        scratch = Path(scratch_name)
        source = str(thinned(folder / reference["samples"], most, scratch / "samples"))
        asked: dict[str, Any] = {
            "profile": "x86",
            "samples": source,
            "metrics": (metric,),
            "budget": Budget(floors=parse_floor(floor, own_names([metric]))),
            "settings": SETTINGS,
        }
        whole = deploy(model.path, out=scratch / "whole", **asked)
        begun = time.monotonic()
        mixed = deploy(model.path, out=scratch / "mixed", refine=True, **asked)
        more_seconds = time.monotonic() - begun
        samples = read_samples(source, model.inputs, store=scratch / "rows")
        inputs = Inputs(
            names=tuple(info.name for info in model.inputs),
            rows=samples.evaluation.subset(8).paths(),
            prefix=INPUT_PREFIX,
        )
        (scratch / "direct").mkdir()
        _, direct = measure_candidate(
            _target(scratch / "whole"),
            _target(scratch / "mixed"),
            inputs,
            CAREFUL,
            LocalDevice(),
            scratch / "direct",
        )
        return Found(
            model=folder.name,
            whole=_form(whole),
            mixed=_form(mixed),
            tried=tuple(_tried(item) for item in mixed.outcomes if _is_mixed(item)),
            direct=direct.speedup,
            direct_stable=direct.stable,
            more_seconds=more_seconds,
        )


def _target(out: Path) -> Target:
    component = read_manifest(out / BUNDLE).components[0]
    return Target(
        backend=component.engine.name,
        artifact=out / BUNDLE / component.main,
        execution=component.execution,
        threads=component.threads,
    )


def _form(done: Deployment) -> Form:
    chosen = next(item for item in done.outcomes if item.name == done.decision.chosen)
    return Form(
        name=chosen.name,
        speedup=chosen.measurement.speedup if chosen.measurement else None,
        loss=quality_loss(chosen),
        cosine=_cosine(chosen),
    )


def _cosine(outcome: Outcome) -> float | None:
    if outcome.quality is None:
        return None
    found = [item.cosine for item in outcome.quality.closeness if item.cosine is not None]
    return min(found, default=None)


def _is_mixed(outcome: Outcome) -> bool:
    return any(choice.kept for _, choice in outcome.candidate.choices)


def _tried(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "why": outcome.candidate.why,
        "speedup": asdict(outcome.measurement.speedup) if outcome.measurement else None,
        "loss": quality_loss(outcome),
        "cosine": _cosine(outcome),
        "problem": outcome.error or (outcome.quality.reason if outcome.quality else ""),
    }


if __name__ == "__main__":
    main()
