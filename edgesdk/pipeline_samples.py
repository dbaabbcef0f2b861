"""Samples of a pipeline, and of each component: what the components before it make of them.

Every step for single models (calibrate, check, measure) can then be used on a component.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesdk.backend import require_backend
from edgesdk.cache import Cache
from edgesdk.errors import SamplesError
from edgesdk.files import sha256_file, sha256_json
from edgesdk.pipeline import Pipeline, wiring_json
from edgesdk.samples import Samples, SampleSet, read_samples
from edgesdk.usercode import load_object
from edgesdk.workshop import Finished, Workshop

STEPS_KEPT = 8
"""Of the steps of a loop in one row, at least so many are kept as rows of its components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What runs a component.

    Attributes:
        backend: its name.
        artifact: the file that it opens.
        execution: the type in which float operations run.
        key: identity of the artifact's content.
    """

    backend: str
    artifact: Path
    execution: str = "fp32"
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A pipeline that ran over all rows of its samples, calibration rows first.

    Attributes:
        pipeline, samples: what ran, and over what.
        done: the step, in whose folder everything lies.
    """

    pipeline: Pipeline
    samples: Samples
    done: Finished

    @property
    def outputs(self) -> Path:
        """Folder of the pipeline's outputs on the evaluation rows and, before these, calibration rows."""
        return self.done.folder / "outputs"

    def component(self, name: str) -> Samples:
        """What a component, or a step of the app, was given; split as the pipeline's samples are.

        A row of the pipeline gives several rows of a component in a loop, and none of one that was skipped.

        Raises:
            SamplesError: no row reached it; says which inputs it needs.
        """
        stage = self.pipeline.wiring.stage(name)
        came_from = self.done.response["rows"].get(name, [])
        if not came_from:
            raise SamplesError(
                f"component {name!r} was never run: every row lacks something that it takes "
                f"({', '.join(info.name for info, _ in stage.inputs)}); give rows that hold all inputs"
            )
        border = len(self.samples.calibration)
        folder = self.done.folder / "given" / name
        chosen, judged = (
            tuple(row for row, number in enumerate(came_from) if (number < border) == calibrates)
            for calibrates in (True, False)
        )
        shapes = self.done.response["shapes"][name]
        return Samples(
            source=f"{self.samples.source}, as {name} of {self.pipeline.name} gets it",
            fingerprint=sha256_json([self.done.key, name]),
            folder=folder,
            calibration=SampleSet(folder=folder, rows=chosen),
            evaluation=SampleSet(folder=folder, rows=judged),
            labels=(),
            uniform_shapes={
                info.name: None if shapes[info.name] is None else tuple(shapes[info.name])
                for info, _ in stage.inputs
            },
            synthetic=self.samples.synthetic,
            notes=self.samples.notes,
        )


def read_pipeline_samples(
    source: str,
    pipeline: Pipeline,
    cache: Cache,
    *,
    calibration_source: str | None = None,
    seed: int = 0,
) -> Samples:
    """The samples of a pipeline's inputs, as `edgesdk.samples.read_samples` takes them.

    Rows of a folder or of a function may leave optional inputs out.

    Raises:
        SamplesError: they do not fit the pipeline.
    """
    ports = pipeline.wiring.inputs
    return read_samples(
        source,
        tuple(port.info for port in ports),
        store=cache.root / "samples",
        calibration_source=calibration_source,
        seed=seed,
        optional=[port.info.name for port in ports if port.optional],
    )


def float_parts(pipeline: Pipeline, backend: str = "onnxruntime") -> dict[str, Part]:
    """The original models, for a backend that opens ONNX files as they are."""
    return {
        component.name: Part(
            backend=backend, artifact=component.model.path.resolve(), key=component.model.sha256
        )
        for component in pipeline.components
    }


def observe(
    workshop: Workshop,
    pipeline: Pipeline,
    samples: Samples,
    *,
    parts: Mapping[str, Part] | None = None,
    threads: int = 1,
    most: int = STEPS_KEPT,
) -> Observed:
    """Run a pipeline over its samples in a child process, keeping what every component was given.

    Args:
        workshop: where it runs, and where the result is kept.
        pipeline: what to run.
        samples: of its inputs.
        parts: what runs each component; by default the original models. With compressed forms of the first
            components, the later ones get what they will get on the device.
        threads: inside one run of a component.
        most: steps of a loop that are kept of a row, at least; all where there are fewer.

    Raises:
        StepFailed: a component cannot be run.
        SamplesError: a step of the app failed; shows its line.
    """
    chosen = dict(parts or float_parts(pipeline))
    rows = SampleSet(
        folder=samples.folder, rows=(*samples.calibration.rows, *samples.evaluation.rows)
    )
    identity = {
        "pipeline": pipeline.sha256,
        "rows": samples.fingerprint,
        "parts": [[name, part.backend, part.execution, part.key] for name, part in chosen.items()],
        "engines": {
            part.backend: require_backend(part.backend).version() for part in chosen.values()
        },
        "functions": [code_identity(reference) for reference in pipeline.functions.values()],
        "most": most,
    }
    request = {
        "wiring": wiring_json(pipeline.wiring),
        "parts": {
            name: {
                "backend": part.backend,
                "artifact": str(part.artifact),
                "execution": part.execution,
            }
            for name, part in chosen.items()
        },
        "functions": dict(pipeline.functions),
        "rows": rows.to_json(),
        "threads": threads,
        "most": most,
    }
    done = workshop.step("observe", request, identity)
    return Observed(pipeline=pipeline, samples=samples, done=done)


def code_identity(reference: str) -> list[str]:
    """A function's name, and the digest of the file that it is in."""
    function = load_object(reference)
    source = inspect.getsourcefile(function)
    if source is None:
        raise SamplesError(f"{reference} has no source file, so a change of it could not be seen")
    return [reference.rpartition(":")[2], sha256_file(Path(source))]
