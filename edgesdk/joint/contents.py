"""What goes into the bundle of a pipeline: every component's artifact, the wiring, recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgesdk.arrays import load_arrays
from edgesdk.backend import require_backend
from edgesdk.bench import Built
from edgesdk.bundle.golden import GoldenSample
from edgesdk.bundle.manifest import Engine, Identity
from edgesdk.bundle.write import BundleContents, BundledComponent, wired_ports
from edgesdk.checking import GOLDEN_ROWS
from edgesdk.contents import ends_of, engine_there, figures_of, oldest_of, quality_entry
from edgesdk.decide import Outcome
from edgesdk.files import sha256_json
from edgesdk.joint.explore import Explored
from edgesdk.joint.whole import Judged, Whole


def pipeline_contents(
    whole: Whole,
    explored: Sequence[Explored],
    outcome: Outcome,
    parts: Mapping[str, Built],
    judged: Judged | None,
    *,
    environment: Mapping[str, str],
) -> BundleContents:
    """Everything that ships.

    Golden samples are rows with all inputs, and one of each variant with an input missing.

    Args:
        whole: the pipeline on its bench.
        explored: its components.
        outcome: the chosen combination's.
        parts: its artifacts.
        judged: its quality with recorded outputs; None for the float pipeline itself.
        environment: facts of the machine that measured.

    Raises:
        StepFailed: an artifact does not open any more where it was tried.
    """
    pipeline, bench = whole.pipeline, whole.bench
    wiring = pipeline.wiring
    ports_in, ports_out = wired_ports(wiring)
    engines: dict[str, str] = {}
    for _, choice in outcome.candidate.choices:
        engines |= engine_there(choice.backend, outcome.measurement)
    return BundleContents(
        model=Identity(name=pipeline.name, sha256=pipeline.sha256),
        profile=Identity(name=bench.profile.name, sha256=sha256_json(bench.profile.to_json())),
        inputs=ports_in,
        outputs=ports_out,
        components=tuple(_component(item, whole, parts[item.name]) for item in explored),
        quality=quality_entry(outcome.quality, whole.samples, bench.device.evidence),
        golden=_golden(whole, judged),
        measured=figures_of(outcome.measurement),
        environment={**environment, **engines},
        samples_fingerprint=whole.samples.fingerprint,
        loops=wiring.loops,
        processing=tuple(stage for stage in wiring.stages if stage.name in pipeline.functions),
        order=tuple(stage.name for stage in wiring.stages) if pipeline.functions else (),
    )


def _component(item: Explored, whole: Whole, built: Built) -> BundledComponent:
    inputs, outputs, version = ends_of(item.bench, built)
    stage = whole.pipeline.wiring.stage(item.name)
    origins = {info.name: origin for info, origin in stage.inputs}
    choice, profile = built.choice, item.bench.profile
    runtime = profile.runtime(choice.backend)
    artifact = built.converted.path
    compiles = require_backend(choice.backend).compiles(runtime.target)
    return BundledComponent(
        name=item.name,
        original_sha256=item.component.model.sha256,
        recipe=choice.recipe,
        structure=choice.structure,
        engine=Engine(name=choice.backend, tested=version, minimum=oldest_of(version)),
        artifact=artifact,
        folder=artifact.parent,
        threads=item.bench.threads,
        inputs=tuple((info, origins[info.name]) for info in inputs),
        outputs=outputs,
        kept=choice.kept,
        unit=runtime.units[0],
        target=runtime.target if compiles else {},
    )


def _golden(whole: Whole, judged: Judged | None) -> tuple[GoldenSample, ...]:
    found = []
    for item in whole.judges:
        rows = item.bench.samples.evaluation
        reference = item.original.reference.folder / "outputs"
        built = judged.built[item.variant.name] if judged else None
        recorded = built.outputs if built and built.outputs else reference
        for number in range(min(1 if item.variant.missing else GOLDEN_ROWS, len(rows))):
            file = f"{number:06d}.npz"
            found.append(
                GoldenSample(
                    inputs=rows[number].inputs,
                    reference=load_arrays(reference / file),
                    expected=load_arrays(recorded / file),
                )
            )
    return tuple(found)
