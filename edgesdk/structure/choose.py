"""Which units go: the least important, until enough parameters or products are gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgesdk.errors import ModelError
from edgesdk.structure.costs import Cost, Costs

if TYPE_CHECKING:
    import onnx

    from edgesdk.profile import Profile
    from edgesdk.structure.importance import Scores
    from edgesdk.structure.units import Group, Structure

Of = Literal["parameters", "macs"]
Scope = Literal["global", "group"]

_LANES = (
    ("amx_tile", 32, "an AMX tile has 16 columns and 32 bfloat16 rows"),
    ("avx512", 16, "an AVX-512 register holds 16 floats"),
    ("avx2", 8, "an AVX2 register holds 8 floats"),
    ("neon", 4, "a NEON register holds 4 floats"),
)
"""The first whose name begins a feature of the CPU decides."""
_PARTS = 8
_UNITS = {
    "gpu": (16, "tensor cores take 16 bytes of a row at a time: 16 int8 or 8 float16"),
    "npu": (16, "NPUs store activations in bricks of 16 channels"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the choice must respect.

    Attributes:
        floor: units that every group keeps at least; 1 or more.
        keep: share of its units that every group keeps at least, from 0 to 1.
        multiple: kept channels of a group are a multiple of this, or of an eighth of the group where that is
            less, as few sizes would be left to choose from else; 1 or more.
        spared: names of groups that lose nothing.
    """

    floor: int = 1
    keep: float = 0.0
    multiple: int = 1
    spared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what no graph can meet.

        Raises:
            ModelError: names the field.
        """
        if self.floor < 1 or self.multiple < 1:
            raise ModelError(
                f"floor = {self.floor}, multiple = {self.multiple}; legal: 1 or more of each"
            )
        if not 0.0 <= self.keep <= 1.0:
            raise ModelError(f"keep = {self.keep}; legal: from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What goes.

    Attributes:
        selection: numbers of units, ascending, by the name of their group; no group that loses nothing.
        before: cost of the graph as it is.
        after: cost without them, exactly.
        reached: at least as much goes as was asked for.
        notes: what kept it from that, for the report.
    """

    selection: Mapping[str, tuple[int, ...]]
    before: Cost
    after: Cost
    reached: bool
    notes: tuple[str, ...]


def choose(
    proto: onnx.ModelProto,
    structure: Structure,
    scores: Scores,
    *,
    share: float,
    of: Of = "parameters",
    scope: Scope = "global",
    rules: Rules | None = None,
) -> Choice:
    """Choose as few units as give the share, the least important first.

    Args:
        proto: what `structure` was found in.
        structure: what can be removed.
        scores: of every unit, by group; for the scope `global` made comparable (`importance.comparable`).
        share: of the whole model's parameters or MACs that should go, from 0 to below 1.
        of: what the share is of.
        scope: `global` ranks all units together, `group` takes the same share of units from every group.
        rules: what to respect; by default only that every group keeps a unit.

    Returns:
        The choice. Rounding keeps more rather than less in each group; where all that the rules allow is not
        enough, that much is chosen and `reached` is False.

    Raises:
        ModelError: a share out of range, scores that do not fit, or MACs asked for where lengths are open.
    """
    if not 0.0 <= share < 1.0:
        raise ModelError(f"share = {share}; legal: from 0 to below 1")
    rules = rules or Rules()
    _check(structure, scores, rules.spared)
    costs = Costs(proto, structure)
    before = costs.without()
    if of == "macs" and before.macs is None:
        raise ModelError(
            "a share of MACs needs fixed input shapes; fix them, or choose a share of parameters"
        )
    rank = _Ranking(structure, scores, scope, rules)
    allowed = (1.0 - share) * _amount(before, of)
    low, high = 0, rank.steps
    while low < high:
        middle = (low + high) // 2
        if _amount(costs.without(structure.gone(rank.selection(middle))), of) <= allowed:
            high = middle
        else:
            low = middle + 1
    selection = rank.selection(low)
    after = costs.without(structure.gone(selection))
    reached = _amount(after, of) <= allowed
    notes = []
    if not reached:
        most = 1.0 - _amount(after, of) / max(1, _amount(before, of))
        notes.append(
            f"only {most:.1%} of the {of} can go by these rules, not {share:.1%}: "
            f"{len(structure.groups)} groups, floor {rules.floor} units, {rules.keep:.0%} kept, "
            f"multiples of {rules.multiple}"
        )
    return Choice(
        selection=selection, before=before, after=after, reached=reached, notes=tuple(notes)
    )


def liked_multiple(profile: Profile) -> tuple[int, str]:
    """The multiple of channels that a device's first unit computes without waste, and why."""
    unit = profile.units[0]
    if unit.kind in _UNITS:
        return _UNITS[unit.kind]
    for feature, lanes, why in _LANES:
        # Of `a|b` a device may have either, so it is sure of what both begin with only.
        if any(all(w.startswith(feature) for w in e.split("|")) for e in unit.features):
            return lanes, why
    return 4, f"profile {profile.name!r} lists no vector instructions; most have 4 floats"


class _Ranking:
    """Selections of growing size, each within the next."""

    def __init__(self, structure: Structure, scores: Scores, scope: Scope, rules: Rules) -> None:
        self._groups = [g for g in structure.groups if g.name not in rules.spared]
        self._rules = rules
        # Equal scores go in the order of the graph, so that the choice is the same every time.
        self._orders = {
            group.name: np.argsort(scores[group.name], kind="stable") for group in self._groups
        }
        self._scope = scope
        every = [
            (float(scores[group.name][unit]), number, int(unit))
            for number, group in enumerate(self._groups)
            for unit in self._orders[group.name]
        ]
        self._ranked = [number for _, number, _ in sorted(every)]
        self.steps = len(self._ranked)

    def selection(self, step: int) -> dict[str, tuple[int, ...]]:
        """The units that go at a step, from none at 0 to all that may at `steps`."""
        if self._scope == "global":
            counts = np.bincount(self._ranked[:step], minlength=len(self._groups)).tolist()
        else:
            counts = [len(group.units) * step // max(1, self.steps) for group in self._groups]
        chosen = {}
        for group, count in zip(self._groups, counts, strict=True):
            going = len(group.units) - self._kept(group, len(group.units) - count)
            if going > 0:
                chosen[group.name] = tuple(sorted(self._orders[group.name][:going].tolist()))
        return chosen

    def _kept(self, group: Group, wanted: int) -> int:
        """How many units stay if so many should: no fewer, and rounded up as the rules say."""
        total = len(group.units)
        least = max(wanted, min(self._rules.floor, total), ceil(self._rules.keep * total))
        step = self._rules.multiple // gcd(self._rules.multiple, group.width)
        step = max(1, min(step, total // _PARTS))
        return min(total, -(-least // step) * step)


def _amount(cost: Cost, of: Of) -> int:
    return cost.parameters if of == "parameters" else cost.macs or 0


def _check(structure: Structure, scores: Scores, spared: Collection[str]) -> None:
    for group in structure.groups:
        own = scores.get(group.name)
        if own is None or own.shape != (len(group.units),) or not np.isfinite(own).all():
            raise ModelError(
                f"scores of group {group.name!r} must be {len(group.units)} finite numbers"
            )
    for name in spared:
        structure.group(name)
