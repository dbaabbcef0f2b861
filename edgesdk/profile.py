"""Device profiles by name or file: discovery, `extends`, and detection of this machine.

A package registers its profiles by an entry point of the group `edgesdk.profiles` whose value is an
importable package; every `*.toml` in it is a profile named like the file. The built-in profiles are
found in the same way.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from functools import reduce
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from edgesdk.errors import ProfileError
from edgesdk.machine import FEATURES_BY_ARCH, Machine, detect
from edgesdk.profile_checks import Table, day, some_strings, text
from edgesdk.profile_reader import (
    TOP_KEYS,
    merge,
    normalise,
    profile_from_json,
    read_profile,
    statement_keys,
)
from edgesdk.profile_values import Capability, Figure, Origin, Profile, Runtime, Sensor, Unit

__all__ = [
    "ENTRY_POINT_GROUP",
    "Capability",
    "Figure",
    "Origin",
    "Profile",
    "Runtime",
    "Sensor",
    "Unit",
    "load_profile",
    "profile_from_json",
    "profile_names",
    "profile_sources",
]

ENTRY_POINT_GROUP = "edgesdk.profiles"
_SUFFIX = ".toml"


def load_profile(name_or_path: str, machine: Machine | None = None) -> Profile:
    """The profile of that name, or in that file.

    Args:
        name_or_path: an installed name, a path that ends in `.toml`, or any existing file.
        machine: what a profile with the key `detect` describes; this machine unless given.

    Raises:
        ProfileError: unknown name, unreadable file, or a document that breaks the schema; the
            message names the file, the dotted key, the value and the legal ones.
    """
    source = _find(name_or_path, None)
    layers = _resolve(source, ())
    with _blamed(source):
        if "detect" in _merged(layers):
            layers = _detected(layers, machine or detect())
        return replace(read_profile(_merged(layers)), origins=_origins(layers))


def profile_names() -> tuple[str, ...]:
    """Names of all installed profiles, sorted."""
    return tuple(sorted(_installed()))


def profile_sources() -> dict[str, str]:
    """Where each installed profile comes from, by name: the package and its file."""
    return {name: where for name, (where, _) in sorted(_installed().items())}


def _installed() -> dict[str, tuple[str, Traversable]]:
    """Package-and-file words and the file itself of every installed profile, by name.

    Raises:
        ProfileError: a registered package does not import, or two packages claim the same name.
    """
    found: dict[str, tuple[str, Traversable]] = {}
    for package in sorted({entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}):
        try:
            folder = files(package)
        except ImportError as exc:
            raise ProfileError(f"profile package {package!r} does not import: {exc}") from exc
        for file in folder.iterdir():
            if file.name.endswith(_SUFFIX):
                name, where = file.name.removesuffix(_SUFFIX), f"{package}/{file.name}"
                if name in found:
                    both = f"{found[name][0]} and {where}"
                    raise ProfileError(f"two profiles are named {name!r}: {both}; uninstall one")
                found[name] = (where, file)
    return found


def _find(name_or_path: str, folder: Path | None) -> Traversable:
    """The file of a profile; a relative path starts at the folder of the extending profile."""
    path = (folder or Path()) / name_or_path
    if name_or_path.endswith(_SUFFIX) or (folder is None and path.is_file()):
        return path
    installed = _installed()
    if name_or_path in installed:
        return installed[name_or_path][1]
    close = get_close_matches(name_or_path, installed, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    names = ", ".join(sorted(installed)) or "none"
    raise ProfileError(
        f"no profile named {name_or_path!r}{hint}; installed: {names}, or a .toml file"
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """One file's normalised document, without what it extends; its source where it states none."""

    file: str
    document: Table
    source: str = ""
    date: str = ""


def _resolve(source: Traversable, seen: tuple[str, ...]) -> list[_Layer]:
    """A file and everything it extends, nearest first."""
    where = str(source)
    if where in seen:
        chain = " -> ".join(Path(part).name for part in (*seen, where))
        raise ProfileError(f"extends goes in a circle: {chain}")
    with _blamed(source):
        document = normalise(_parse(source))
        own = {key: value for key, value in document.items() if key != "extends"}
        layer = _Layer(source.name, own)
        if "extends" not in document:
            return [layer]
        base = _find(
            text(document, "extends", ""), source.parent if isinstance(source, Path) else None
        )
    return [layer, *_resolve(base, (*seen, where))]


def _merged(layers: Sequence[_Layer]) -> Table:
    """One document: each layer over those that it extends."""
    return reduce(merge, (layer.document for layer in reversed(layers)))


def _origins(layers: Sequence[_Layer]) -> tuple[Origin, ...]:
    """What counts of each file; a file without a source of its own has that of its base."""
    found = []
    seen: set[str] = set()
    for number, layer in enumerate(layers):
        about = _merged(layers[number:])
        stated = frozenset(statement_keys(layer.document)) - seen
        seen |= stated
        source, when = text(about, "source", ""), day(about, "")
        found.append(
            Origin(
                file=layer.file,
                source=layer.source or source,
                date=layer.date or when,
                keys=stated,
            )
        )
    return tuple(found)


def _parse(source: Traversable) -> Table:
    """The TOML document in a file, with syntax errors that show the line."""
    try:
        content = source.read_bytes().decode("utf-8")
    except OSError as exc:
        raise ProfileError(f"cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ProfileError(f"is not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as exc:
        match = re.search(r"at line (\d+)", str(exc))
        lines = content.splitlines()
        line = lines[int(match[1]) - 1].strip() if match else "the end of the file"
        # A misspelt [[header]] makes TOML complain about a later, innocent line: name the culprit.
        headers = re.findall(r"^\[+([^\].]+)", content, re.MULTILINE)
        odd = next((f"; unknown key {word!r}" for word in headers if word not in TOP_KEYS), "")
        raise ProfileError(f"is not TOML: {exc}: {line}{odd}") from exc


def _detected(layers: Sequence[_Layer], machine: Machine) -> list[_Layer]:
    """A profile of this machine: the nearest of the listed ones with what was found laid over it.

    The nearest is the first whose CPU features this machine has all of, else the last. On a
    machine of another architecture nothing is laid over it, and `Profile.mismatch` says so.
    """
    names = some_strings(_merged(layers), "detect", "")
    bases = {name: _resolve(_find(name, None), ()) for name in names}
    profiles = {name: read_profile(_merged(base)) for name, base in bases.items()}
    fits = [name for name in names if profiles[name].mismatch(machine) is None]
    taken = fits[0] if fits else names[-1]
    nearest = profiles[taken]
    own = [
        _Layer(layer.file, {key: value for key, value in layer.document.items() if key != "detect"})
        for layer in layers
    ]
    own[0].document["taken_from"] = taken
    below = [*own, *bases[taken]]
    if machine.arch != nearest.arch:
        return below
    (cpu,) = [unit.name for unit in nearest.units if unit.kind == "cpu"]
    words = [word for word in FEATURES_BY_ARCH[machine.arch] if word in machine.features]
    source, today = f"read from this machine: {machine.cpu or 'CPU'}", f"{date.today()}"
    seen = {"source": source, "date": today}
    unit: Table = {"name": cpu, "features": words}
    if machine.cpu:
        unit["title"] = machine.cpu
    for key, count in (("cores", machine.physical_cores), ("threads", machine.logical_cores)):
        if count:
            unit[key] = {"value": count, "unit": key, **seen}
    found: Table = {"units": [unit]}
    if machine.memory_bytes:
        found["memory"] = {"total": {"value": machine.memory_bytes, "unit": "B", **seen}}
    return [_Layer("this machine", found, source, today), *below]


@contextmanager
def _blamed(source: Traversable) -> Iterator[None]:
    """Put the file's name before what is wrong in it."""
    try:
        yield
    except ProfileError as exc:
        raise ProfileError(f"{source.name}: {exc}") from exc.__cause__
