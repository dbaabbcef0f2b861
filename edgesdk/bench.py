"""What the trials of one deploy share, and what they hand on to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.backend import load_backend
from edgesdk.budget import Budget
from edgesdk.decide import Outcome
from edgesdk.device.base import Place
from edgesdk.events import Listener
from edgesdk.evidence import Evidence
from edgesdk.measure.meter import Meter
from edgesdk.measure.settings import Settings, Target
from edgesdk.model import Model
from edgesdk.plan.candidate import Choice
from edgesdk.profile_values import Profile
from edgesdk.samples import Samples
from edgesdk.workshop import Finished, Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all trials of one deploy share.

    Attributes:
        device: where artifacts run.
        meter: who measures them there.
        evidence: what a measurement on this device proves about the profile's device.
        machine_key: identity of the device for the cache of measurements.
        compared_rows: evaluation rows whose outputs on the device are compared with this machine's;
            0 where both have the same processor.
        training_s: seconds for each training; None for as long as it gets better.
    """

    workshop: Workshop
    model: Model
    samples: Samples
    budget: Budget
    metrics: tuple[str, ...]
    threads: int
    settings: Settings
    device: Place
    profile: Profile
    meter: Meter
    machine_key: str
    evidence: Evidence
    listen: Listener
    compared_rows: int = 0
    training_s: float | None = None

    def opening(self, choice: Choice, converted: Finished) -> dict[str, Any]:
        """What a step is told that opens an artifact."""
        return {
            "backend": choice.backend,
            "artifact": converted.path,
            "files": artifact_files(converted.path),
            "execution": choice.recipe.execution,
            "threads": self.threads,
            "simulate": self.simulates(choice.backend),
        }

    def simulates(self, backend: str) -> bool:
        """Whether artifacts of a backend are computed in place of a unit that is not here."""
        return self.device.simulates and load_backend(backend).simulation is not None

    def wanted_unit(self, backend: str) -> str:
        """The unit that the profile wants a backend to use; `cpu` for one that it does not have."""
        units = {runtime.name: runtime.units[0] for runtime in self.profile.runtimes}
        return units.get(backend, "cpu")

    def identity(self, choice: Choice, converted: Finished) -> dict[str, Any]:
        """What the result of such a step depends on."""
        return {
            "artifact": converted.key,
            "execution": choice.recipe.execution,
            "threads": self.threads,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An artifact that opens, with the outputs of its first evaluation rows.

    Attributes:
        converted: the step that made the artifact; its `files` folder holds nothing else.
        checks: the steps that compared it, each with other evaluation rows; empty for the original.
        graph: the ONNX graph that the artifact was made from.
        outputs: folder of .npz files: the reference outputs for the original, else golden outputs.
        program: what the compiler of the device's unit stated (the response of the step `compile`,
            which then is `converted`); None where nothing is compiled.
        notes: what the steps remarked.
    """

    choice: Choice
    converted: Finished
    checks: tuple[Finished, ...] = ()
    graph: Path | None = None
    outputs: Path | None = None
    program: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def target(self, threads: int) -> Target:
        """What the measurement opens."""
        return Target(
            backend=self.choice.backend,
            artifact=self.converted.path,
            execution=self.choice.recipe.execution,
            threads=threads,
            files=artifact_files(self.converted.path),
        )


def artifact_files(artifact: Path) -> tuple[Path, ...]:
    """All files of an artifact; external data may lie beside it under any name."""
    return tuple(sorted(file for file in artifact.parent.rglob("*") if file.is_file()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate's outcome and what was built on the way, as far as it got."""

    outcome: Outcome
    built: Built | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The float model as given, on the baseline's backend, and its outputs on the evaluation rows.

    Attributes:
        unfit: why it is only compared with and cannot ship; None where it can.
    """

    built: Built
    reference: Finished
    unfit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The graph that recipes start from, its identity, and what was remarked on the way."""

    path: Path
    key: str
    notes: tuple[str, ...] = ()


def tool_versions(*more: str) -> dict[str, str]:
    """Versions of the libraries that change graphs, and of `more`: part of the identity of what they make."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("onnx", "onnxruntime", "nncf", "onnx-ir", *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def metric_identity(name: str) -> str:
    """A metric's name, with the hash of the user's file where it is one."""
    from edgesdk.files import sha256_file

    place = Path(name.rpartition(":")[0])
    return f"{name}@{sha256_file(place)}" if place.is_file() else name
