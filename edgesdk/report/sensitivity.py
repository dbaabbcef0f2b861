"""The sensitivity table for people: what each node costs, the worst first, with bars."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesdk.plan.damage import NodeSensitivity, SensitivityTable
from edgesdk.report.damage import share_of_bar, short

_BAR = 16
_SHOWN = 20


def sensitivity_view(table: SensitivityTable, *, shown: int = _SHOWN) -> RenderableType:
    """One table a precision: node, operator, noise at the node, damage at the model's outputs.

    Args:
        table: what was simulated.
        shown: nodes of each precision, the worst first; the rest is counted.
    """
    parts: list[RenderableType] = []
    for item in table.additivity:
        nodes = table.at(item.precision)
        view = Table(
            "node",
            "op",
            "SQNR dB",
            "damage",
            "",
            title=f"{item.precision}: what each node costs when it alone is quantized",
        )
        for node in nodes[:shown]:
            view.add_row(
                Text(short(node.node)),
                Text(node.op),
                "" if node.sqnr_db is None else f"{node.sqnr_db:.1f}",
                f"{node.damage:.2e}" + ("" if node.measured else " est."),
                _bar(node, nodes[0].damage),
            )
        parts.append(view)
        rest = len(nodes) - shown
        parts.append(
            Text(
                (f"{rest} more nodes. " if rest > 0 else "")
                + f"All of them at once: {item.actual:.2e}; their sum: {item.predicted:.2e}"
            )
        )
    parts.append(
        Text(f"damage: noise over signal power at the worst output, over {table.rows} rows")
    )
    return Group(*parts)


def _bar(node: NodeSensitivity, worst: float) -> str:
    return "█" * round(_BAR * share_of_bar(node.damage, worst))
