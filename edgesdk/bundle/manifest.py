"""What `manifest.json` says, as frozen values, and the way back to JSON. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgesdk.evidence import Evidence
from edgesdk.signature import Dim, TensorInfo
from edgesdk.wiring import (
    Carried,
    Fill,
    InputPort,
    Loop,
    Origin,
    OutputPort,
    Presence,
    Slice,
    Stage,
    TensorSource,
    Wiring,
    loop_json,
    origin_json,
    tensor_json,
)

__all__ = ["TensorSource"]

FORMAT = "1.1"
FEATURES = frozenset({"constants", "loops", "optional", "processing"})
"""What a bundle may require beyond format 1.0 that this version knows."""
VERDICTS = frozenset({"pass", "fail", "undecided", "unknown"})
EXECUTIONS = frozenset({"fp32", "bf16", "fp16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Something known by its name and the digest of its content."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the bundle: path inside it, size and digest."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the pipeline.

    Attributes:
        info: name, dtype and shape that the deployed form takes or gives.
        original_shape: the shape before axes were fixed; equal to `info.shape` where none were.
        source: for an output, the component and tensor that it is; None for an input.
        modality: of an input: `image`, `text`, `audio`, …; empty where nobody said.
        optional: an input that may be missing, or an output that then may not be there.
        fill: of an input: what is taken in its place when it is missing.
    """

    info: TensorInfo
    original_shape: tuple[Dim, ...]
    source: TensorSource | None = None
    modality: str = ""
    optional: bool = False
    fill: Fill | None = None

    @property
    def is_fixed(self) -> bool:
        """True when an axis that was free in the original has a fixed length here."""
        return self.info.shape != self.original_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A component's backend, the engine version it was proven with, the oldest that will do."""

    name: str
    tested: str
    minimum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentEntry:
    """One model in its place.

    Attributes:
        name: unique in the pipeline; a single model is called `model`.
        original_sha256: digest of the ONNX file it was made from.
        recipe: canonical name of the compression settings, and the settings that it decodes to.
        settings: those settings by field name.
        unit: the unit that the profile wants it to run on; empty where a bundle does not say.
        target: what the engine's compiler is told of the device; empty where there is nothing to compile.
        kept: names of nodes of the cleaned graph that stayed float (under a 4-bit recipe, in 8 bits).
        engine: what runs it.
        main: the artifact file that the engine opens.
        files: all files of the artifact, `main` among them.
        execution: the type in which float operations run: `fp32`, `bf16` or `fp16`.
        threads: threads inside one run, as measured; a loader may override it.
        inputs: what it takes, each with what it is given.
        outputs: what it gives.
    """

    name: str
    original_sha256: str
    recipe: str
    settings: Mapping[str, str | int | bool | None]
    engine: Engine
    main: str
    files: tuple[str, ...]
    execution: str
    threads: int
    inputs: tuple[tuple[TensorInfo, Origin], ...]
    outputs: tuple[TensorInfo, ...]
    kept: tuple[str, ...] = ()
    unit: str = ""
    target: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its unit, its 95 % interval where there is one, and how it was obtained.

    Attributes:
        name: `latency_p50`, `speedup`, `cosine`, …; `docs/bundle.md` lists the names in use.
        of: what it is a figure of, where that is not the whole bundle: an output, a component or a
            unit.
        low, high: None where there is no interval or the side is unbounded.
    """

    name: str
    value: float
    unit: str
    evidence: Evidence
    low: float | None = None
    high: float | None = None
    of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The verdict of the check against the float original, why, and the figures it rests on."""

    verdict: str
    reason: str = ""
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Recorded runs.

    Attributes:
        samples: one `.npz` each, arrays `input.I`, `reference.O` and `expected.O` by position.
        tolerance: for every output, the largest healthy absolute difference from `expected`.
    """

    samples: tuple[str, ...]
    tolerance: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole document; `docs/bundle.md` explains each field.

    Attributes:
        loops: components that run again and again.
        processing: steps that the app itself does, between the components.
        order: names of components and processing steps as they run; empty for the components' order.
        document: the JSON as read, with the fields that this version does not know.
    """

    format: str
    edgesdk: str
    created: str
    model: Identity
    profile: Identity
    samples_fingerprint: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    components: tuple[ComponentEntry, ...]
    golden: Golden
    measured: tuple[Figure, ...]
    quality: Quality
    environment: Mapping[str, str]
    files: tuple[FileEntry, ...]
    loops: tuple[Loop, ...] = ()
    processing: tuple[Stage, ...] = ()
    order: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def wiring(self) -> Wiring:
        """What the executor runs; a name of `order` that is not there is a KeyError."""
        stages = {
            component.name: Stage(
                name=component.name, inputs=component.inputs, outputs=component.outputs
            )
            for component in self.components
        }
        stages |= {stage.name: stage for stage in self.processing}
        order = self.order or tuple(component.name for component in self.components)
        return Wiring(
            inputs=tuple(
                InputPort(
                    info=port.info, modality=port.modality, optional=port.optional, fill=port.fill
                )
                for port in self.inputs
            ),
            stages=tuple(stages[name] for name in order),
            outputs=tuple(
                OutputPort(info=port.info, source=port.source, optional=port.optional)
                for port in self.outputs
                if port.source is not None
            ),
            loops=self.loops,
        )

    @property
    def features(self) -> tuple[str, ...]:
        """What a reader of format 1.0 would run wrongly; sorted."""
        found = {"loops"} if self.loops else set()
        if self.processing:
            found.add("processing")
        if any(port.optional for port in (*self.inputs, *self.outputs)):
            found.add("optional")
        stages: tuple[ComponentEntry | Stage, ...] = (*self.components, *self.processing)
        for stage in stages:
            for _, origin in stage.inputs:
                if isinstance(origin, Fill):
                    found.add("constants")
                elif isinstance(origin, Carried | Slice):
                    found.add("loops")
                elif isinstance(origin, Presence) or origin.fill is not None:
                    found.add("optional")
        return tuple(sorted(found))

    def figure(self, name: str, of: str = "") -> Figure | None:
        """The measured figure of that name, or None where it was not recorded."""
        return next((f for f in self.measured if f.name == name and f.of == of), None)


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The JSON document of a manifest, keys in the order of the specification."""
    return {
        "format": manifest.format,
        "requires": list(manifest.features),
        "edgesdk": manifest.edgesdk,
        "created": manifest.created,
        "model": _identity(manifest.model),
        "profile": _identity(manifest.profile),
        "samples": {"fingerprint": manifest.samples_fingerprint},
        "inputs": [_port(port) for port in manifest.inputs],
        "outputs": [_port(port) for port in manifest.outputs],
        "components": [_component(component) for component in manifest.components],
        **({"loops": [loop_json(loop) for loop in manifest.loops]} if manifest.loops else {}),
        **(
            {"processing": [_step(step) for step in manifest.processing]}
            if manifest.processing
            else {}
        ),
        **({"order": list(manifest.order)} if manifest.order else {}),
        "golden": {
            "samples": list(manifest.golden.samples),
            "tolerance": dict(manifest.golden.tolerance),
        },
        "measured": [_figure(figure) for figure in manifest.measured],
        "quality": {
            "verdict": manifest.quality.verdict,
            "reason": manifest.quality.reason,
            "figures": [_figure(figure) for figure in manifest.quality.figures],
        },
        "environment": dict(sorted(manifest.environment.items())),
        "files": [
            {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
            for file in manifest.files
        ],
    }


def _identity(identity: Identity) -> dict[str, Any]:
    return {"name": identity.name, "sha256": identity.sha256}


def _port(port: Port) -> dict[str, Any]:
    document = {**tensor_json(port.info), "original_shape": list(port.original_shape)}
    if port.source is not None:
        document["from"] = origin_json(port.source)
    if port.modality:
        document["modality"] = port.modality
    if port.optional:
        document["optional"] = True
    if port.fill is not None:
        document["fill"] = origin_json(port.fill)
    return document


def _ends(stage: ComponentEntry | Stage) -> dict[str, Any]:
    return {
        "inputs": [
            {**tensor_json(info), "from": origin_json(origin)} for info, origin in stage.inputs
        ],
        "outputs": [tensor_json(info) for info in stage.outputs],
    }


def _step(step: Stage) -> dict[str, Any]:
    return {"name": step.name, **_ends(step)}


def _component(component: ComponentEntry) -> dict[str, Any]:
    engine = component.engine
    return {
        "name": component.name,
        "original_sha256": component.original_sha256,
        "recipe": {
            "name": component.recipe,
            "settings": dict(component.settings),
            **({"kept": list(component.kept)} if component.kept else {}),
        },
        "backend": {"name": engine.name, "tested": engine.tested, "minimum": engine.minimum},
        "artifact": {"main": component.main, "files": list(component.files)},
        "execution": component.execution,
        "threads": component.threads,
        **({"unit": component.unit} if component.unit else {}),
        **({"target": dict(component.target)} if component.target else {}),
        **_ends(component),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "of": figure.of,
        "value": figure.value,
        "low": _bound(figure.low),
        "high": _bound(figure.high),
        "unit": figure.unit,
        "evidence": figure.evidence.value,
    }


def _bound(value: float | None) -> float | None:
    """An unbounded side of an interval is null: JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None
