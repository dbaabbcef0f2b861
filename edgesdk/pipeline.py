"""A pipeline: components wired by named tensors. A single model is a pipeline of one."""

from __future__ import annotations

from dataclasses import dataclass

from edgesdk.errors import ModelError
from edgesdk.model import Model

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Components in the order in which they run."""

    components: tuple[Component, ...]

    @classmethod
    def of(cls, model: Model) -> Pipeline:
        """The pipeline of one."""
        return cls(components=(Component(name=SINGLE, model=model),))

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
