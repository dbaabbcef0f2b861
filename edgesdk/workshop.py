"""Running steps: each in a child process, each result kept under the hash of what went in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesdk.cache import Cache
from edgesdk.clock import Clock, Work
from edgesdk.compress.onnx_io import HEAVY_BYTES
from edgesdk.device.base import Place
from edgesdk.device.local import LocalDevice
from edgesdk.files import read_json
from edgesdk.isolate import RESPONSE, following
from edgesdk.machine import detect

_MEMORY_SHARE = 0.8
"""Of the machine's memory, for a single step: the rest keeps the machine alive."""
_HEAVY_FACTOR = 2.5
ENGINE_BYTES = 1 << 30
"""Interpreter, engine and quantizer libraries with their work space; 0.3 to 0.6 GiB were seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one step may take.

    Attributes:
        timeout_s: seconds of wall clock; 0 < timeout_s.
        memory_bytes: resident memory of the child and its children; None for `memory_limit`.
    """

    timeout_s: float = 1800.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A step's result.

    Attributes:
        key: its identity; later steps that build on it name it in theirs.
        folder: where its files lie, in the cache.
        response: what it returned.
        cached: True when it was there already.
    """

    key: str
    folder: Path
    response: Mapping[str, Any]
    cached: bool

    @property
    def path(self) -> Path:
        """The main file that the step made."""
        return self.folder / str(self.response["path"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where steps run and their results are kept, and how much time there is for all of them.

    Attributes:
        since: results from before this time (of `time.time`) are not taken.
        host: this machine, where artifacts are made.
    """

    cache: Cache
    limits: Limits
    since: float = 0.0
    clock: Clock = field(default_factory=Clock)
    host: Place = field(default_factory=LocalDevice)

    def step(
        self,
        name: str,
        request: dict[str, Any],
        identity: dict[str, Any],
        *,
        device: Place | None = None,
        like: str = "",
        then: Sequence[Work] = (),
        more_s: float = 0.0,
        hear: Callable[[str], None] | None = None,
    ) -> Finished:
        """Run `edgesdk.steps:name`, or take its earlier result.

        Args:
            name: a function of `edgesdk.steps`.
            request: what it is called with; holds paths.
            identity: what its result depends on, without paths: hashes, names, versions.
            device: where it runs; None for this machine.
            like: what makes its time comparable with that of other steps of this name.
            then: what must follow for its result to be of use; it is not begun without time for all.
            more_s: seconds that it was given for itself, on top of the limit of every step.
            hear: told what it tells of its progress, a line each; only of steps on this machine.

        Raises:
            StepFailed: it crashed, hung, ran out of memory or refused, now or when last tried; or
                it is not there yet and there is no time left to run it.
            EdgeSdkError: any other typed error it raised.
        """
        place = device or self.host
        if place.identity:
            identity = {**identity, "device": place.identity}
        key = self.cache.key(name, **identity)

        def build(folder: Path) -> None:
            watched = nullcontext() if hear is None else following(folder, hear)
            with self.clock.bounding(((name, like), *then)), watched:
                place.run_step(
                    f"edgesdk.steps:{name}",
                    request,
                    folder=folder,
                    timeout_s=min(self.limits.timeout_s + more_s, self.clock.left_s),
                    memory_bytes=self.limits.memory_bytes,
                )

        there = self.has(key)
        folder = self.folder(key, build)
        response = read_json(folder / RESPONSE)
        return Finished(key=key, folder=folder, response=response, cached=there)

    def has(self, key: str) -> bool:
        """Whether a result is there that may be taken."""
        return self.cache.has(key, since=self.since)

    def folder(self, key: str, build: Callable[[Path], None], *, again: bool = False) -> Path:
        """The folder of a result, built now where none may be taken; see `Cache.folder`.

        Args:
            key: of the result.
            build: writes it.
            again: build it even so.
        """
        return self.cache.folder(key, build, refresh=again, since=self.since)


def memory_limit(model_bytes: int) -> int | None:
    """What one step may take when the user says nothing; None where the machine's memory is unknown.

    Four fifths of the machine's memory. For a model above `HEAVY_BYTES` also no more than 2.5 times
    the model beside the engines' own footprint, so that a deploy of it fits where the model fits.
    """
    available = detect().memory_bytes
    limits = [int(available * _MEMORY_SHARE)] if available else []
    if model_bytes > HEAVY_BYTES:
        limits.append(int(model_bytes * _HEAVY_FACTOR) + ENGINE_BYTES)
    return min(limits, default=None)
