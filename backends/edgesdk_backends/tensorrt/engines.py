"""Engines that were built on this machine, found again by all that an engine depends on.

    $EDGESDK_CACHE/tensorrt/engines/ARTIFACT/KEY/engine.plan    and about.json beside it
    $EDGESDK_CACHE/tensorrt/timing/KEY.cache                    what TensorRT learned about kernels

TensorRT refuses an engine of another version, and runs badly or not at all what was built for another
GPU. So an engine is only ever opened by the key under which it was built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.errors import OutputError
from edgesdk.files import read_json, sha256_file, sha256_json
from edgesdk_backends.tensorrt.gpu import Gpu

PLAN, ABOUT = "engine.plan", "about.json"
_KEY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What an engine depends on beside the model.

    Attributes:
        tensorrt: exact version of TensorRT.
        gpu: the GPU with its driver.
    """

    tensorrt: str
    gpu: Gpu

    @property
    def facts(self) -> dict[str, str]:
        """All of it by name."""
        return {"tensorrt": self.tensorrt, **self.gpu.to_json()}

    @property
    def key(self) -> str:
        """A name for it that can be a file's."""
        return sha256_json(self.facts)[:_KEY]

    def differs(self, there: Mapping[str, str]) -> str:
        """In what an engine's facts are others than these; empty where in nothing."""
        return ", ".join(
            f"{name} {there.get(name, 'unknown')!r} instead of {value!r}"
            for name, value in self.facts.items()
            if there.get(name) != value
        )


def artifact_hash(artifact: Path) -> str:
    """Of the files of an artifact: those in its folder, by name and content."""
    files = sorted(file for file in artifact.parent.rglob("*") if file.is_file())
    named = {str(file.relative_to(artifact.parent)): sha256_file(file) for file in files}
    return sha256_json(named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where engines are kept."""

    root: Path

    def find(self, artifact: str, origin: Origin) -> Path | None:
        """The engine of an artifact for exactly this machine, if it is there and whole."""
        folder = self._folder(artifact, origin)
        plan, about = folder / PLAN, folder / ABOUT
        try:
            stated = _read_about(about)
            whole = plan.stat().st_size == stated.get("bytes")
        except (OSError, ValueError):
            return None
        return plan if whole and not origin.differs(stated) else None

    def others(self, artifact: str, origin: Origin) -> tuple[str, ...]:
        """In what the engines that are there for this artifact differ from what is wanted."""
        found = []
        for about in sorted((self.root / "engines" / artifact).glob(f"*/{ABOUT}")):
            with suppress(OSError, ValueError):
                found.append(origin.differs(_read_about(about)))
        return tuple(text for text in found if text)

    def keep(self, artifact: str, origin: Origin, engine: bytes) -> Path:
        """Keep an engine; one that is there already is replaced.

        What says that it is there is written last, and names its size.

        Raises:
            OutputError: no space, or the place cannot be written.
        """
        folder = self._folder(artifact, origin)
        stated = {**origin.facts, "bytes": len(engine)}
        with _written(folder / PLAN):
            for name, content in ((PLAN, engine), (ABOUT, json.dumps(stated).encode())):
                with _beside(folder / name) as part:
                    part.write_bytes(content)
                    part.replace(folder / name)
        return folder / PLAN

    def learned(self, origin: Origin) -> bytes:
        """What earlier builds on this machine learned about kernels; empty at first."""
        with suppress(OSError):
            return self._timing(origin).read_bytes()
        return b""

    def learn(self, origin: Origin, timing: bytes) -> None:
        """Keep what a build learned, for the next one.

        Raises:
            OutputError: no space, or the place cannot be written.
        """
        if timing:
            place = self._timing(origin)
            with _written(place), _beside(place) as part:
                part.write_bytes(timing)
                part.replace(place)

    def _timing(self, origin: Origin) -> Path:
        return self.root / "timing" / f"{origin.key}.cache"

    def _folder(self, artifact: str, origin: Origin) -> Path:
        return self.root / "engines" / artifact / origin.key


def _read_about(about: Path) -> dict[str, Any]:
    stated = read_json(about)
    return stated if isinstance(stated, dict) else {}


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A name of our own beside a file, to be renamed to it; nothing stays under it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _written(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutputError(f"cannot keep {place}: {exc}; set EDGESDK_CACHE to another disk") from exc
