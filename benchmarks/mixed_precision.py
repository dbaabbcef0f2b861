"""What refining buys: the chosen whole-model form against the chosen one with nodes kept in float.

    python -m benchmarks.mixed_precision --ref build/ref --out benchmarks/results [NAME…]

For every reference model: deploy without and with `refine` (the second takes the first's results
from the cache), then measure both bundles' artifacts directly beside each other.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.common import CAREFUL, Subject, beside, bundled, opened, run, worst_cosine
from edgesdk.decide import Outcome, quality_loss
from edgesdk.deployment import Deployment, deploy
from edgesdk.measure.result import Interval


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
        tried: every form, with its expectation and what came out.
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


def main() -> int:
    """Run it for all models, or those named."""
    return run("mixed_precision", __doc__, _compare, _verdict)


def _compare(name: str, options: argparse.Namespace) -> Found:
    with opened(options.ref / name, options.rows) as subject:
        return compare(subject)


def _verdict(found: Found) -> tuple[str, bool]:
    return f"{found.mixed} against {found.whole}: {found.direct} x", True


def compare(subject: Subject) -> Found:
    """Deploy one reference model both ways and measure the two bundles beside each other."""
    scratch = subject.scratch
    whole = deploy(subject.model.path, out=scratch / "whole", **subject.asked)
    begun = time.monotonic()
    mixed = deploy(subject.model.path, out=scratch / "mixed", refine=True, **subject.asked)
    more_seconds = time.monotonic() - begun
    before, after = bundled(scratch / "whole"), bundled(scratch / "mixed")
    _, direct = beside(subject, before, after, "direct", CAREFUL)
    return Found(
        model=subject.name,
        whole=_form(whole),
        mixed=_form(mixed),
        tried=tuple(_tried(item) for item in mixed.outcomes),
        direct=direct.speedup,
        direct_stable=direct.stable,
        more_seconds=more_seconds,
    )


def _form(done: Deployment) -> Form:
    chosen = next(item for item in done.outcomes if item.name == done.decision.chosen)
    return Form(
        name=chosen.name,
        speedup=chosen.measurement.speedup if chosen.measurement else None,
        loss=quality_loss(chosen),
        cosine=worst_cosine(chosen.quality),
    )


def _tried(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "why": outcome.candidate.why,
        "speedup": asdict(outcome.measurement.speedup) if outcome.measurement else None,
        "loss": quality_loss(outcome),
        "cosine": worst_cosine(outcome.quality),
        "problem": outcome.error or (outcome.quality.reason if outcome.quality else ""),
    }


if __name__ == "__main__":
    sys.exit(main())
