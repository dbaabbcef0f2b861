"""Structural steps on reference models, by hand: what each saves, and what it costs in quality.

    python -m benchmarks.structural --ref build/ref --out benchmarks/results [--forms FORM,…] [NAME…]

Every form is made by what `edgesdk compress` calls and set beside the original by what `edgesdk compare`
calls, on evaluation rows that nothing was fitted to. Where rows without labels were prepared beside the
samples (`unlabelled`), fitting and training use those. Beside the result lies a plot of it. Nothing is
accepted or rejected here: deploy does that.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import opened, run
from benchmarks.plot import Point, plot
from edgesdk.cache import Cache
from edgesdk.comparing import Compared, compare_targets
from edgesdk.compressing import MODEL, Compression, compress_model
from edgesdk.errors import EdgeSdkError

NAMES = ("kws", "resnet50", "minilm", "digits")
FORMS = (
    "prune30-raw+fp32",
    "prune30+fp32",
    "prune30-l2+fp32",
    "prune30-activation+fp32",
    "prune30-taylor+fp32",
    "prune30+distill+fp32",
    "rank30-raw+fp32",
    "rank30+fp32",
    "prune20+rank20+fp32",
    "sparse50+fp32",
    "sparse2of4+fp32",
    "w8a8-static",
    "prune30+w8a8-static",
    "prune30+distill+w8a8-static",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One form.

    Attributes:
        seconds: that making it took, beside other work where there was some.
        compression: what it held before and after, and what the steps remarked.
        beside: by engine, its figures beside the original's there; None where it could not be made.
        refused: why it could not be made.
    """

    form: str
    seconds: float
    compression: Compression | None = None
    beside: dict[str, dict[str, Any]] | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All forms of one model; the original's figures by engine."""

    model: str
    metric: str
    original: dict[str, dict[str, Any]]
    forms: tuple[Made, ...]


def main() -> int:
    """Run it for both models, or those named."""
    return run(
        "structural", __doc__, _compare, _verdict, names=NAMES, add_options=_options, draw=_plot
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--forms", default=",".join(FORMS), help="which forms")
    parser.add_argument("--engines", default="onnxruntime", help="that all forms run on, by commas")
    parser.add_argument("--cache", type=Path, help="keeps finished steps for the next time")
    parser.add_argument("--train", type=float, help="seconds that one training may take")


def _compare(name: str, options: argparse.Namespace) -> Found:
    folder = options.ref / name
    more = next((at for at in sorted(folder.glob("unlabelled*"))), None)
    with opened(folder, options.rows) as subject:
        made = []
        for form in options.forms.split(","):
            out = subject.scratch / form
            begun = time.monotonic()
            try:
                done = compress_model(
                    subject.model.path,
                    form,
                    profile="x86",
                    samples=subject.source,
                    calibration=str(more.absolute()) if more else None,
                    training_s=options.train,
                    out=out,
                    cache=Cache(options.cache or subject.scratch / "cache"),
                )
            except EdgeSdkError as exc:
                taken = time.monotonic() - begun
                made.append(Made(form=form, seconds=taken, refused=f"{type(exc).__name__}: {exc}"))
                continue
            taken = time.monotonic() - begun
            plain = replace(done, model=name, folder=form)
            made.append(Made(form=form, seconds=taken, compression=plain))
            print(f"{name} {form}: {taken:.0f} s", flush=True)
        there = [item for item in made if item.compression]
        targets = [subject.model.path, *(subject.scratch / item.form / MODEL for item in there)]
        original: dict[str, dict[str, Any]] = {}
        told: dict[str, dict[str, Any]] = {item.form: {} for item in there}
        for engine in options.engines.split(","):
            first, *others = compare_targets(
                targets, samples=subject.source, metrics=[subject.metric], backend=engine
            ).entries
            original[engine] = _figures(first)
            for item, entry in zip(there, others, strict=True):
                told[item.form][engine] = _figures(entry)
        return Found(
            model=name,
            metric=subject.metric_name,
            original=original,
            forms=tuple(Made(**{**_fields(item), "beside": told.get(item.form)}) for item in made),
        )


def _fields(made: Made) -> dict[str, Any]:
    return {name: getattr(made, name) for name in Made.__dataclass_fields__}


def _figures(entry: Compared) -> dict[str, Any]:
    quality, measurement = entry.quality, entry.measurement
    cosines = [item.cosine for item in quality.closeness] if quality else []
    known = [value for value in cosines if value is not None]
    return {
        "holds": asdict(entry.holds) if entry.holds else None,
        "speedup": asdict(measurement.speedup) if measurement else None,
        "stable": measurement.stable if measurement else None,
        "p50_ms": measurement.timed.p50_ms if measurement else None,
        "peak_mib": measurement.peak_mib if measurement else None,
        "cosine": min(known, default=None),
        "metrics": {score.metric: score.candidate for score in quality.scores} if quality else {},
        "problem": entry.problem,
    }


def _plot(found: Found) -> str:
    known = [("original", found.original)]
    known += [(item.form, item.beside) for item in found.forms if item.beside]
    first = next(iter(found.original))
    points = [
        Point(name=name, x=figures["holds"]["bytes"] / 1e6, y=figures["metrics"][found.metric])
        for name, figures in ((name, engines[first]) for name, engines in known)
        if figures["holds"] and figures["metrics"]
    ]
    return plot(points, x_title="MB", y_title=f"{found.metric} of {found.model} on {first}")


def _verdict(found: Found) -> tuple[str, bool]:
    parts = [f"original {_told(found, found.original)}"]
    parts += [f"{i.form}: {i.refused or _told(found, i.beside or {})}" for i in found.forms]
    return "\n  ".join(parts), all(item.beside or item.refused for item in found.forms)


def _told(found: Found, engines: dict[str, dict[str, Any]]) -> str:
    parts: list[str] = []
    for engine, figures in engines.items():
        if not parts and figures["holds"]:
            holds = figures["holds"]
            parts.append(f"{holds['parameters']:,} parameters, {holds['bytes']:,} bytes")
        metrics = figures["metrics"].get(found.metric)
        parts.append(figures["problem"] or f"{engine} {metrics:.4f} in {figures['p50_ms']:.3g} ms")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
