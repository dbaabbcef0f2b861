"""Which form each component takes, so that the whole costs least and no floor is used up. Pure.

A form damages the pipeline's outputs by shares of what each floor allows, measured with that component
alone replaced. The damages of several forms are assumed to add up. That is a first-order estimate: errors
of one layer after another add where each is small and they are unlike each other. So the combination that
is chosen here is always run end to end, and it is that check which decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Objective = Literal["latency", "size", "memory", "quality"]
Cost = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One form of one component.

    Attributes:
        name: unique among the component's.
        ms: of its own runs, in one run of the pipeline; at least 0.
        bytes: of its artifact.
        damages: by floor, the share of what it allows that this form alone uses up; 0 does no harm, 1 just
            keeps the floor. A floor that is not there is not touched.
    """

    name: str
    ms: float
    bytes: int
    damages: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The largest share of any floor; 0 where none is touched."""
        return max(self.damages.values(), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be least, and what must not be passed.

    Attributes:
        objective: `memory` is taken for bytes, as weights are most of what forms differ in.
        most_ms, most_bytes: of all components together; None for no limit.
        allowance: of each floor, the share that may be used up; above 0.
    """

    objective: Objective = "latency"
    most_ms: float | None = None
    most_bytes: float | None = None
    allowance: float = 1.0


def allocate(components: Mapping[str, Sequence[Option]], asked: Asked) -> dict[str, Option] | None:
    """The best option of each component, exactly; None where no combination keeps what is asked.

    Branch and bound over options that no other one of the component beats in everything. A branch is left
    when even the least of everything that is still open cannot keep the limits or beat the best found.

    Args:
        components: the options of each, in any order.
        asked: objective and limits.
    """
    names = list(components)
    fronts = [_cheapest_first(undominated(components[name]), asked) for name in names]
    if not all(fronts):
        return None
    rest = [_least(fronts[at:]) for at in range(len(fronts) + 1)]
    best: tuple[Cost, list[Option]] | None = None

    def search(at: int, taken: list[Option]) -> None:
        nonlocal best
        total = _sum([*taken, rest[at]])
        if not _keeps(total, asked):
            return
        cost = _cost(total, asked)
        if best is not None and cost >= best[0]:
            return
        if at == len(fronts):
            best = cost, taken
            return
        for option in fronts[at]:
            search(at + 1, [*taken, option])

    search(0, [])
    return None if best is None else dict(zip(names, best[1], strict=True))


def undominated(options: Sequence[Option]) -> list[Option]:
    """Those that no other one equals or beats in time, bytes and every damage; of equals the first."""
    kept: list[Option] = []
    for at, option in enumerate(options):
        rivals = [*kept, *options[at + 1 :]]
        if not any(_beats(rival, option, ties=rival in kept) for rival in rivals):
            kept.append(option)
    return kept


def _beats(rival: Option, option: Option, *, ties: bool) -> bool:
    floors = {*rival.damages, *option.damages}
    pairs = [(rival.ms, option.ms), (rival.bytes, option.bytes)]
    pairs += [(rival.damages.get(key, 0.0), option.damages.get(key, 0.0)) for key in floors]
    no_worse = all(mine <= other for mine, other in pairs)
    return no_worse and (ties or any(mine < other for mine, other in pairs))


def _cheapest_first(options: Sequence[Option], asked: Asked) -> list[Option]:
    return sorted(options, key=lambda option: _cost(option, asked))


def _least(fronts: Sequence[Sequence[Option]]) -> Option:
    """What these components take at the very least, each figure by itself."""
    least = []
    for front in fronts:
        floors = {key for option in front for key in option.damages}
        least.append(
            Option(
                name="",
                ms=min(option.ms for option in front),
                bytes=min(option.bytes for option in front),
                damages={key: min(o.damages.get(key, 0.0) for o in front) for key in floors},
            )
        )
    return _sum(least)


def _sum(options: Sequence[Option]) -> Option:
    floors = {key for option in options for key in option.damages}
    return Option(
        name="",
        ms=sum(option.ms for option in options),
        bytes=sum(option.bytes for option in options),
        damages={key: sum(o.damages.get(key, 0.0) for o in options) for key in floors},
    )


def _keeps(total: Option, asked: Asked) -> bool:
    return (
        total.worst <= asked.allowance
        and (asked.most_ms is None or total.ms <= asked.most_ms)
        and (asked.most_bytes is None or total.bytes <= asked.most_bytes)
    )


def _cost(total: Option, asked: Asked) -> Cost:
    """Smaller is better; what comes later only breaks ties."""
    match asked.objective:
        case "latency":
            return (total.ms, total.bytes, total.worst)
        case "size" | "memory":
            return (total.bytes, total.ms, total.worst)
        case "quality":
            return (total.worst, total.ms, total.bytes)
