"""Backends as the plan sees them, and what speaks against one, or against a recipe on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgesdk.cause import Cause
from edgesdk.model import Model, check_readable
from edgesdk.plan.candidate import Choice
from edgesdk.profile_values import Profile
from edgesdk.recipe import Recipe


class EngineFacts(Protocol):
    """What the plan asks of a backend; `edgesdk.backend.Backend` offers it."""

    def rejects(self, recipe: Recipe) -> str | None:
        """Why the engine cannot run a recipe whatever the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A backend as the plan sees it.

    Attributes:
        name: the backend's name.
        facts: what it can run; None when the backend is not there at all.
        version: the engine's version here; empty when it is not usable.
        unavailable: why it cannot be used here, or None.
        simulated: it stands in for the device's, whose version it need not have.
    """

    name: str
    facts: EngineFacts | None
    version: str = ""
    unavailable: str | None = None
    simulated: bool = False

    def says(self, why: str) -> Cause:
        """What the engine, or its adapter, says against something."""
        source = f"backend {self.name}" if self.facts else ""
        return Cause(
            kind="engine", key=self.name, value=self.version or None, why=why, source=source
        )


def against_engine(engine: Engine, profile: Profile) -> tuple[Cause, ...]:
    """Why an engine cannot be used here, or is not the one that the device has."""
    if engine.unavailable or engine.facts is None:
        return (engine.says(engine.unavailable or "not registered"),)
    legal = [runtime.name for runtime in profile.runtimes]
    if engine.name not in legal:
        why = f"no runtime {engine.name!r} on this device; it has: {', '.join(legal)}"
        return (profile.cite("runtimes", None, why),)
    runtime = profile.runtime(engine.name)
    if not engine.simulated and runtime.refuses_version(engine.version):
        key, why = f"runtimes.{engine.name}.versions", f"{engine.name} here is {engine.version}"
        return (profile.cite(key, runtime.versions, why),)
    return ()


def against_model(engine: Engine, profile: Profile, model: Model) -> tuple[Cause, ...]:
    """Why the device's version of an engine cannot read the model: its newest opset or IR version.

    The first cause is the line of the profile, whose `why` says what to do; the second is the
    model's own version.
    """
    runtime = profile.runtime(engine.name)
    key, label = f"runtimes.{engine.name}", f"{engine.name} {engine.version}"
    if runtime.max_opset:
        newest = int(runtime.max_opset.value)
        why = check_readable(model, newest, model.ir_version, label)
        if why:
            stated = profile.cite(f"{key}.max_opset", newest, why, runtime.max_opset)
            return (stated, Cause(kind="model", key="opset", value=model.opset))
    if runtime.max_ir:
        newest = int(runtime.max_ir.value)
        why = check_readable(model, model.opset, newest, label)
        if why:
            stated = profile.cite(f"{key}.max_ir", newest, why, runtime.max_ir)
            return (stated, Cause(kind="model", key="ir_version", value=model.ir_version))
    return ()


def against_choice(choice: Choice, engine: Engine, profile: Profile) -> tuple[Cause, ...]:
    """Why a recipe makes no sense on its engine on this device, whatever the model."""
    if engine.facts is None:
        return (engine.says("not registered"),)
    refusal = engine.facts.rejects(choice.recipe)
    if refusal:
        return (engine.says(refusal),)
    return profile.causes_against(choice.recipe, choice.backend)
