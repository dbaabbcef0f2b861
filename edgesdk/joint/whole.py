"""The pipeline as one thing that is opened, checked and measured, whatever its components are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgesdk.arrays import load_arrays
from edgesdk.assembled import Assembly, write_assembled
from edgesdk.backend import PIPELINE
from edgesdk.bench import Bench, Built, Original
from edgesdk.checking import check, check_rest, is_partial
from edgesdk.errors import ModelError, StepFailed
from edgesdk.files import read_json, write_json
from edgesdk.isolate import RESPONSE
from edgesdk.joint.damage import damages
from edgesdk.joint.variants import Variant
from edgesdk.model import Model
from edgesdk.pipeline import Pipeline
from edgesdk.pipeline_samples import code_identity
from edgesdk.plan.candidate import Choice
from edgesdk.quality import Quality, Verdict
from edgesdk.recipe import Recipe
from edgesdk.samples import Samples
from edgesdk.workshop import Finished

WHOLE = Choice(recipe=Recipe(), backend=PIPELINE)
"""What steps are told of a pipeline; what its components are is in its file."""
_WORST_FIRST = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A pipeline's quality in each variant of its inputs.

    Attributes:
        qualities: by the variant's name, all inputs first.
        built: by the same, what was checked with its golden outputs.
        cached: nothing had to be run.
    """

    qualities: Mapping[str, Quality]
    built: Mapping[str, Built]
    cached: bool

    @property
    def worst(self) -> Quality:
        """That of all inputs, with the floors and the verdict of the worst variant: never an average."""
        (first, plain), *others = self.qualities.items()
        del first
        floors = plain.floors + tuple(
            replace(result, subject=f"{result.subject} {name}")
            for name, quality in others
            for result in quality.floors
        )
        name, worst = min(
            self.qualities.items(), key=lambda item: _WORST_FIRST.index(item[1].verdict)
        )
        reason = worst.reason if worst is plain else f"{name}: {worst.reason}"
        notes = tuple(note for quality in self.qualities.values() for note in quality.notes)
        return replace(
            plain,
            verdict=worst.verdict,
            reason=reason,
            floors=floors,
            notes=tuple(dict.fromkeys(notes)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One variant of the inputs, with the float pipeline's outputs on its rows."""

    variant: Variant
    bench: Bench
    original: Original


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The pipeline on its bench.

    Attributes:
        samples: of the pipeline, as they were given.
        bench: with the rows that hold all inputs.
        parts: the float original of each component, by name.
        built: the float pipeline.
        judges: one for each variant of the inputs, all inputs first.
        notes: what could not be judged.
    """

    pipeline: Pipeline
    samples: Samples
    bench: Bench
    parts: Mapping[str, Built]
    built: Built
    judges: tuple[Judge, ...]
    notes: tuple[str, ...] = ()

    def assembled(self, parts: Mapping[str, Built]) -> Built:
        """The pipeline with some components replaced."""
        return assembled(self.bench, self.pipeline, {**self.parts, **parts})

    def judged(self, built: Built, *, fully: bool = False) -> Judged:
        """The verdict in every variant.

        Args:
            built: what `assembled` gave.
            fully: look at all rows, even when some of them make the verdict certain.

        Raises:
            StepFailed: it cannot be run.
        """
        qualities, builts, cached = {}, {}, True
        for judge in self.judges:
            checked = check(judge.bench, built, judge.original)
            if fully and is_partial(judge.bench, checked.quality):
                cached = cached and checked.cached
                checked = check_rest(judge.bench, checked.built, judge.original)
            qualities[judge.variant.name] = checked.quality
            builts[judge.variant.name] = checked.built
            cached = cached and checked.cached
        return Judged(qualities=qualities, built=builts, cached=cached)

    def damages(self, judged: Judged) -> dict[str, float]:
        """The share of each floor's allowance that is used up, in every variant."""
        found: dict[str, float] = {}
        for judge in self.judges:
            name = judge.variant.name
            shares = damages(judged.qualities[name], judge.bench.budget.floors)
            found |= {f"{subject}, {name}": share for subject, share in shares.items()}
        return found

    def fidelity(self, built: Built, rows: int) -> Finished:
        """The step that compares every stage's outputs with those of the float pipeline."""
        samples = self.bench.samples
        return self.bench.workshop.step(
            "stagewise",
            {
                "reference": str(self.built.converted.path),
                "candidate": str(built.converted.path),
                "threads": self.bench.threads,
                "rows": samples.evaluation.subset(rows).to_json(),
            },
            {
                "reference": self.bench.identity(WHOLE, self.built.converted),
                "candidate": self.bench.identity(WHOLE, built.converted),
                "rows": samples.fingerprint,
                "most": rows,
            },
        )


def open_whole(
    bench: Bench, pipeline: Pipeline, parts: Mapping[str, Built], variants: Sequence[Variant]
) -> Whole:
    """The float pipeline, run over the rows of every variant.

    Args:
        bench: with the samples, floors and metrics of the pipeline.
        pipeline: what it is.
        parts: the float originals of the components, on the backends that everything is compared with.
        variants: of the inputs, all inputs first.

    Raises:
        ModelError: it does not run.
    """
    built = assembled(bench, pipeline, parts)
    judges: list[Judge] = []
    notes: list[str] = []
    for variant in variants:
        own = replace(bench, samples=variant.samples)
        try:
            reference = own.workshop.step(
                "reference",
                {**own.opening(WHOLE, built.converted), "rows": variant.samples.evaluation},
                {
                    **own.identity(WHOLE, built.converted),
                    "rows": variant.samples.fingerprint,
                },
                device=own.device,
            )
        except StepFailed as exc:
            raise ModelError(f"the float pipeline does not run, {variant.name}: {exc}") from exc
        outputs = reference.folder / "outputs"
        told = _told_of(own, outputs)
        if told is None:
            notes.append(f"{variant.name}: not judged, because no output that has a floor is there")
            continue
        original = Original(built=replace(built, outputs=outputs), reference=reference)
        judges.append(Judge(variant=variant, bench=told, original=original))
    return Whole(
        pipeline=pipeline,
        samples=bench.samples,
        bench=judges[0].bench,
        parts=dict(parts),
        built=judges[0].original.built,
        judges=tuple(judges),
        notes=tuple(notes),
    )


def _told_of(bench: Bench, outputs: Path) -> Bench | None:
    """The bench with the floors and metrics of the outputs that are there; None where there are none."""
    there = set(load_arrays(outputs / "000000.npz"))
    names = {info.name for info in bench.model.outputs}
    metrics = tuple(
        metric
        for metric in bench.metrics
        if (metric.rpartition("@")[2] in there if "@" in metric else there == names)
    )
    floors = tuple(
        floor
        for floor in bench.budget.floors
        if (floor.output in there if floor.output else there == names)
    )
    if not floors:
        return None
    return replace(bench, metrics=metrics, budget=replace(bench.budget, floors=floors))


def assembled(bench: Bench, pipeline: Pipeline, parts: Mapping[str, Built]) -> Built:
    """The pipeline whose components are these artifacts, as an artifact of its own."""
    wiring = pipeline.wiring
    chosen = {
        name: Assembly(
            backend=part.choice.backend,
            execution=part.choice.recipe.execution,
            artifact=part.converted.path,
        )
        for name, part in parts.items()
    }
    key = bench.workshop.cache.key(
        "assembled",
        pipeline=pipeline.sha256,
        parts=[
            [name, chosen[name].backend, chosen[name].execution, parts[name].converted.key]
            for name in sorted(parts)
        ],
        functions=[code_identity(reference) for reference in pipeline.functions.values()],
    )
    cached = bench.workshop.has(key)

    def build(folder: Path) -> None:
        (folder / "files").mkdir()
        write_assembled(folder / "files", wiring, chosen, pipeline.functions)
        write_json(folder / RESPONSE, {"path": "files/pipeline.json"})

    folder = bench.workshop.folder(key, build)
    response = read_json(folder / RESPONSE)
    converted = Finished(key=key, folder=folder, response=response, cached=cached)
    return Built(choice=WHOLE, converted=converted)


def facts_of(pipeline: Pipeline) -> Model:
    """The facts of all components together, with the inputs and outputs of the pipeline.

    There is no single graph, so operators are those of all, and versions the newest.
    """
    models = [component.model for component in pipeline.components]
    return Model(
        path=models[0].path.with_name(pipeline.name),
        inputs=tuple(port.info for port in pipeline.wiring.inputs),
        outputs=tuple(port.info for port in pipeline.wiring.outputs),
        opset=max(model.opset for model in models),
        domains={name: no for model in models for name, no in model.domains.items()},
        ir_version=max(model.ir_version for model in models),
        producer="",
        parameters=sum(model.parameters for model in models),
        weight_bytes=sum(model.weight_bytes for model in models),
        file_bytes=sum(model.file_bytes for model in models),
        sha256=pipeline.sha256,
        external_files=(),
        nodes=tuple(node for model in models for node in model.nodes),
        functions=(),
        metadata={},
    )
