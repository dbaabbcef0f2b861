"""Terminal views of a device profile, and of where one artifact's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesdk.report import words
from edgesdk.report.sensed import sensed_in_terminal

if TYPE_CHECKING:
    from edgesdk.profile_values import Capability, Figure, Profile, Runtime, Unit
    from edgesdk.profiling import Profiling


def profile_view(profile: Profile) -> RenderableType:
    """What a device is and can do, every figure with its source and date."""
    parts: list[RenderableType] = [
        Text.assemble((profile.name, "bold"), "  ", words.plain(profile.title)),
        Text(f"{profile.vendor}, {profile.arch}, {profile.os}; {profile.source} ({profile.date})"),
    ]
    if profile.taken_from:
        parts.append(Text(f"detected on this machine; the rest is from {profile.taken_from}"))
    parts += [_figures(profile), _capabilities(profile), _runtimes(profile)]
    if profile.sensors:
        parts.append(_sensors(profile))
    parts += [Text(f"! {words.plain(note)}", style="yellow") for note in profile.notes]
    return Group(*parts)


def _table(*titles: str, title: str) -> Table:
    table = Table(*titles, title=title, box=None, pad_edge=False, header_style="dim")
    table.title_justify = "left"
    table.title_style = "bold"
    return table


def _figures(profile: Profile) -> Table:
    table = _table("figure", "value", "source", "date", title="\nFigures")
    found: list[tuple[str, Figure | None]] = [
        (f"{unit.name} {label}", figure) for unit in profile.units for label, figure in _of(unit)
    ]
    found += [
        ("memory", profile.memory.total),
        ("memory bandwidth", profile.memory.bandwidth),
        ("memory for a model", profile.limits.model_memory),
    ]
    for runtime in profile.runtimes:
        found.append((f"{runtime.name} newest opset", runtime.max_opset))
        found.append((f"{runtime.name} newest IR", runtime.max_ir))
    for label, figure in found:
        if figure is not None:
            source = f"{figure.source} ({figure.note})" if figure.note else figure.source
            table.add_row(*map(_text, (label, _value(figure), source, figure.date)))
    return table


def _value(figure: Figure) -> str:
    """A detected size is in bytes; nobody reads that many digits."""
    return f"{figure.value / 1e9:.1f} GB" if figure.unit == "B" else str(figure)


def _of(unit: Unit) -> list[tuple[str, Figure | None]]:
    plain = [("cores", unit.cores), ("threads", unit.threads), ("clock", unit.clock)]
    return [*plain, *((f"peak {number}", figure) for number, figure in unit.peak)]


def _capabilities(profile: Profile) -> Table:
    """What each unit does, and where an engine does less than the unit could."""
    table = _table("on", "operation", "runs", "precisions and weight scales", title="\nCan do")
    owners: list[tuple[str, Unit | Runtime]] = [
        (f"{unit.name} ({', '.join(unit.features)})" if unit.features else unit.name, unit)
        for unit in profile.units
    ]
    owners += [(f"but {runtime.name}", runtime) for runtime in profile.runtimes]
    for said, owner in owners:
        for op, runs, precisions in _grouped(owner.capabilities):
            table.add_row(*map(_text, (said, op, runs, precisions)))
            said = ""
    return table


def _grouped(rows: Sequence[Capability]) -> list[tuple[str, str, str]]:
    """Rows of one operation, support and reason joined; all granularities need not be listed."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        runs = f"{row.support}: {row.why}" if row.why else row.support
        scales = groups.setdefault((row.op, runs), {}).setdefault(row.precision, [])
        scales += [row.granularity] if row.granularity else []
    return [
        (op, runs, ", ".join(_scaled(name, scales) for name, scales in found.items()))
        for (op, runs), found in groups.items()
    ]


def _scaled(precision: str, scales: Sequence[str]) -> str:
    return precision if len(scales) in (0, 3) else f"{precision} ({', '.join(scales)})"


def _runtimes(profile: Profile) -> Table:
    table = _table("engine", "versions", "units", "remarks", title="\nEngines, in default order")
    order = {name: rank for rank, name in enumerate(profile.backends)}
    for item in sorted(profile.runtimes, key=lambda item: order.get(item.name, len(order))):
        remarks = ["u8s8 products clip unless weights keep 7 bits"] if item.u8s8_saturates else []
        remarks += ["zero points other than 0 are refused"] if item.symmetric_only else []
        units = ", ".join(item.units)
        table.add_row(*map(_text, (item.name, item.versions, units, "; ".join(remarks))))
    return table


def _sensors(profile: Profile) -> Table:
    table = _table("sensor", "tells", "from", "unit", title="\nSensors")
    for sensor in profile.sensors:
        table.add_row(*map(_text, (sensor.name, sensor.kind, sensor.at, sensor.unit)))
    return table


def profiling_view(found: Profiling, *, top: int) -> RenderableType:
    """Cold and warm figures, time by operation, the slowest nodes, and where nodes ran."""
    measurement = found.alone.measurement
    head = f"{found.target} on {found.backend}, {found.execution}, {measurement.threads} threads"
    parts: list[RenderableType] = [
        Text(words.plain(head), style="bold"),
        _warm(found),
        _cold(found),
    ]
    if measurement.sensed:
        parts.append(sensed_in_terminal(measurement.sensed))
    if found.node_times:
        parts += [_operations(found, top), _nodes(found, top)]
    else:
        parts.append(Text("\nthe engine gives no times of single operations", style="dim"))
    counts: dict[str, int] = {}
    for node in found.placement:
        counts[node.provider or node.unit] = counts.get(node.provider or node.unit, 0) + 1
    if counts:
        said = ", ".join(f"{count} on {unit}" for unit, count in counts.items())
        parts.append(Text(f"\nnodes: {words.plain(said)}"))
    warnings = list(measurement.warnings)
    if found.synthetic:
        warnings.append("the inputs were made up: times that depend on the data may differ")
    parts += [Text(f"! {words.plain(warning)}", style="yellow") for warning in warnings]
    return Group(*parts)


def _warm(found: Profiling) -> Table:
    measurement, latency = found.alone.measurement, found.alone.measurement.timed
    table = _table("p50", "p90", "p95", "p99", "runs", "peak", "size", title="\nWarm, ms")
    table.add_row(
        *map(words.milliseconds, (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)),
        f"{latency.count:,}",
        words.mebibytes(measurement.peak_mib),
        words.megabytes(measurement.artifact_bytes),
    )
    return table


def _cold(found: Profiling) -> Table:
    table = _table("process", "import", "load", "first run", "peak", title="\nCold, ms")
    for number, start in enumerate(found.alone.cold, start=1):
        table.add_row(
            str(number),
            *map(words.milliseconds, (start.import_ms, start.load_ms, start.first_run_ms)),
            words.mebibytes(start.peak_load_mib),
        )
    return table


def _operations(found: Profiling, top: int) -> Table:
    totals = words.op_totals(found.node_times)
    whole = sum(totals.values()) or 1.0
    table = _table("operation", "ms a run", "share", "nodes", title="\nBy operation")
    for op, ms in list(totals.items())[:top]:
        count = sum(node.op == op for node in found.node_times)
        table.add_row(_text(op), words.milliseconds(ms), f"{100 * ms / whole:.1f} %", str(count))
    return table


def _nodes(found: Profiling, top: int) -> Table:
    table = _table("node", "operation", "unit", "ms a run", title="\nThe slowest nodes")
    for node in sorted(found.node_times, key=lambda node: -node.ms)[:top]:
        unit = node.provider or node.unit
        table.add_row(_text(node.node), _text(node.op), _text(unit), words.milliseconds(node.ms))
    return table


def _text(value: object) -> Text:
    """Plain text: what a file or an engine says is no markup."""
    return Text(words.plain(str(value)), overflow="fold")
