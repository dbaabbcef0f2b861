"""The HTP as an engine like any other: compiled when converted, always opened in the simulator."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from edgesdk.backend import OpenOptions, Session
from edgesdk.recipe import Recipe
from edgesdk_backends.qnn import QnnBackend

TARGET = {"htp_arch": "79", "soc_model": "69"}


class SimulatedQnn(QnnBackend):
    """Keeps what it compiled, since each graph takes seconds and many tests use the same."""

    executions: ClassVar[frozenset[str]] = frozenset({"fp16"})
    kept: ClassVar[dict[str, Path]] = {}
    keep_in: ClassVar[Path | None] = None

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        artifact = super().convert(model, recipe, out)
        key = sha256(artifact.read_bytes()).hexdigest()
        program = self.kept.get(key)
        if program is None or not program.is_file():
            made = self.compile(artifact, TARGET, out / "program").program
            if self.keep_in is not None:
                kept = shutil.copytree(made.parent, self.keep_in / key)
                self.kept[key] = kept / made.name
            return made
        return shutil.copytree(program.parent, out / "program") / program.name

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        execution = "fp16" if options.execution == "fp32" else options.execution
        return super().open(artifact, replace(options, simulate=True, execution=execution))
