"""What refining a quantized form was based on and expected: for the report, beside what came out; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from edgesdk.plan.allocate import Rung
from edgesdk.plan.culprits import Culprits
from edgesdk.plan.damage import NodeSensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWorth:
    """One node of the form: what quantizing it costs and what it saves.

    Attributes:
        node: its name in the prepared graph.
        op: its operator.
        damage: noise over signal power at the worst output that it adds, from 0.
        saved: time (or bytes) that quantizing it saves, in `Refined.unit`; below 0 where it costs.
        seen: the damage was seen; else it is estimated from the noise at the node.
    """

    node: str
    op: str
    damage: float
    saved: float
    seen: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A form with some nodes spared: the name of its candidate, and why it was tried."""

    name: str
    why: str
    rung: Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """One whole-model form, its nodes, and the mixed forms that were tried because of them.

    Attributes:
        base: name of the form's candidate.
        precision: of its quantized nodes, see `edgesdk.precision`.
        rows: samples that the damages are over.
        unit: of `saved` and of `Rung.extra`: `ms` a run, `MB` of the artifact, or `nodes` where
            the engine gives no times of nodes.
        nodes: the worst first.
        tried: in the order in which they were tried.
        speedup: of the whole form over the float original; None where it was not measured.
        mended: the checks that were made to find what makes a form pass that failed; None where
            none were.
        spared: what the nodes of a rung get instead: `float`, or `8-bit` weights.
        how: in what state of the others a node's damage was found, as `what each node costs …` ends.
    """

    base: str
    precision: str
    rows: int
    unit: str
    nodes: tuple[NodeWorth, ...]
    tried: tuple[Tried, ...] = ()
    speedup: float | None = None
    mended: Culprits | None = None
    spared: str = "float"
    how: str = "when it alone is quantized"

    @classmethod
    def of(
        cls,
        base: str,
        nodes: Sequence[NodeSensitivity],
        saved: Mapping[str, float],
        tried: Sequence[Tried] = (),
        *,
        unit: str,
        rows: int,
        speedup: float | None = None,
        mended: Culprits | None = None,
        spared: str = "float",
    ) -> Self:
        """From the table's nodes, all at one precision.

        Args:
            base: name of the form's candidate.
            nodes: at least one, as `SensitivityTable.at` gives them.
            saved: by node name; what is missing saves nothing.
            tried: what came of it.
            unit: of `saved`.
            rows: of the table.
            speedup: of the whole form, where it was measured.
            mended: the search for culprits, where it was made.
            spared: what the nodes of a rung get instead.
        """
        worth = (
            NodeWorth(
                node=item.node,
                op=item.op,
                damage=item.damage,
                saved=saved.get(item.node, 0.0),
                seen=item.measured,
            )
            for item in nodes
        )
        return cls(
            base=base,
            precision=nodes[0].precision,
            rows=rows,
            unit=unit,
            nodes=tuple(sorted(worth, key=lambda item: (-item.damage, item.node))),
            tried=tuple(tried),
            speedup=speedup,
            mended=mended,
            spared=spared,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        tried = (
            Tried(
                name=item["name"],
                why=item["why"],
                rung=Rung(**{**item["rung"], "kept": tuple(item["rung"]["kept"])}),
            )
            for item in data["tried"]
        )
        nodes = tuple(NodeWorth(**item) for item in data["nodes"])
        mended = data.get("mended")
        found = Culprits.from_json(mended) if mended else None
        return cls(**{**data, "nodes": nodes, "tried": tuple(tried), "mended": found})
