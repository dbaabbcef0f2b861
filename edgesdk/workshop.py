"""Running steps: each in a child process, each result kept under the hash of what went in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.budget import parse_budget
from edgesdk.cache import Cache
from edgesdk.files import read_json
from edgesdk.isolate import RESPONSE, run_isolated
from edgesdk.machine import detect

_MEMORY_SHARE = 0.8
"""Of the machine's memory, for a single step: the rest keeps the machine alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one step may take.

    Attributes:
        timeout_s: seconds of wall clock; 0 < timeout_s.
        memory_bytes: resident memory of the child and its children; None for no limit.
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
    """Where steps run and their results are kept."""

    cache: Cache
    limits: Limits
    refresh: bool = False

    def step(self, name: str, request: dict[str, Any], identity: dict[str, Any]) -> Finished:
        """Run `edgesdk.steps:name`, or take its earlier result.

        Args:
            name: a function of `edgesdk.steps`.
            request: what it is called with; holds paths.
            identity: what its result depends on, without paths: hashes, names, versions.

        Raises:
            StepFailed: it crashed, hung, ran out of memory or refused, now or when last tried.
            EdgeSdkError: any other typed error it raised.
        """
        key = self.cache.key(name, **identity)

        def build(folder: Path) -> None:
            run_isolated(
                f"edgesdk.steps:{name}",
                request,
                folder=folder,
                timeout_s=self.limits.timeout_s,
                memory_bytes=self.limits.memory_bytes,
            )

        there = self.cache.has(key) and not self.refresh
        folder = self.cache.folder(key, build, refresh=self.refresh)
        response = read_json(folder / RESPONSE)
        return Finished(key=key, folder=folder, response=response, cached=there)


def parse_memory(text: str | None) -> int | None:
    """Bytes from `8GB`; without a text 80 % of what this process may use, where that is known.

    Raises:
        BudgetError: not a number with a unit.
    """
    if text is not None:
        return int(parse_budget(f"memory={text}")[0].maximum)
    available = detect().memory_bytes
    return int(available * _MEMORY_SHARE) if available else None
