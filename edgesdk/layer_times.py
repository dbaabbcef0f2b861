"""What the layers of a model take on a device, whole and split, foretold from the profile's speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgesdk.model import model_work, read_model
from edgesdk.plan.cost import predict
from edgesdk.plan.speeds import Speeds
from edgesdk.profile import Profile, profile_from_json
from edgesdk.recipe import Recipe
from edgesdk.structure.workload import split_work

if TYPE_CHECKING:
    from edgesdk.structure.factors import Choice
    from edgesdk.structure.layers import Layer
    from edgesdk.structure.lowrank import CostOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a model will run: what its layers are timed for.

    Attributes:
        profile: with speeds of the backend.
        recipe: that follows.
        threads: in one run.
    """

    profile: Profile
    backend: str
    recipe: Recipe
    threads: int

    @property
    def known(self) -> bool:
        """Whether the profile has speeds of the backend, at these many threads or others."""
        return Speeds(self.profile, self.threads).covers(self.backend)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the request of a step, and for its identity."""
        return {
            "profile": self.profile.to_json(),
            "backend": self.backend,
            "recipe": self.recipe.name,
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            profile=profile_from_json(data["profile"]),
            backend=data["backend"],
            recipe=Recipe.parse(data["recipe"]),
            threads=data["threads"],
        )


def layer_times(
    model: Path, shapes: Mapping[str, tuple[int, ...]], layers: Mapping[str, Layer], pace: Pace
) -> CostOf:
    """Milliseconds of a layer, whole (None) or split, by what the whole model takes more or less.

    Args:
        model: ONNX file in float.
        shapes: of its inputs.
        layers: by node name.
        pace: how it will run.

    Raises:
        ModelError: its shapes cannot be worked out. So does what is returned, for layers that do not run.
    """
    graph = model_work(read_model(model), shapes)
    speeds = Speeds(pace.profile, pace.threads)
    whole = predict(graph, pace.recipe, pace.backend, speeds)
    known = {cost.node: cost.ms for cost in whole.per_node}

    def cost_of(layer: Layer, choice: Choice | None) -> float:
        own = known.get(layer.node, 0.0)
        if choice is None:
            return own
        split = split_work(graph, layers, {layer.node: choice})
        after = predict(split, pace.recipe, pace.backend, speeds)
        return max(0.0, own + after.latency_ms - whole.latency_ms)

    return cost_of
