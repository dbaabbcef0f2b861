"""What the user must have: limits on latency, memory and size, and floors under quality.

    budget := limit ("," limit)*         latency=20ms,memory=200MB,size=10MB
    limit  := quantity ["." statistic] "=" number unit
    floors := floor ("," floor)*         top1=-1%,logits.cosine=0.99
    floor  := [output "."] measure "=" number ["%" | "dB"]

A floor with a sign is a change against the float original: `top1=-1%` lets it fall by one percent
of the original's value, `top1=-0.01` by one point of a hundred; `cer=+0.5%` lets an error rate
rise. A floor without a sign is the value itself: `cosine=0.99`, `top1=88%`, `sqnr=30dB`.

The most that may run elsewhere than on the wanted unit is a share: `5%` or `0.05`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

from edgesdk.errors import BudgetError
from edgesdk.metrics import BUILT_IN
from edgesdk.usercode import did_you_mean

Objective = Literal["latency", "size", "memory", "quality"]
FloorKind = Literal["value", "points", "relative"]

CLOSENESS = ("cosine", "sqnr", "max_error", "agreement")
"""What is measured against the float original on every output, without labels."""

_Part = TypeVar("_Part", "Limit", "Floor")

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
_UNITS: dict[str, dict[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "memory": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
}
_UNITS["size"] = _UNITS["memory"]
_NUMBER = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>[^\d\s]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most that a quantity may reach.

    Attributes:
        quantity: `latency`, `memory` (peak resident) or `size` (of the artifacts).
        statistic: of a latency: `mean`, `p50`, `p90`, `p95` or `p99`; empty for the others.
        maximum: in milliseconds or bytes; above 0.
        text: as the user wrote it.
    """

    quantity: str
    statistic: str
    maximum: float
    text: str

    def miss(self, value: float) -> float:
        """How far a value (milliseconds or bytes) is over the limit; 0 where it keeps it."""
        return max(0.0, value - self.maximum)

    def describe(self, value: float) -> str:
        """`latency.p95 23.1 ms, limit 20ms: 1.16 x`."""
        name = f"{self.quantity}.{self.statistic}" if self.statistic else self.quantity
        shown = f"{value:.3g} ms" if self.quantity == "latency" else f"{value / 1e6:.4g} MB"
        limit = self.text.partition("=")[2]
        return f"{name} {shown}, limit {limit}: {value / self.maximum:.2f} x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """How far quality may go.

    Attributes:
        quantity: one of `CLOSENESS` or a metric (for the user's own: `module:function`).
        output: the output it is about; None for all of them (closeness) or the metric's own.
        kind: `value`, `points` (a change) or `relative` (a share of the original's value).
        bound: the value, or the signed change: -0.01 for `-1%` and for `-0.01`.
        text: as the user wrote it.
    """

    quantity: str
    output: str | None = None
    kind: FloorKind
    bound: float
    text: str

    @property
    def metric(self) -> str | None:
        """The metric to score for this floor, as `load_metric` takes it; None for closeness."""
        if self.quantity in CLOSENESS:
            return None
        return f"{self.quantity}@{self.output}" if self.output else self.quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits, floors, and what to prefer among candidates that keep them all.

    Attributes:
        max_fallback: the largest share of a run, 0 to 1, that may be elsewhere than on the unit that
            the profile wants for the runtime; None where that does not matter.
    """

    limits: tuple[Limit, ...] = ()
    floors: tuple[Floor, ...] = ()
    objective: Objective = "latency"
    max_fallback: float | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The limits as text, `max-fallback=5%` among them."""
        share = self.max_fallback
        gate = () if share is None else (f"max-fallback={100 * share:g}%",)
        return (*(limit.text for limit in self.limits), *gate)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that the floors need, as `load_metric` takes them."""
        return tuple(dict.fromkeys(floor.metric for floor in self.floors if floor.metric))

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], own: Sequence[str] = ()) -> Self:
        """From the `[budget]` and `[floors]` tables of an `edgesdk.toml`.

        `budget` holds limits, `objective` and `max_fallback`; floors are strings, or numbers for
        plain values.
        `own` names the user's own metrics, by which floors may call them.

        Raises:
            BudgetError: names the table, the key and what is legal.
        """
        for table in data:
            if table not in ("budget", "floors"):
                raise BudgetError(f"unknown table {table!r}; legal: budget, floors")
        for table in ("budget", "floors"):
            if not isinstance(data.get(table, {}), Mapping):
                raise BudgetError(f"{table} is {data[table]!r}; expected a table")
        limits = dict(data.get("budget", {}))
        objective = parse_objective(str(limits.pop("objective", "latency")))
        gate = limits.pop("max_fallback", None)
        return cls(
            max_fallback=None if gate is None else parse_max_fallback(_plain_value(gate)),
            limits=_distinct([_limit(_text(name, value)) for name, value in _flat(limits)]),
            floors=_distinct(
                [_floor(_text(name, value), own) for name, value in _flat(data.get("floors", {}))]
            ),
            objective=objective,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "limits": [limit.text for limit in self.limits],
            "floors": [floor.text for floor in self.floors],
            "own": [floor.quantity for floor in self.floors if floor.metric],
            "objective": self.objective,
            "max_fallback": self.max_fallback,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            limits=_distinct([_limit(text) for text in data["limits"]]),
            floors=_distinct([_floor(text, data["own"]) for text in data["floors"]]),
            objective=parse_objective(data["objective"]),
            max_fallback=data.get("max_fallback"),
        )


def parse_budget(text: str) -> tuple[Limit, ...]:
    """Limits from `latency=20ms,memory=200MB,size=10MB`.

    Raises:
        BudgetError: names the part, the quantity or unit seen and the legal ones.
    """
    return _distinct([_limit(part) for part in text.split(",")])


def parse_floor(text: str, own: Sequence[str] = ()) -> tuple[Floor, ...]:
    """Floors from `top1=-1%,logits.cosine=0.99`.

    Args:
        text: one floor or several.
        own: names of the user's own metrics, by which floors may call them.

    Raises:
        BudgetError: names the part, the measure or unit seen and the legal ones.
    """
    return _distinct([_floor(part, own) for part in text.split(",")])


def parse_objective(text: str) -> Objective:
    """What to prefer among candidates that keep the budget.

    Raises:
        BudgetError: unknown; names the legal ones.
    """
    for legal in get_args(Objective):
        if text == legal:
            found: Objective = legal
            return found
    legal = get_args(Objective)
    raise BudgetError(f"objective {text!r}{did_you_mean(text, legal)} Legal: {', '.join(legal)}")


def parse_max_fallback(text: str) -> float:
    """A share from 0 to 1 of `5%` or `0.05`.

    Raises:
        BudgetError: anything else; names what was seen and what is legal.
    """
    match = _NUMBER.fullmatch(text.strip())
    if not match or match["unit"] not in ("", "%"):
        raise BudgetError(f"max fallback {text!r} does not parse; write e.g. 5% or 0.05")
    share = float(match["number"]) / (100.0 if match["unit"] else 1.0)
    if not 0.0 <= share <= 1.0:
        meant = not match["unit"] and 1.0 < share <= 100.0
        hint = f"; did you mean {match['number']}%?" if meant else ""
        raise BudgetError(f"max fallback {text!r}: legal are 0% to 100%, or 0 to 1{hint}")
    return share


def _limit(part: str) -> Limit:
    name, number, unit = _split(part, "latency=20ms")
    quantity, _, statistic = name.partition(".")
    if quantity not in _UNITS:
        hint = did_you_mean(quantity, tuple(_UNITS))
        raise BudgetError(f"unknown quantity {quantity!r}{hint} Legal: {', '.join(_UNITS)}")
    if quantity == "latency":
        statistic = statistic or "p95"
        if statistic not in _STATISTICS:
            raise BudgetError(
                f"unknown statistic {statistic!r} of latency{did_you_mean(statistic, _STATISTICS)} "
                f"Legal: {', '.join(_STATISTICS)}"
            )
    elif statistic:
        raise BudgetError(f"{part.strip()!r}: {quantity} takes no statistic, seen {statistic!r}")
    units = _UNITS[quantity]
    if unit not in units:
        seen = f"unknown unit {unit!r}" if unit else "no unit"
        raise BudgetError(
            f"{part.strip()!r}: {seen}{did_you_mean(unit, tuple(units))} Legal: {', '.join(units)}"
        )
    maximum = number * units[unit]
    if not 0 < maximum < math.inf or number <= 0:
        raise BudgetError(f"{part.strip()!r}: a limit must be above 0")
    return Limit(quantity=quantity, statistic=statistic, maximum=maximum, text=part.strip())


def _floor(part: str, own: Sequence[str] = ()) -> Floor:
    name, number, unit = _split(part, "top1=-1% or cosine=0.99")
    output, quantity = _scope(name, own)
    text = part.strip()
    signed = text.rpartition("=")[2].strip()[0] in "+-"
    if unit not in ("", "%") and not (unit == "dB" and quantity == "sqnr"):
        legal = "dB or nothing" if quantity == "sqnr" else "% or nothing"
        raise BudgetError(f"{text!r}: unknown unit {unit!r}; legal: {legal}")
    if quantity in CLOSENESS and signed:
        raise BudgetError(
            f"{text!r}: {quantity} compares with the float original already; give the value "
            "itself, without a sign"
        )
    if unit == "%" and quantity in ("sqnr", "max_error"):
        raise BudgetError(f"{text!r}: {quantity} has no percentage")
    bound = number / 100.0 if unit == "%" else number
    if quantity in ("cosine", "agreement") and not 0.0 <= bound <= 1.0:
        raise BudgetError(f"{text!r}: {quantity} lies between 0 and 1")
    kind: FloorKind = "value" if not signed else ("relative" if unit == "%" else "points")
    return Floor(quantity=quantity, output=output, kind=kind, bound=bound, text=text)


def _scope(name: str, own: Sequence[str]) -> tuple[str | None, str]:
    """The output and the measure of `logits.cosine`, `top1@logits`, `metrics.py:wer` or `top1`."""
    legal = (*CLOSENESS, *BUILT_IN, *own)
    measure, at, output = name.partition("@")
    if at and measure in legal:
        return output, measure
    output, dot, measure = name.rpartition(".")
    if dot and output and measure in legal:
        return output, measure
    # Checked after the scoped forms, since names of outputs may hold a colon.
    if name in legal or (":" in name and name.rpartition(":")[2].isidentifier()):
        return None, name
    raise BudgetError(
        f"unknown floor {name!r}{did_you_mean(name.rpartition('.')[2], legal)} Legal: "
        f"{', '.join(legal)}, or your own metric as module:function"
    )


def _split(part: str, example: str) -> tuple[str, float, str]:
    """Name, number and unit of `name=number unit`."""
    name, equals, value = part.strip().rpartition("=")
    match = _NUMBER.fullmatch(value.strip())
    if not equals or not name.strip() or not match:
        raise BudgetError(f"{part.strip()!r} does not parse; write e.g. {example}")
    number = float(match["number"])
    if not math.isfinite(number):
        raise BudgetError(f"{part.strip()!r}: {match['number']} is too large")
    return name.strip(), number, match["unit"]


def _text(name: str, value: object) -> str:
    """A key and value of TOML in the notation of the command line."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BudgetError(f"{name} = {value!r}; expected a string such as '20ms' or '-1%'")
    # A negative number in TOML has its sign already; a positive one is a plain value.
    return f"{name}={value}"


def _plain_value(value: object) -> str:
    """A value of TOML as the command line takes it."""
    return _text("max_fallback", value).partition("=")[2]


def _flat(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """TOML reads a bare `latency.p50 = …` as a table in a table; give back the dotted name."""
    flat: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat += [(f"{name}.{inner}", leaf) for inner, leaf in _flat(value)]
        else:
            flat.append((name, value))
    return flat


def _distinct(parts: list[_Part]) -> tuple[_Part, ...]:
    """The parts, refusing two that speak of the same thing."""
    seen: dict[object, str] = {}
    for part in parts:
        key = (part.quantity, part.statistic if isinstance(part, Limit) else part.output)
        if key in seen:
            raise BudgetError(f"{part.text!r} contradicts or repeats {seen[key]!r}; keep one")
        seen[key] = part.text
    return tuple(parts)
