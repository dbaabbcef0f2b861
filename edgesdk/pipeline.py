"""A pipeline: components wired by named tensors. A single model is a pipeline of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edgesdk.errors import ModelError
from edgesdk.files import sha256_json
from edgesdk.model import Model
from edgesdk.wiring import (
    InputPort,
    OutputPort,
    Stage,
    TensorSource,
    Wiring,
    loop_json,
    origin_json,
    tensor_json,
)

SINGLE = "model"
"""The component name of a pipeline made from one model file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A model in its place.

    Attributes:
        name: unique in the pipeline; `image_encoder`, `decoder`, …
        model: the original graph and its facts.
    """

    name: str
    model: Model


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Models, how they are wired, and the app's own code between them.

    `edgesdk.pipeline_reader` makes one from a file or from a dictionary, and checks it.

    Attributes:
        components: the models, in the order in which they run.
        given: how they are wired; None for a single model, whose inputs and outputs are the pipeline's.
        functions: references to the app's processing steps by their name: `module:function`, or
            `path/to/file.py:function`.
        name: for people.
        warnings: what is legal and looks like a mistake, in sentences.
    """

    components: tuple[Component, ...]
    given: Wiring | None = None
    functions: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model) -> Pipeline:
        """The pipeline of one."""
        return cls(components=(Component(name=SINGLE, model=model),), name=model.path.stem)

    @property
    def single(self) -> Component:
        """The only component.

        Raises:
            ModelError: there are several.
        """
        if len(self.components) != 1:
            names = ", ".join(component.name for component in self.components)
            raise ModelError(f"this step takes one model; the pipeline has: {names}")
        return self.components[0]

    def component(self, name: str) -> Component:
        """The component of that name.

        Raises:
            ModelError: there is none.
        """
        for component in self.components:
            if component.name == name:
                return component
        legal = ", ".join(component.name for component in self.components)
        raise ModelError(f"the pipeline has no component {name!r}; legal: {legal}")

    @cached_property
    def wiring(self) -> Wiring:
        """How the components are wired."""
        return self.given or _alone(self.single)

    @cached_property
    def sha256(self) -> str:
        """Digest of the models, the wiring and the names of processing steps."""
        models = [[component.name, component.model.sha256] for component in self.components]
        return sha256_json([models, wiring_json(self.wiring), dict(self.functions)])

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        models = {component.name: component.model for component in self.components}
        document = wiring_json(self.wiring)
        for stage in document["components"]:
            name = stage["name"]
            stage["function"] = self.functions.get(name)
            model = models.get(name)
            stage["model"] = str(model.path) if model else None
            stage["sha256"] = model.sha256 if model else None
            stage["parameters"] = model.parameters if model else 0
            stage["bytes"] = model.file_bytes if model else 0
        return {"name": self.name, **document, "warnings": list(self.warnings)}


def _alone(component: Component) -> Wiring:
    model = component.model
    return Wiring(
        inputs=tuple(InputPort(info=info) for info in model.inputs),
        stages=(
            Stage(
                name=component.name,
                inputs=tuple(
                    (info, TensorSource(component=None, tensor=info.name)) for info in model.inputs
                ),
                outputs=model.outputs,
            ),
        ),
        outputs=tuple(
            OutputPort(info=info, source=TensorSource(component=component.name, tensor=info.name))
            for info in model.outputs
        ),
    )


def wiring_json(wiring: Wiring) -> dict[str, Any]:
    """A wiring as plain values: `inputs`, `components`, `loops`, `outputs`."""
    return {
        "inputs": [
            {
                **tensor_json(port.info),
                "modality": port.modality,
                "optional": port.optional,
                "fill": origin_json(port.fill) if port.fill else None,
            }
            for port in wiring.inputs
        ],
        "components": [
            {
                "name": stage.name,
                "inputs": [
                    {**tensor_json(info), "from": origin_json(origin)}
                    for info, origin in stage.inputs
                ],
                "outputs": [tensor_json(info) for info in stage.outputs],
            }
            for stage in wiring.stages
        ],
        "loops": [loop_json(loop) for loop in wiring.loops],
        "outputs": [
            {
                **tensor_json(port.info),
                "from": origin_json(port.source),
                "optional": port.optional,
            }
            for port in wiring.outputs
        ],
    }
