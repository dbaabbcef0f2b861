"""What single nodes cost in quality at lower precisions: the table that allocation and repair read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSensitivity:
    """One node at one precision, everything else in float.

    Attributes:
        node: its name in the prepared graph.
        op: its operator.
        precision: see `edgesdk.precision`.
        sqnr_db: signal over noise at the node's own output, its inputs being right; -200 to 200 dB;
            None where that was not looked at.
        damages: noise power over signal power at every output of the model, in the table's order
            (of integer outputs: the share of values that changed); from 0.
        agreement: share of rows of the last axis whose largest entry stays at its place, at the
            worst output; None where no output has such an axis.
        measured: the damages were seen; else they are estimated from the noise at the node.
    """

    node: str
    op: str
    precision: str
    sqnr_db: float | None
    damages: tuple[float, ...]
    agreement: float | None
    measured: bool

    @property
    def damage(self) -> float:
        """At the worst output."""
        return max(self.damages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Additivity:
    """Whether damages add up, at one precision.

    Attributes:
        precision: of all nodes that take it.
        predicted: sum of the nodes' damages, at the output where the actual damage is worst.
        actual: damage there with all nodes quantized at once.
    """

    precision: str
    predicted: float
    actual: float

    @property
    def ratio(self) -> float | None:
        """Actual over predicted; 1 where noises are independent, None where nothing is predicted."""
        return self.actual / self.predicted if self.predicted > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityTable:
    """Every node at every precision that it takes.

    Attributes:
        outputs: of the model, in the order of `NodeSensitivity.damages`.
        rows: samples that all figures are over.
        nodes: in graph order, then in the order of precisions.
        additivity: one a precision.
    """

    outputs: tuple[str, ...]
    rows: int
    nodes: tuple[NodeSensitivity, ...]
    additivity: tuple[Additivity, ...]

    def at(self, precision: str) -> tuple[NodeSensitivity, ...]:
        """The nodes at one precision, the worst first."""
        return tuple(
            sorted((n for n in self.nodes if n.precision == precision), key=lambda n: -n.damage)
        )

    def ranking(self, precision: str) -> tuple[str, ...]:
        """Names of the nodes at one precision, the worst first."""
        return tuple(item.node for item in self.at(precision))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            outputs=tuple(data["outputs"]),
            rows=data["rows"],
            nodes=tuple(
                NodeSensitivity(**{**item, "damages": tuple(item["damages"])})
                for item in data["nodes"]
            ),
            additivity=tuple(Additivity(**item) for item in data["additivity"]),
        )
