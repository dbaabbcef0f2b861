"""What goes into a bundle, from what a deploy found out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgesdk.arrays import load_arrays
from edgesdk.backend import require_backend
from edgesdk.bench import Bench, Built
from edgesdk.bundle.golden import GoldenSample
from edgesdk.bundle.manifest import Engine, Figure, Identity, TensorSource
from edgesdk.bundle.manifest import Quality as QualityEntry
from edgesdk.bundle.write import BundleContents, BundledComponent, single_model
from edgesdk.checking import GOLDEN_ROWS
from edgesdk.decide import Outcome
from edgesdk.evidence import Evidence
from edgesdk.files import sha256_json
from edgesdk.measure.result import Measurement
from edgesdk.pipeline import SINGLE
from edgesdk.placement import UnitShares
from edgesdk.quality import Quality
from edgesdk.samples import Samples
from edgesdk.signature import Dim, TensorInfo


def bundle_contents(
    bench: Bench,
    outcome: Outcome,
    built: Built,
    *,
    reference: Path,
    environment: Mapping[str, str],
) -> BundleContents:
    """Everything that ships, for the chosen outcome of a single model.

    Args:
        bench: what the trials shared.
        outcome: the chosen one.
        built: its artifact, and its outputs on the first evaluation rows.
        reference: folder of the original's outputs on the evaluation rows.
        environment: facts of the machine that measured.

    Raises:
        StepFailed: the artifact does not open any more where it was tried.
    """
    artifact, model, samples = built.converted.path, bench.model, bench.samples
    inputs, outputs, version = ends_of(bench, built)
    backend = require_backend(built.choice.backend)
    runtime = bench.profile.runtime(built.choice.backend)
    computed = bench.evidence if bench.device.simulates else bench.device.evidence
    component = BundledComponent(
        name=SINGLE,
        original_sha256=model.sha256,
        recipe=built.choice.recipe,
        structure=built.choice.structure,
        engine=Engine(name=built.choice.backend, tested=version, minimum=oldest_of(version)),
        artifact=artifact,
        folder=artifact.parent,
        threads=bench.threads,
        inputs=tuple((info, TensorSource(component=None, tensor=info.name)) for info in inputs),
        outputs=outputs,
        kept=built.choice.kept,
        unit=runtime.units[0],
        target=runtime.target if backend.compiles(runtime.target) else {},
    )
    ports_in, ports_out = single_model(
        component,
        original_inputs=_shapes_in_order(model.inputs, inputs),
        original_outputs=_shapes_in_order(model.outputs, outputs),
    )
    return BundleContents(
        model=Identity(name=model.path.name, sha256=model.sha256),
        profile=Identity(name=bench.profile.name, sha256=sha256_json(bench.profile.to_json())),
        inputs=ports_in,
        outputs=ports_out,
        components=(component,),
        quality=quality_entry(outcome.quality, samples, computed),
        golden=_golden(samples, reference, built.outputs or reference),
        measured=(*figures_of(outcome.measurement), *_shares(outcome.shares)),
        environment={**environment, **engine_there(built.choice.backend, outcome.measurement)},
        samples_fingerprint=samples.fingerprint,
    )


def ends_of(
    bench: Bench, built: Built
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...], str]:
    """What the artifact takes and gives, and the version of the engine, where it was tried.

    Not a step that is kept: a time budget that has ended must not cost the bundle.
    """
    with tempfile.TemporaryDirectory(prefix="edgesdk-ends-") as scratch:
        told = bench.device.run_step(
            "edgesdk.steps:ends",
            bench.opening(built.choice, built.converted),
            folder=Path(scratch) / "step",
            timeout_s=bench.workshop.limits.timeout_s,
        ).response
    inputs, outputs = (
        tuple(TensorInfo(name=n, dtype=d, shape=tuple(shape)) for n, d, shape in told[side])
        for side in ("inputs", "outputs")
    )
    return inputs, outputs, told["version"]


def engine_there(backend: str, measurement: Measurement | None) -> dict[str, str]:
    """The version of the chosen engine where it was measured; the baseline's is another engine's."""
    seen = measurement.environment if measurement else {}
    return {backend: seen[backend]} if backend in seen else {}


def oldest_of(version: str) -> str:
    """The oldest version that will do: the first release of the series that was tested."""
    return ".".join(version.split("-")[0].split(".")[:2])


def _shapes_in_order(
    original: tuple[TensorInfo, ...], deployed: tuple[TensorInfo, ...]
) -> tuple[tuple[Dim, ...], ...]:
    """The original's shapes in the order of the deployed form, which may list tensors otherwise."""
    shapes = {info.name: info.shape for info in original}
    return tuple(shapes.get(info.name, info.shape) for info in deployed)


def _golden(samples: Samples, reference: Path, outputs: Path) -> tuple[GoldenSample, ...]:
    rows = min(GOLDEN_ROWS, len(samples.evaluation))
    return tuple(
        GoldenSample(
            inputs=samples.evaluation[row].inputs,
            reference=load_arrays(reference / f"{row:06d}.npz"),
            expected=load_arrays(outputs / f"{row:06d}.npz"),
        )
        for row in range(rows)
    )


def figures_of(measurement: Measurement | None) -> tuple[Figure, ...]:
    if measurement is None:
        return ()
    latency, speedup = measurement.latency, measurement.speedup
    known = {
        ("latency_p50", "ms"): latency.p50_ms if latency else None,
        ("latency_p90", "ms"): latency.p90_ms if latency else None,
        ("latency_p95", "ms"): latency.p95_ms if latency else None,
        ("latency_p99", "ms"): latency.p99_ms if latency else None,
        ("instructions", "instructions"): measurement.instructions,
        ("estimated_run", "ms"): measurement.estimate_ms,
        ("estimated_run_cycles", "cycles"): measurement.cycles,
        ("working_memory", "bytes"): measurement.working_bytes,
        ("load", "ms"): measurement.load_ms,
        ("first_run", "ms"): measurement.first_run_ms,
        ("peak_memory", "MiB"): measurement.peak_mib,
        ("energy", "mJ"): measurement.run_mj,
    }
    figures = [
        Figure(
            name=name,
            value=value,
            unit=unit,
            evidence=Evidence.ESTIMATED if "estimate" in name else measurement.evidence,
        )
        for (name, unit), value in known.items()
        if value is not None
    ]
    pace = "fewer_instructions" if measurement.instructions else "smaller"
    of_sizes = latency is None and measurement.instructions is None
    ratio = Figure(
        name="speedup" if latency else pace,
        value=speedup.value,
        low=speedup.low,
        high=speedup.high,
        unit="x",
        evidence=Evidence.MEASURED if of_sizes else measurement.evidence,
    )
    size = Figure(
        name="artifact_size",
        value=float(measurement.artifact_bytes),
        unit="bytes",
        evidence=Evidence.MEASURED,
    )
    return (*figures, ratio, size)


def _shares(shares: UnitShares | None) -> tuple[Figure, ...]:
    """What share of a run each unit has, by what the name says."""
    if shares is None:
        return ()
    return tuple(
        Figure(
            name=f"{shares.by.value}_share",
            of=unit,
            value=share,
            unit="ratio",
            evidence=shares.evidence,
        )
        for unit, share in shares.units.items()
    )


def quality_entry(quality: Quality | None, samples: Samples, computed: Evidence) -> QualityEntry:
    """The verdict and the figures it rests on; the original is its own reference."""
    if samples.synthetic:
        return QualityEntry(verdict="unknown", reason="no real samples were given")
    if quality is None:
        return QualityEntry(verdict="pass", reason="this is the float original itself")
    figures = [
        Figure(
            name="cosine",
            of=item.output,
            value=item.cosine,
            low=item.cosine_low,
            high=item.cosine_high,
            unit="ratio",
            evidence=computed,
        )
        for item in quality.closeness
        if item.cosine is not None
    ]
    figures += [
        Figure(
            name=score.metric,
            value=score.candidate,
            unit="ratio",
            evidence=computed,
        )
        for score in quality.scores
        if score.candidate is not None
    ]
    return QualityEntry(
        verdict=quality.verdict.value, reason=quality.reason, figures=tuple(figures)
    )
