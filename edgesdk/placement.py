"""Which unit does how much of a run: shares of what a runtime says of its nodes; pure.

A unit's share is that of the time where times are known, else of the multiply-accumulates where every
node that multiplies is traced to the ONNX graph, else of the nodes. A node count is the weakest: it
takes a large convolution and a softmax for equals.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.evidence import Evidence
from edgesdk.onnxfile.work import Work


class Basis(StrEnum):
    """What a share is a share of, the most telling first."""

    TIME = "time"
    MACS = "macs"
    NODES = "nodes"


OF = {
    Basis.TIME: "of the time",
    Basis.MACS: "of the multiply-accumulates",
    Basis.NODES: "of the nodes that compute",
}
"""A basis in a sentence."""

_LITTLE = 0.1
_MOVERS = frozenset(
    (
        # ONNX
        *("cast", "castlike", "concat", "constant", "constantofshape", "depthtospace", "expand"),
        *("flatten", "gather", "gathernd", "identity", "pad", "reshape", "shape", "size", "slice"),
        *("spacetodepth", "split", "squeeze", "tile", "transpose", "unsqueeze"),
        *("dequantizelinear", "quantizelinear"),
        # onnxruntime
        *("memcpyfromhost", "memcpytohost", "reorderinput", "reorderoutput"),
        # OpenVINO
        *("convert", "fakequantize", "input", "output", "reorder", "result", "stridedslice"),
        # LiteRT
        *("concatenation", "dequantize", "expanddims", "pack", "padv2", "quantize", "unpack"),
        # TensorRT and QNN
        *("copy", "noop", "reformat", "shuffle"),
    )
)
"""Operations that move, relabel or re-encode data, without case and underscores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShare:
    """One executed node that is not on the unit that was wanted.

    Attributes:
        node, op, unit, why: as in `NodePlacement`.
        share: of the whole run, 0 to 1.
    """

    node: str
    op: str
    unit: str
    share: float
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitShares:
    """How a run is divided among the units.

    Attributes:
        wanted: the unit that the profile wants the runtime to use.
        by: what the shares are shares of.
        evidence: how the placement (and the times, if it is by these) was obtained.
        units: share of each unit, 0 to 1; they add up to 1, the largest comes first.
        elsewhere: the nodes that are not on the wanted unit, those with the largest share first;
            their shares add up to `fallback`.
    """

    wanted: str
    by: Basis
    evidence: Evidence
    units: Mapping[str, float]
    elsewhere: tuple[NodeShare, ...] = ()

    @property
    def fallback(self) -> float:
        """The share outside the wanted unit, 0 to 1."""
        return min(1.0, math.fsum(s for unit, s in self.units.items() if unit != self.wanted))

    def __str__(self) -> str:
        """`npu 66 %, cpu 34 % of the time`; other units only where they have a share."""
        told = {self.wanted: 0.0} | {unit: share for unit, share in self.units.items() if share}
        named = sorted(told.items(), key=lambda pair: -pair[1])
        return f"{', '.join(f'{unit} {percent(share)}' for unit, share in named)} {OF[self.by]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            wanted=data["wanted"],
            by=Basis(data["by"]),
            evidence=Evidence(data["evidence"]),
            units=dict(data["units"]),
            elsewhere=tuple(NodeShare(**item) for item in data["elsewhere"]),
        )


def unit_shares(
    placement: Sequence[NodePlacement],
    times: Sequence[NodeTime] = (),
    work: Sequence[Work] = (),
    *,
    wanted: str,
    evidence: Evidence,
) -> UnitShares | None:
    """The shares of all units; None where the runtime does not tell where its nodes run.

    Times count only where each unit with a node that computes has times: an engine may time no more
    than what it runs itself. Without times, nodes that only move, relabel or re-encode data have no
    share.

    Args:
        placement: from `Session.placement` or `Compiled.placement`.
        times: of the same nodes, milliseconds; empty where they are not known.
        work: the nodes of the ONNX graph that was converted; empty where that is not known.
        wanted: the unit that should do the work, in the profile's words.
        evidence: how placement and times were obtained.
    """
    if not placement:
        return None
    timed = _by_time(placement, times)
    if timed is not None:
        by, weighed = Basis.TIME, timed
    else:
        macs = _by_macs(placement, work)
        by = Basis.NODES if macs is None else Basis.MACS
        weights = _by_count(placement) if macs is None else macs
        weighed = list(zip(placement, weights, strict=True))
    total = math.fsum(weight for _, weight in weighed)
    held: dict[str, list[float]] = {}
    for item, weight in weighed:
        held.setdefault(item.unit, []).append(weight)
    units = {unit: math.fsum(weights) / total for unit, weights in held.items()}
    elsewhere = [
        NodeShare(node=item.node, op=item.op, unit=item.unit, share=weight / total, why=item.why)
        for item, weight in weighed
        if item.unit != wanted
    ]
    return UnitShares(
        wanted=wanted,
        by=by,
        evidence=evidence,
        units=dict(sorted(units.items(), key=lambda pair: (-pair[1], pair[0]))),
        elsewhere=tuple(sorted(elsewhere, key=lambda one: (-one.share, one.node))),
    )


def needs_work(placement: Sequence[NodePlacement], times: Sequence[NodeTime]) -> bool:
    """Whether the work of the ONNX graph could make the shares more telling."""
    several = len({item.unit for item in placement}) > 1
    return several and _by_time(placement, times) is None


def least_times(looks: Sequence[Sequence[NodeTime]]) -> tuple[NodeTime, ...]:
    """The least time of each node over several looks: what else runs can only make one longer.

    With six processes waiting for every core, the share of one unit in a keyword spotter was 3 to 94 %
    in single looks, 12 to 50 % by the middle of three, and 48 to 49 % by the least of three.

    Args:
        looks: times of the same nodes, at least one look; a node may be missing in some.
    """
    seen: dict[tuple[NodeTime, int], list[float]] = {}
    for times in looks:
        counts: Counter[NodeTime] = Counter()
        for time in times:
            node = replace(time, ms=0.0)
            seen.setdefault((node, counts[node]), []).append(time.ms)
            counts[node] += 1
    return tuple(replace(node, ms=min(found)) for (node, _), found in seen.items())


def only_moves(op: str) -> bool:
    """Whether an operation moves, relabels or re-encodes data and computes nothing of the model's.

    Args:
        op: in the words of ONNX or of an engine, with or without a domain: `Reshape`,
            `com.microsoft::QuantizeLinear`, `EXPAND_DIMS`.
    """
    return re.split(r"[.:/]", op)[-1].replace("_", "").lower() in _MOVERS


def percent(share: float) -> str:
    """`34 %`; with a decimal where 0 or 100 would claim too much: `0.4 %`, `99.7 %`."""
    if 0.0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1.0:
        return ">99.9 %"
    digits = 1 if 0.0 < share < 0.01 or 0.99 < share < 1.0 else 0
    return f"{100 * share:.{digits}f} %"


def shortened(name: str, width: int = 48) -> str:
    """A name of at most so many characters: engines join those of all nodes that they fuse."""
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[:half]}…{name[-half:]}"


def with_place(headline: str, shares: UnitShares | None, wanted: str) -> str:
    """A headline with where it runs, unless that is a CPU that was wanted.

    Only where times show that at most a tenth of them is elsewhere does it say on which unit it runs;
    else it states the shares.
    """
    if wanted == "cpu" and not (shares and shares.elsewhere):
        return headline
    if shares is None:
        return f"{headline}; whether it runs on the {wanted} is not known"
    if shares.by == Basis.TIME and shares.fallback <= _LITTLE:
        return f"{headline}; it runs on the {wanted}" + (f" ({shares})" if shares.elsewhere else "")
    return f"{headline}; {shares}"


def _by_time(
    placement: Sequence[NodePlacement], times: Sequence[NodeTime]
) -> list[tuple[NodePlacement, float]] | None:
    """Executed nodes with their milliseconds, where the times tell all; else None."""
    placed: dict[str, list[NodePlacement]] = {}
    for item in placement:
        placed.setdefault(item.node, []).append(item)
    if not all(math.isfinite(time.ms) and time.ms >= 0.0 for time in times):
        return None
    found = [(_place_of(time, placed.get(time.node, ())), time.ms) for time in times]
    if not sum(ms for _, ms in found) > 0.0:
        return None
    timed = {item.unit for item, _ in found}
    if not {item.unit for item in placement if not only_moves(item.op)} <= timed:
        return None
    known = {time.node for time in times}
    return found + [(item, 0.0) for item in placement if item.node not in known]


def _place_of(time: NodeTime, placed: Sequence[NodePlacement]) -> NodePlacement:
    """Where a timed node ran: as the placement says, which adapters may know better than times do."""
    if len({item.unit for item in placed}) == 1:
        return placed[0]
    return NodePlacement(node=time.node, op=time.op, unit=time.unit, provider=time.provider)


def _by_macs(placement: Sequence[NodePlacement], work: Sequence[Work]) -> list[float] | None:
    """Multiply-accumulates of each executed node; None where some are not known or not traced."""
    macs = [0 if item.macs is None and only_moves(item.op) else item.macs for item in work]
    if None in macs or not any(macs):
        return None
    numbers = {
        name: number
        for number, item in enumerate(work)
        for name in (*(tensor.name for tensor in item.outputs), item.name)
        if name
    }
    claims = [set() if only_moves(item.op) else _claimed(item, numbers) for item in placement]
    claimants = Counter(number for claim in claims for number in claim)
    if any(count and number not in claimants for number, count in enumerate(macs)):
        return None
    return [
        math.fsum((macs[number] or 0) / claimants[number] for number in claim) for claim in claims
    ]


def _claimed(item: NodePlacement, numbers: Mapping[str, int]) -> set[int]:
    """The nodes of the graph that an executed one stands for, by its origin, else by its name."""
    found = {numbers[name] for name in item.origin if name in numbers}
    return found or {numbers[name] for name in (item.node,) if name in numbers}


def _by_count(placement: Sequence[NodePlacement]) -> list[float]:
    """1 for each node that computes; for all where none does."""
    counts = [0.0 if only_moves(item.op) else 1.0 for item in placement]
    return counts if any(counts) else [1.0] * len(counts)
