"""From a parsed TOML document to a `Profile`, and back from JSON.

A document passes through three steps: `normalise` (one spelling for everything, so that documents
can be merged), `merge` (what `extends` means) and `read_profile` (values, or a `ProfileError` that
cites the dotted key, the value seen and the legal ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, cast, get_args

from edgesdk.errors import ProfileError
from edgesdk.machine import FEATURES_BY_ARCH
from edgesdk.profile_checks import (
    Table,
    check_keys,
    day,
    flag,
    join,
    member,
    one_of,
    optional,
    some_strings,
    strings,
    subtable,
    tables,
    text,
    texts,
)
from edgesdk.profile_speeds import SERIES_KEYS, read_speeds
from edgesdk.profile_values import (
    ANY_OP,
    FLOATS,
    GRANULARITIES,
    PEAKS,
    PRECISIONS,
    SCALES,
    SUPPORTS,
    Arch,
    Capability,
    Figure,
    Limits,
    Memory,
    OperatingSystem,
    Profile,
    Runtime,
    Sensor,
    SensorKind,
    SensorRead,
    Unit,
    UnitKind,
    parse_versions,
)

SCHEMA = 1
"""The version of the schema that this code reads."""

TOP_KEYS = (
    *("schema", "extends", "detect", "name", "title", "vendor", "arch", "os", "source", "date"),
    *("backends", "boards", "notes", "units", "memory", "runtimes", "sensors", "limits"),
    *("speeds", "taken_from"),
)
"""Keys of a document."""
_UNIT = (
    *("name", "kind", "title", "features"),
    *("cores", "threads", "clock", "peak", "capabilities"),
)
_RUNTIME = (
    *("name", "versions", "units", "max_opset", "max_ir"),
    *("u8s8_saturates", "symmetric_only", "footprint", "weight_copies", "capabilities", "target"),
)
_SENSOR = ("name", "kind", "read", "at", "unit")
_FIGURE = ("value", "unit", "source", "date", "note")
_NAMED = {"units": _UNIT, "runtimes": _RUNTIME, "sensors": _SENSOR, "speeds": SERIES_KEYS}
"""Lists of tables whose entries are known by their `name`, and the keys of an entry."""


def normalise(document: Table) -> Table:
    """The same document with capability cells written out, ready to be merged.

    Raises:
        ProfileError: another schema, an unknown key, or a malformed list or capability table.
    """
    check_keys(document, "", TOP_KEYS)
    schema = document.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ProfileError(f"schema = {schema!r}; legal: {SCHEMA}, which this edgesdk reads")
    lists = {
        key: [_with_cells(entry, path) for path, entry in tables(document, key, legal)]
        for key, legal in _NAMED.items()
        if key in document
    }
    return {**document, **lists}


def merge(base: Table, child: Table) -> Table:
    """`child` over `base`: tables merge by key, lists of named tables by name, all else replaces.

    Figures, capability cells and series of speeds are single statements: a new one never keeps the
    old one's source or reason. Merging is associative.
    """
    result = dict(base)
    for key, value in child.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _is_statement(value):
            result[key] = merge(old, value)
        elif key in _NAMED and _all_named(value) and _all_named(old):
            result[key] = _merge_named(cast(list[Table], old), value)
        else:
            result[key] = value
    return result


def statement_keys(document: Table, path: str = "") -> Iterator[str]:
    """Dotted keys of the statements in a normalised document: the units in which `merge` replaces."""
    for key, value in document.items():
        here = join(path, key)
        if isinstance(value, dict) and not _is_statement(value):
            yield from statement_keys(value, here)
        elif key in _NAMED and _all_named(value):
            for entry in value:
                yield from statement_keys(entry, join(here, entry["name"]))
        else:
            yield here


def _is_statement(table: Table) -> bool:
    """True for a figure, for a capability cell and for a series of speeds."""
    return not table.keys().isdisjoint(("value", "support", "points", *GRANULARITIES))


def _all_named(value: Any) -> bool:
    """True for a list of named tables; the `units` of a runtime are a list of texts."""
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)


def _merge_named(old: list[Table], new: list[Table]) -> list[Table]:
    """Entries of the same name merged in place, new ones appended."""
    found = {entry["name"]: entry for entry in old}
    for entry in new:
        old_entry = {} if _is_statement(entry) else found.get(entry["name"], {})
        found[entry["name"]] = merge(old_entry, entry)
    return list(found.values())


def read_profile(document: Table) -> Profile:
    """A document as `normalise` and `merge` leave it, as a profile.

    Raises:
        ProfileError: names the dotted key, what it holds and what is legal.
    """
    check_keys(document, "", TOP_KEYS)
    arch = one_of(document, "arch", "", get_args(Arch))
    units = tuple(_read_unit(entry, path, arch) for path, entry in _needed(document, "units"))
    names = [unit.name for unit in units]
    entries = _needed(document, "runtimes")
    runtimes = tuple(_read_runtime(entry, path, names) for path, entry in entries)
    backends = some_strings(document, "backends", "")
    for backend in backends:
        member(backend, "backends", [runtime.name for runtime in runtimes])
    entries = tables(document, "sensors", _SENSOR)
    return Profile(
        name=text(document, "name", ""),
        title=text(document, "title", ""),
        vendor=text(document, "vendor", ""),
        arch=cast(Arch, arch),
        os=cast(OperatingSystem, one_of(document, "os", "", get_args(OperatingSystem))),
        source=text(document, "source", ""),
        date=day(document, ""),
        backends=backends,
        units=units,
        runtimes=runtimes,
        boards=strings(document, "boards", ""),
        memory=_read_memory(document),
        sensors=tuple(_read_sensor(entry, path) for path, entry in entries),
        limits=_read_limits(document),
        speeds=read_speeds(document, [runtime.name for runtime in runtimes]),
        notes=strings(document, "notes", ""),
        taken_from=optional(text, document, "taken_from", "", ""),
    )


def _needed(document: Table, key: str) -> list[tuple[str, Table]]:
    entries = tables(document, key, _NAMED[key])
    if not entries:
        raise ProfileError(f"missing key {key!r}; legal: at least one table, [[{key}]]")
    return entries


def _read_unit(table: Table, path: str, arch: str) -> Unit:
    kind = one_of(table, "kind", path, get_args(UnitKind))
    features = strings(table, "features", path)
    if kind == "cpu":
        for feature in (part for entry in features for part in entry.split("|")):
            member(feature, f"{path}.features", FEATURES_BY_ARCH[arch])
    capabilities = _read_capabilities(table, path)
    stated = {row.precision for row in capabilities if row.op == ANY_OP}
    missing = [precision for precision in PRECISIONS if precision not in stated]
    if missing:
        raise ProfileError(f"missing key {path}.capabilities.{ANY_OP}: {', '.join(missing)}")
    peaks = subtable(table, "peak", path, PEAKS)
    return Unit(
        name=text(table, "name", path),
        kind=cast(UnitKind, kind),
        title=optional(text, table, "title", path, ""),
        features=features,
        cores=_figure(table, "cores", path, "count"),
        threads=_figure(table, "threads", path, "count"),
        clock=_figure(table, "clock", path, "clock"),
        peak=tuple((key, _need_figure(peaks, key, f"{path}.peak", "peak")) for key in peaks),
        capabilities=capabilities,
    )


def _read_runtime(table: Table, path: str, units: list[str]) -> Runtime:
    versions = text(table, "versions", path)
    try:
        parse_versions(versions)
    except ValueError:
        legal = "legal: bounds with >=, < or == such as '>=1.31,<2'"
        raise ProfileError(f"{path}.versions = {versions!r}; {legal}") from None
    reached = some_strings(table, "units", path)
    for unit in reached:
        member(unit, f"{path}.units", units)
    return Runtime(
        name=text(table, "name", path),
        versions=versions,
        units=reached,
        max_opset=_figure(table, "max_opset", path, "opset"),
        max_ir=_figure(table, "max_ir", path, "ir"),
        u8s8_saturates=optional(flag, table, "u8s8_saturates", path, False),
        symmetric_only=optional(flag, table, "symmetric_only", path, False),
        footprint=_figure(table, "footprint", path, "memory"),
        weight_copies=_figure(table, "weight_copies", path, "copies"),
        capabilities=_read_capabilities(table, path),
        target=texts(table, "target", path),
    )


def _read_sensor(table: Table, path: str) -> Sensor:
    return Sensor(
        name=text(table, "name", path),
        kind=cast(SensorKind, one_of(table, "kind", path, get_args(SensorKind))),
        read=cast(SensorRead, one_of(table, "read", path, get_args(SensorRead))),
        at=text(table, "at", path),
        unit=text(table, "unit", path),
    )


def _read_memory(document: Table) -> Memory:
    table = subtable(document, "memory", "", ("total", "bandwidth"))
    return Memory(
        total=_figure(table, "total", "memory", "memory"),
        bandwidth=_figure(table, "bandwidth", "memory", "bandwidth"),
    )


def _read_limits(document: Table) -> Limits:
    table = subtable(document, "limits", "", ("model_memory", "static_shapes"))
    return Limits(
        model_memory=_figure(table, "model_memory", "limits", "memory"),
        static_shapes=optional(flag, table, "static_shapes", "limits", False),
    )


def _figure(table: Table, key: str, path: str, quantity: str) -> Figure | None:
    return _need_figure(table, key, path, quantity) if key in table else None


def _need_figure(table: Table, key: str, path: str, quantity: str) -> Figure:
    """A figure, which without a source is not one."""
    inner = join(path, key)
    if not isinstance(table[key], dict):
        shape = "{ value = ..., unit = ..., source = ..., date = ... }"
        raise ProfileError(f"{inner} = {table[key]!r}; legal: {shape}")
    entry: Table = table[key]
    check_keys(entry, inner, _FIGURE)
    value = entry.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise ProfileError(f"{inner}.value = {value!r}; legal: a number above 0")
    return Figure(
        value=float(value),
        unit=one_of(entry, "unit", inner, SCALES[quantity]),
        source=text(entry, "source", inner),
        date=day(entry, inner),
        note=optional(text, entry, "note", inner, ""),
    )


def _with_cells(entry: Table, path: str) -> Table:
    """A unit or runtime whose capability cells are all written as tables."""
    if "capabilities" not in entry:
        return entry
    rows = subtable(entry, "capabilities", path)
    here = f"{path}.capabilities"
    written: Table = {}
    for op in rows:
        if op != ANY_OP:
            member(op, here, _onnx_ops(), "an ONNX operation, or '*' for all others")
        cells = subtable(rows, op, here, PRECISIONS)
        written[op] = {key: _cell(key, cells[key], f"{here}.{op}.{key}") for key in cells}
    return {**entry, "capabilities": written}


def _cell(precision: str, value: Any, path: str) -> Table:
    """One cell written out: `support` for a float precision, else a level for each granularity."""
    table: Table = {"support": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise ProfileError(f"{path} = {value!r}; legal: {', '.join(SUPPORTS)}, or a table of them")
    levels = ("support",) if precision in FLOATS else GRANULARITIES
    check_keys(table, path, dict.fromkeys(("support", *levels, "why")))
    spread = dict.fromkeys(levels, table["support"]) if "support" in table else {}
    cell = {**spread, **{key: table[key] for key in levels if key in table}}
    for level in levels:
        one_of(cell, level, path, SUPPORTS)
    return {**cell, "why": text(table, "why", path)} if "why" in table else cell


@cache
def _onnx_ops() -> frozenset[str]:
    """Names of all operations of the ONNX standard."""
    from onnx import defs

    return frozenset(schema.name for schema in defs.get_all_schemas() if schema.domain == "")


def _read_capabilities(table: Table, path: str) -> tuple[Capability, ...]:
    rows = subtable(table, "capabilities", path)
    return tuple(
        Capability(
            op=op,
            precision=precision,
            granularity=None if level == "support" else level,
            support=cell[level],
            why=cell.get("why", ""),
        )
        for op, cells in rows.items()
        for precision, cell in cells.items()
        for level in cell
        if level != "why"
    )


def profile_from_json(data: Table) -> Profile:
    """The inverse of `Profile.to_json`, with all checks.

    Raises:
        ProfileError: the data is no profile.
    """
    plain = dict(_filled(data))
    for key in ("units", "runtimes"):
        plain[key] = [_entry_document(entry) for entry in data[key]]
    return read_profile(normalise({"schema": SCHEMA, **plain}))


def _entry_document(entry: Table) -> Table:
    """A unit or runtime of `Profile.to_json` in the form it has in a TOML document."""
    plain = dict(_filled(entry))
    rows: Table = {}
    for row in entry["capabilities"]:
        cell = rows.setdefault(row["op"], {}).setdefault(row["precision"], {})
        cell[row["granularity"] or "support"] = row["support"]
        cell.update({"why": row["why"]} if row["why"] else {})
    plain["capabilities"] = rows
    if "peak" in plain:
        plain["peak"] = {name: dict(_filled(figure)) for name, figure in entry["peak"]}
    return plain


def _filled(table: Table) -> Iterator[tuple[str, Any]]:
    """Entries that say something, recursively, with tuples as lists."""
    for key, value in table.items():
        plain = value
        if isinstance(value, dict):
            plain = dict(_filled(value))
        elif isinstance(value, list | tuple):
            plain = [dict(_filled(item)) if isinstance(item, dict) else item for item in value]
        if plain not in (None, "", [], {}):
            yield key, plain
