"""A probe's findings as the text of a profile; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from edgesdk import __version__
from edgesdk.machine import FEATURES_BY_ARCH, Machine
from edgesdk.probe.series import Points, Series
from edgesdk.profile_reader import SCHEMA
from edgesdk.profile_values import Profile

SOURCE = "edgesdk probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A probed engine; figures are None where they could not be measured.

    Attributes:
        footprint_mib: peak memory of a process that has opened next to nothing.
        weight_copies: how often weights count in peak memory.
    """

    name: str
    version: str
    footprint_mib: float | None = None
    weight_copies: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that a probe found out.

    Attributes:
        name: of the new profile.
        machine: what it is about.
        base: the profile that it extends.
        bandwidth: bytes a second that weights were read with; None where not measured.
    """

    name: str
    machine: Machine
    base: Profile
    engines: tuple[Engine, ...]
    threads: int
    bandwidth: float | None
    series: Mapping[Series, Points]
    day: date


def profile_text(found: Findings) -> str:
    """The TOML document: what the machine is, and every series, with source and date."""
    return "\n".join((*_head(found), *_unit(found), *_runtimes(found), *_speeds(found)))


def _head(found: Findings) -> Iterator[str]:
    source = f"{SOURCE} {__version__} on {found.machine.cpu or 'a machine'}"
    yield f"# Written by `edgesdk probe`; speeds hold for {found.threads} threads on that machine."
    yield f"schema = {SCHEMA}"
    yield f"extends = {_text(found.base.name)}"
    yield f"name = {_text(found.name)}"
    yield f"title = {_text(f'{found.machine.cpu or found.base.title}, probed {found.day}')}"
    yield f"source = {_text(source)}"
    yield f"date = {found.day}"
    yield ""
    figures: list[tuple[str, float, str, str, str]] = []
    if found.machine.memory_bytes:
        figures.append(("total", found.machine.memory_bytes, "B", "read from the machine", ""))
    if found.bandwidth:
        note = f"weights read by products of one row, {found.threads} threads"
        figures.append(("bandwidth", round(found.bandwidth / 1e9, 3), "GB/s", SOURCE, note))
    if figures:
        yield "[memory]"
        for key, value, unit, origin, note in figures:
            yield f"{key} = {_figure(found, value, unit, origin, note)}"
        yield ""


def _unit(found: Findings) -> Iterator[str]:
    """The CPU as it was detected, so that the profile does not pass for another machine's."""
    (cpu,) = [unit.name for unit in found.base.units if unit.kind == "cpu"]
    words = [w for w in FEATURES_BY_ARCH[found.base.arch] if w in found.machine.features]
    yield "[[units]]"
    yield f"name = {_text(cpu)}"
    if found.machine.cpu:
        yield f"title = {_text(found.machine.cpu)}"
    yield f"features = [{', '.join(map(_text, words))}]"
    read = "read from the machine"
    if found.machine.physical_cores:
        yield f"cores = {_figure(found, found.machine.physical_cores, 'cores', read)}"
    yield f"threads = {_figure(found, found.machine.logical_cores, 'threads', read)}"
    yield ""


def _runtimes(found: Findings) -> Iterator[str]:
    for engine in found.engines:
        if engine.footprint_mib is None or engine.weight_copies is None:
            continue
        source = f"{SOURCE}, {engine.name} {engine.version}"
        yield "[[runtimes]]"
        yield f"name = {_text(engine.name)}"
        yield f"footprint = {_figure(found, round(engine.footprint_mib, 1), 'MiB', source)}"
        copies = round(engine.weight_copies, 2)
        yield f"weight_copies = {_figure(found, copies, 'copies', source)}"
        yield ""


def _speeds(found: Findings) -> Iterator[str]:
    versions = {engine.name: engine.version for engine in found.engines}
    for (backend, precision, kind), points in sorted(found.series.items()):
        yield "[[speeds]]"
        yield f"name = {_text(f'{backend} {precision} {kind}')}"
        yield f"backend = {_text(backend)}"
        yield f"precision = {_text(precision)}"
        yield f"op = {_text(kind)}"
        yield f"threads = {found.threads}"
        yield f"source = {_text(f'{SOURCE}, {backend} {versions[backend]}')}"
        yield f"date = {found.day}"
        yield "points = ["
        for point in sorted(points):
            yield f"    [{', '.join(f'{value:.10g}' for value in point)}],"
        yield "]"
        yield ""


def _figure(found: Findings, value: float, unit: str, source: str, note: str = "") -> str:
    parts = [
        f"value = {value}",
        f"unit = {_text(unit)}",
        f"source = {_text(source)}",
        f"date = {found.day}",
    ]
    parts += [f"note = {_text(note)}"] if note else []
    return f"{{ {', '.join(parts)} }}"


def _text(value: str) -> str:
    """A basic string; JSON escapes what TOML wants escaped, but for the delete character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
