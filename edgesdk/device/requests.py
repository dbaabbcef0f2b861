"""Requests to steps and runners, whose values may be files of this machine.

A `Path`, of a file or a folder, or a `SampleSet` stands for what lies there. For a process of this
machine it becomes text; for another machine its files are placed there, and it becomes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgesdk.samples import SampleSet


def plain(value: Any) -> Any:
    """A request for a process of this machine."""
    return _mapped(value, str)


def placed(value: Any) -> Any:
    """A request for another machine, where `files_of` were placed under their own names."""
    return _mapped(value, lambda path: {"placed": str(path.absolute())})


def files_of(value: Any) -> Iterator[Path]:
    """All files that a request stands for."""
    if isinstance(value, Path):
        yield from (
            (item for item in sorted(value.rglob("*")) if item.is_file())
            if value.is_dir()
            else (value,)
        )
    elif isinstance(value, SampleSet):
        yield from value.paths()
    elif isinstance(value, dict):
        for item in value.values():
            yield from files_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from files_of(item)


def _mapped(value: Any, name: Callable[[Path], Any]) -> Any:
    if isinstance(value, Path):
        return name(value)
    if isinstance(value, SampleSet):
        return {"folder": name(value.folder), "rows": list(value.rows)}
    if isinstance(value, dict):
        return {key: _mapped(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, name) for item in value]
    return value
