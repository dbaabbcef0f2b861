"""A whole pipeline behind the adapter contract, so that it is checked and measured as any artifact.

Its artifact is a folder: `pipeline.json` with the wiring, and below `parts/` what each component's own
backend opens. All components live in one process, as they will on the device.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgesdk.backend import PIPELINE, Array, Backend, OpenOptions, Session, require_backend
from edgesdk.bundle.fields import Field
from edgesdk.bundle.wires import read_wiring
from edgesdk.errors import StepFailed
from edgesdk.executor.app import checked_step
from edgesdk.executor.run import Executor
from edgesdk.files import read_json, write_json
from edgesdk.pipeline import wiring_json
from edgesdk.usercode import guarded
from edgesdk.wiring import Stage, Wiring

if TYPE_CHECKING:
    from edgesdk.executor.run import Run
    from edgesdk.recipe import Recipe

FILE = "pipeline.json"
_PARTS = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What runs one component.

    Attributes:
        backend: its name.
        execution: the type in which float operations run.
        artifact: the file that it opens; all files of that folder belong to it.
    """

    backend: str
    execution: str
    artifact: Path


def write_assembled(
    folder: Path, wiring: Wiring, parts: Mapping[str, Assembly], functions: Mapping[str, str]
) -> Path:
    """Put a pipeline together in an empty folder; returns the file to open.

    Args:
        folder: what it is written into; holds nothing else afterwards.
        wiring: how the parts are wired.
        parts: of each component by name. Files are linked where the disk allows, else copied.
        functions: references to the app's processing steps by name.
    """
    told = {}
    for name, part in parts.items():
        source = part.artifact.parent
        for file in sorted(item for item in source.rglob("*") if item.is_file()):
            target = folder / _PARTS / name / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)
        told[name] = {
            "backend": part.backend,
            "execution": part.execution,
            "artifact": f"{_PARTS}/{name}/{part.artifact.name}",
        }
    document = {"wiring": wiring_json(wiring), "parts": told, "functions": dict(functions)}
    write_json(folder / FILE, document)
    return folder / FILE


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, target)


class AssembledSession(Session):
    """Every component opened on its own backend, and the executor that runs them."""

    def __init__(self, artifact: Path, options: OpenOptions) -> None:
        """Open all components in order; closes what was opened when one fails."""
        document: Mapping[str, Any] = read_json(artifact)
        wiring = read_wiring(Field("wiring", document["wiring"]))
        self.inputs = tuple(port.info for port in wiring.inputs)
        self.outputs = tuple(port.info for port in wiring.outputs)
        self.made: dict[str, Mapping[str, Array]] = {}
        """With `profiling`, what each stage gave in the last run; in a loop, in its last step."""
        self._held = ExitStack()
        runs: dict[str, Run] = {}
        try:
            for name, part in document["parts"].items():
                own = OpenOptions(
                    threads=options.threads,
                    execution=part["execution"],
                    simulate=options.simulate,
                )
                engine = require_backend(part["backend"])
                session = engine.open(artifact.parent / part["artifact"], own)
                runs[name] = _taking(self._held.enter_context(session), wiring.stage(name))
            for name, reference in document["functions"].items():
                runs[name] = checked_step(wiring.stage(name), guarded(reference))
        except BaseException:
            self._held.close()
            raise
        if options.profiling:
            runs = {name: self._kept(name, run) for name, run in runs.items()}
        self._executor = Executor(wiring, runs)
        self._profiling = options.profiling

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs that the inputs given allow."""
        if self._profiling:
            self.made.clear()
        return self._executor.run(feed)

    def close(self) -> None:
        """Close every component."""
        self._held.close()

    def _kept(self, name: str, run: Run) -> Run:
        def kept(feed: Mapping[str, Array]) -> Mapping[str, Array]:
            self.made[name] = run(feed)
            return self.made[name]

        return kept


def _taking(session: Session, stage: Stage) -> Run:
    """Its `run`, without the inputs that conversion dropped because they did nothing."""
    names = {info.name for info in session.inputs}
    if all(info.name in names for info, _ in stage.inputs):
        return session.run
    return lambda feed: session.run({name: feed[name] for name in names})


class AssembledBackend(Backend):
    """Opens what `write_assembled` wrote."""

    name: ClassVar[str] = PIPELINE
    install: ClassVar[str] = "it is part of edgesdk"

    def unavailable(self) -> str | None:
        """None: the components' backends say for themselves whether they are usable."""
        return None

    def version(self) -> str:
        """Of edgesdk, whose executor it is."""
        return version("edgesdk")

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Refuse: a pipeline is put together from artifacts of its components.

        Raises:
            StepFailed: always.
        """
        raise StepFailed(
            f"{model} as {recipe} into {out}: no model is converted to a pipeline; deploy pipeline.toml"
        )

    def open(self, artifact: Path, options: OpenOptions) -> AssembledSession:
        """Open every component; `execution` of the options is not theirs, which the file has."""
        return AssembledSession(artifact, options)
