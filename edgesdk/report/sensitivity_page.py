"""The sensitivity table as a page: every node at every precision, the worst first, as bars."""

from __future__ import annotations

from edgesdk import __version__
from edgesdk.plan.damage import Additivity, NodeSensitivity, SensitivityTable
from edgesdk.report.damage import Bar, damage_bars
from edgesdk.report.markup import Markup, el
from edgesdk.report.page import page, section

_SHOWN = 40


def render_sensitivity(table: SensitivityTable, model: str, *, shown: int = _SHOWN) -> str:
    """The page; equal tables give equal bytes.

    Args:
        table: what was simulated.
        model: its name, for the title.
        shown: nodes of each precision, the worst first; the rest is counted.
    """
    title = f"What each node of {model} costs"
    note = (
        "Each node is quantized alone, all others stay float: its damage is the noise over the "
        f"signal power at the worst output of the model, over {table.rows} rows."
    )
    head = el(
        "header",
        el("p", "sensitivity, simulated", class_="title"),
        el("h1", title),
        el("p", note, class_="note"),
    )
    parts = (_precision(table, item, shown) for item in table.additivity)
    return page(title, head, *parts, footer=f"edgesdk {__version__}")


def _precision(table: SensitivityTable, together: Additivity, shown: int) -> Markup | None:
    nodes = table.at(together.precision)
    rest = len(nodes) - shown
    note = (
        f"All of them at once: {together.actual:.2e}; the sum of all: {together.predicted:.2e}."
        + (f" {rest} more nodes cost less." if rest > 0 else "")
    )
    plot = damage_bars(
        [_bar(node) for node in nodes[:shown]],
        f"damage at {together.precision}",
        note="SQNR at the node",
    )
    return section(together.precision, plot or el("p", "No node does any damage."), note)


def _bar(node: NodeSensitivity) -> Bar:
    return Bar(
        node=node.node,
        op=node.op,
        damage=node.damage,
        seen=node.measured,
        tone="passed",
        note=f"{node.sqnr_db:.1f} dB",
    )
