"""What a device is and can do, as frozen values, and the pure judgements that follow from it.

`edgesdk.profile` loads these values from TOML; `docs/profiles.md` describes every key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, get_args

from edgesdk.cause import Cause, reason
from edgesdk.errors import ProfileError
from edgesdk.evidence import Evidence
from edgesdk.machine import Machine
from edgesdk.profile_speeds import Speed
from edgesdk.recipe import Recipe

Arch = Literal["x86_64", "aarch64"]
OperatingSystem = Literal["any", "linux", "windows", "macos", "android"]
UnitKind = Literal["cpu", "gpu", "npu"]
Support = Literal["fast", "emulated", "unsupported"]
Granularity = Literal["tensor", "channel", "block"]
SensorKind = Literal["power", "energy", "current", "voltage", "temperature", "throttling", "clock"]
SensorRead = Literal["sysfs", "command"]

SUPPORTS: tuple[Support, ...] = get_args(Support)
"""Best first."""
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
FLOATS = ("fp32", "fp16", "bf16")
"""Precisions in which float operations are executed."""
QUANTIZED = (
    "w8a8",
    "w8a16",
    "w8-dynamic",
    "w8-only",
    "w4a8",
    "w4a16",
    "w4-dynamic",
    "w4-only",
)
"""Precisions with integer weights; activations static (`aN`), `-dynamic`, or float (`-only`)."""
PRECISIONS = FLOATS + QUANTIZED
PEAKS = ("fp32", "fp16", "bf16", "int8", "int4")
"""Number types for which peak throughput may be stated."""
ANY_OP = "*"

SCALES = {
    "count": {"cores": 1.0, "threads": 1.0},
    "clock": {"Hz": 1.0, "MHz": 1e6, "GHz": 1e9},
    "memory": {"B": 1.0, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "bandwidth": {"B/s": 1.0, "MB/s": 1e6, "GB/s": 1e9},
    "peak": {"GOPS": 1e9, "TOPS": 1e12, "GFLOPS": 1e9, "TFLOPS": 1e12},
    "opset": {"opset": 1.0},
    "ir": {"ir": 1.0},
    "copies": {"copies": 1.0},
}
"""Units of measurement by quantity, each with its size in Hz, bytes or operations a second."""
_FACTOR = {unit: factor for scale in SCALES.values() for unit, factor in scale.items()}

_INT4_OPSET = 21
"""ONNX opset whose QuantizeLinear first takes int4 and int16 (`onnx.defs.get_schema`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its unit and where it comes from.

    Attributes:
        value: in `unit`.
        unit: one of the units in `SCALES`.
        source: document, page or measurement that says so.
        date: `YYYY-MM-DD` or `YYYY-MM`: when the source was published, or read if it is undated.
        note: conditions under which it holds, such as sparsity or a power mode.
    """

    value: float
    unit: str
    source: str
    date: str
    note: str = ""

    @property
    def base(self) -> float:
        """The value in Hz, bytes, bytes/s or operations/s; plain counts as they are."""
        return self.value * _FACTOR[self.unit]

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """How well one kind of operation runs.

    Attributes:
        op: ONNX operation, or `*` for all that have no row of their own.
        precision: one of `PRECISIONS`.
        granularity: how weights share scales; None for the float precisions.
        support: `fast` natively; `emulated` runs without gain; `unsupported` does not run.
        why: reason, for messages.
    """

    op: str
    precision: str
    granularity: Granularity | None
    support: Support
    why: str = ""

    @property
    def path(self) -> str:
        """The row's key inside a capability table."""
        tail = f".{self.granularity}" if self.granularity else ""
        return f"capabilities.{self.op}.{self.precision}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One processing unit.

    Attributes:
        name: unique in the profile; what `NodePlacement.unit` reports: `cpu`, `gpu`, `npu`.
        kind: what sort of unit it is.
        title: model name for people.
        features: instruction sets (CPU: words of `machine.FEATURES_BY_ARCH`; `a|b` means at least
            one of them); free words on other kinds.
        cores, threads, clock: figures, where sourced.
        peak: number type and dense peak throughput, where sourced.
        capabilities: what the hardware can do.
    """

    name: str
    kind: UnitKind
    title: str = ""
    features: tuple[str, ...] = ()
    cores: Figure | None = None
    threads: Figure | None = None
    clock: Figure | None = None
    peak: tuple[tuple[str, Figure], ...] = ()
    capabilities: tuple[Capability, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Main memory, shared by all units unless a note says otherwise."""

    total: Figure | None = None
    bandwidth: Figure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """An engine on the device.

    Attributes:
        name: of the backend that drives it.
        versions: comma-separated bounds, all of which must hold: `>=1.31,<2`.
        units: names of the units it reaches, preferred first.
        max_opset: newest ONNX opset it reads; None where no limit is known.
        max_ir: newest ONNX IR version it reads; None where no limit is known.
        u8s8_saturates: int8 products are summed in 16 bits and clip unless weights keep 7 bits.
        symmetric_only: zero points other than 0 are refused.
        footprint: peak memory of a process that has opened next to nothing with it.
        weight_copies: how often the weights of a model count in its peak memory.
        capabilities: where the engine does less than the hardware could; missing rows mean no less.
        target: what its ahead-of-time compiler is told of the device, in the words of that compiler;
            empty where it has none.
    """

    name: str
    versions: str
    units: tuple[str, ...]
    max_opset: Figure | None = None
    max_ir: Figure | None = None
    u8s8_saturates: bool = False
    symmetric_only: bool = False
    footprint: Figure | None = None
    weight_copies: Figure | None = None
    capabilities: tuple[Capability, ...] = ()
    target: Mapping[str, str] = field(default_factory=dict)

    def refuses_version(self, version: str) -> str | None:
        """Why an installed engine is outside the range that the profile describes, or None."""
        for operator, bound in parse_versions(self.versions):
            here, there = _padded(version_tuple(version), bound)
            holds = {">=": here >= there, "<": here < there, "==": here == there}[operator]
            if not holds:
                key = f"runtimes.{self.name}.versions"
                return f"{self.name} {version} is outside {key} = {self.versions!r}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """A source of power, temperature or throttling readings on the device.

    Attributes:
        name: unique in the profile.
        kind: what it tells.
        read: `sysfs` (a file) or `command` (its standard output).
        at: the file (may contain `*`) or the command line.
        unit: of the raw reading: `uJ`, `mW`, `m°C`, `flags`, …
    """

    name: str
    kind: SensorKind
    read: SensorRead
    at: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model may not exceed.

    Attributes:
        model_memory: memory that a model may take.
        static_shapes: every input shape must be fixed.
    """

    model_memory: Figure | None = None
    static_shapes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One file that a profile was made from, and what of it counts.

    Attributes:
        file: its name; `this machine` for what was detected.
        source, date: what the statements without a source of their own were written from.
        keys: dotted keys that it states and that no nearer file states again.
    """

    file: str
    source: str
    date: str
    keys: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A device.

    Attributes:
        name: what `--profile` takes.
        title, vendor: for people.
        arch: instruction set architecture of its CPU.
        os: operating system, or `any`.
        source, date: what the profile as a whole was written from, and when.
        backends: those to try by default, in order; each has a runtime.
        boards: beginnings of the board name in the device tree by which the real device is known.
        units, memory, runtimes, sensors, limits, speeds: see there.
        notes: remarks for people.
        taken_from: profile that was chosen for this machine, where the profile is detected.
        origins: the files that it was made from, nearest first; says where a statement is to be
            found, and is no part of what the device is: not compared, not in JSON.
    """

    name: str
    title: str
    vendor: str
    arch: Arch
    os: OperatingSystem
    source: str
    date: str
    backends: tuple[str, ...]
    units: tuple[Unit, ...]
    runtimes: tuple[Runtime, ...]
    boards: tuple[str, ...] = ()
    memory: Memory = field(default_factory=Memory)
    sensors: tuple[Sensor, ...] = ()
    limits: Limits = field(default_factory=Limits)
    speeds: tuple[Speed, ...] = ()
    notes: tuple[str, ...] = ()
    taken_from: str = ""
    origins: tuple[Origin, ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document; `edgesdk.profile.profile_from_json` is the inverse."""
        return {key: value for key, value in asdict(self).items() if key != "origins"}

    def cite(
        self, key: str, value: str | float | bool | None, why: str, figure: Figure | None = None
    ) -> Cause:
        """A statement of this profile as a cause, with the file that makes it and its source.

        Args:
            key: dotted key of the statement, or of a part of it.
            value: what it says.
            why: what follows from it.
            figure: where the statement is one; it has a source of its own.
        """
        origin, is_stated = self._origin(key)
        stated = figure or origin or self
        return Cause(
            kind="profile",
            key=key,
            value=value,
            why=why,
            source=stated.source if is_stated else "the default, where nothing else is stated",
            date=stated.date if is_stated else "",
            file=origin.file if origin else "",
        )

    def _origin(self, key: str) -> tuple[Origin | None, bool]:
        """The nearest file that states a key, or the statement that the key is a part of.

        For a default, which no file states, and False: the nearest with a table of that runtime.
        """
        while key:
            for origin in self.origins:
                if key in origin.keys or f"{key}.name" in origin.keys:
                    return origin, key in origin.keys
            key = key.rpartition(".")[0]
        return None, True

    def unit(self, name: str) -> Unit:
        """The unit of that name.

        Raises:
            ProfileError: the profile has no such unit.
        """
        return _named(self.units, name, f"profile {self.name!r} has no unit")

    def runtime(self, backend: str) -> Runtime:
        """The engine that a backend drives on this device.

        Raises:
            ProfileError: the device does not run that backend.
        """
        return _named(self.runtimes, backend, f"profile {self.name!r} lists no runtime for backend")

    @property
    def features(self) -> frozenset[str]:
        """Instruction sets of the CPU, alternatives included."""
        cpus = [unit for unit in self.units if unit.kind == "cpu"]
        return frozenset(
            part for cpu in cpus for entry in cpu.features for part in entry.split("|")
        )

    def support(
        self, backend: str, unit: str, precision: str, granularity: Granularity, op: str = ANY_OP
    ) -> tuple[Support, str]:
        """How well an engine runs an operation on a unit: the worse of the two, and why.

        Returns:
            The level, and a sentence that cites the key it comes from.
        """
        level, cause = self._support(backend, unit, precision, granularity, op)
        return level, str(cause)

    def rejects(self, recipe: Recipe, backend: str) -> str | None:
        """Why a recipe makes no sense on this device with this backend, or None. Pure.

        Weight-only recipes are kept where they are emulated: they still save memory and storage.
        """
        causes = self.causes_against(recipe, backend)
        return reason(causes, self.name) if causes else None

    def causes_against(self, recipe: Recipe, backend: str) -> tuple[Cause, ...]:
        """The statements by which `rejects` rejects; empty where the recipe makes sense. Pure."""
        runtimes = [runtime for runtime in self.runtimes if runtime.name == backend]
        if not runtimes:
            why = _unknown("backend", backend, _names(self.runtimes))
            return (self.cite("runtimes", None, why),)
        (runtime,) = runtimes
        on_units = [self._against_unit(recipe, backend, unit) for unit in runtime.units]
        refused = [] if None in on_units else [cause for cause in on_units if cause]
        return (*self._against_engine(recipe, runtime), *refused)

    def _against_engine(self, recipe: Recipe, runtime: Runtime) -> Iterator[Cause]:
        """Why an engine gains nothing from a recipe on any unit."""
        key = f"runtimes.{runtime.name}"
        static = recipe.mode == "static"
        # Weight-only forms have operations of the engines' own, which older opsets carry too.
        modern = static and (recipe.activation_bits == 16 or recipe.weight_bits == 4)
        newest = runtime.max_opset
        if modern and newest and newest.value < _INT4_OPSET:
            why = f"4- and 16-bit quantization need opset {_INT4_OPSET}"
            yield self.cite(f"{key}.max_opset", newest.value, why, newest)
        if runtime.symmetric_only and static and not recipe.symmetric:
            why = "activations need the option '-symmetric'"
            yield self.cite(f"{key}.symmetric_only", True, why)
        clips = recipe.mode in ("static", "dynamic") and recipe.weight_bits == 8
        clips = clips and recipe.activation_bits == 8 and not recipe.reduce_range
        if runtime.u8s8_saturates and clips:
            why = "int8 sums clip; use the option '-reduce'"
            yield self.cite(f"{key}.u8s8_saturates", True, why)
        if recipe.reduce_range and not runtime.u8s8_saturates:
            why = "'-reduce' only costs precision here"
            yield self.cite(f"{key}.u8s8_saturates", False, why)

    def _against_unit(self, recipe: Recipe, backend: str, unit: str) -> Cause | None:
        """Why one unit gains nothing from a recipe, or None."""
        granularity: Granularity = "block" if recipe.block else recipe.granularity
        for precision in _precisions(recipe):
            support, cause = self._support(backend, unit, precision, granularity)
            smaller = precision.endswith("-only") and support == "emulated"
            if support != "fast" and not smaller:
                return cause
        return None

    def _support(
        self, backend: str, unit: str, precision: str, granularity: Granularity, op: str = ANY_OP
    ) -> tuple[Support, Cause]:
        """`support`, with the statement as a cause."""
        runtime = self.runtime(backend)
        hardware = _find(self.unit(unit).capabilities, op, precision, granularity)
        engine = _find(runtime.capabilities, op, precision, granularity)
        if hardware is None:
            key = f"units.{unit}.capabilities"
            return "unsupported", self.cite(key, None, f"does not list {precision}")
        rows = [(f"units.{unit}", hardware)]
        rows += [(f"runtimes.{runtime.name}", engine)] if engine else []
        owner, row = max(rows, key=lambda pair: SUPPORTS.index(pair[1].support))
        return row.support, self.cite(f"{owner}.{row.path}", row.support, row.why)

    def mismatch(self, machine: Machine) -> str | None:
        """Why a machine cannot stand in for this device, running nothing or proving nothing."""
        if machine.arch != self.arch:
            return f"arch = {self.arch!r}, this machine is {machine.arch or 'unknown'!r}"
        if self.os not in ("any", machine.os):
            return f"os = {self.os!r}, this machine runs {machine.os or 'unknown'!r}"
        for unit in self.units:
            if unit.kind != "cpu" and not self._is_board(machine):
                board = machine.board or machine.cpu or "unknown"
                return f"units.{unit.name}: no {unit.kind} of this device here (machine: {board})"
        cpus = [unit for unit in self.units if unit.kind == "cpu" and unit.features]
        if cpus and not machine.features:
            return f"units.{cpus[0].name}.features: this machine's instruction sets cannot be read"
        for cpu in cpus:
            for entry in cpu.features:
                if machine.features.isdisjoint(entry.split("|")):
                    return f"units.{cpu.name}.features: this machine has no {entry}"
        return None

    def resembles(self, machine: Machine) -> Evidence:
        """What figures taken on a machine are for this device.

        Returns:
            `measured` when the machine is the device, or has exactly its compute features;
            `estimated` when it can do more or is another board; `unknown` when it cannot stand in.
        """
        if self.mismatch(machine):
            return Evidence.UNKNOWN
        if self.boards and not self._is_board(machine):
            return Evidence.ESTIMATED
        return Evidence.MEASURED if machine.features <= self.features else Evidence.ESTIMATED

    def proves(self, machine: Machine, taken: Evidence) -> Evidence:
        """What a figure is for this device that was taken so on a machine that can stand in for it."""
        if taken == Evidence.MEASURED:
            return self.resembles(machine)
        return taken if machine.features <= self.features else Evidence.ESTIMATED

    def _is_board(self, machine: Machine) -> bool:
        return any(machine.board.startswith(board) for board in self.boards)


_Item = TypeVar("_Item", Unit, Runtime)


def parse_versions(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Bounds of a version range such as `>=1.31,<2`.

    Raises:
        ValueError: the text is not such a range.
    """
    bounds = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(>=|<|==)\s*(\d+(?:\.\d+)*)\s*", part)
        if not match:
            raise ValueError(text)
        bounds.append((match[1], version_tuple(match[2])))
    return bounds


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2026.4.1-22982-abc` is (2026, 4, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _padded(*versions: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Versions with zeros added, so that 2 equals 2.0."""
    width = max(len(version) for version in versions)
    return (version + (0,) * (width - len(version)) for version in versions)


def _precisions(recipe: Recipe) -> tuple[str, ...]:
    """The precisions in which a recipe computes: of its integer and of its float operations."""
    if recipe.mode == "float":
        return (recipe.execution,)
    tail = f"a{recipe.activation_bits}" if recipe.mode == "static" else f"-{recipe.mode}"
    floats = () if recipe.execution == "fp32" else (recipe.execution,)
    return (f"w{recipe.weight_bits}{tail}", *floats)


def _find(
    rows: tuple[Capability, ...], op: str, precision: str, granularity: Granularity
) -> Capability | None:
    """The row that holds for an operation: its own, else that of `*`."""
    for wanted in (op, ANY_OP):
        for row in rows:
            if (row.op, row.precision) == (wanted, precision) and row.granularity in (
                None,
                granularity,
            ):
                return row
    return None


def _names(items: tuple[Unit, ...] | tuple[Runtime, ...]) -> str:
    return ", ".join(item.name for item in items)


def _unknown(what: str, name: str, legal: str) -> str:
    return f"no {what} {name!r} on this device; it has: {legal}"


def _named(items: tuple[_Item, ...], name: str, problem: str) -> _Item:
    for item in items:
        if item.name == name:
            return item
    raise ProfileError(f"{problem} {name!r}; it has: {_names(items)}")
