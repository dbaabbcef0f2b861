"""The part of the page about mixed precision: why which nodes are spared, expected and measured."""

from __future__ import annotations

from collections.abc import Sequence

from edgesdk.plan.culprits import Culprits
from edgesdk.plan.refined import NodeWorth, Refined, Tried
from edgesdk.report import words
from edgesdk.report.damage import Bar, damage_bars
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.markup import Markup, el

SHOWN = 24
"""Nodes of a form with the most damage; the rest is counted."""
_COUNTED = {"ms": "time", "MB": "size"}
"""Units in which gains are known, and what they are of."""
_TONES = {
    "chosen": "{} in the chosen form",
    "passed": "{} in another form that was tried",
    "not_better": "as the recipe says in all of them",
}


def refinements(report: DeployReport) -> list[Markup]:
    """For each form that was refined: its nodes as bars, and what was tried."""
    return [_refinement(report, item) for item in report.refined]


def _refinement(report: DeployReport, found: Refined) -> Markup:
    nodes = found.nodes[:SHOWN]
    title = f"what each node of {found.base} costs"
    plot = damage_bars(
        [_bar(report, found, node) for node in nodes],
        title,
        note="quantizing it" if found.unit in _COUNTED else "",
    )
    return el(
        "div",
        el("h3", el("code", found.base)),
        el("p", _summary(found), class_="note"),
        el("p", _search(found.mended, found.spared), class_="note") if found.mended else None,
        plot,
        _legend(report, found) if plot and found.tried else None,
        _tried(report, found) if found.tried else None,
    )


def _summary(found: Refined) -> str:
    rest = len(found.nodes) - SHOWN
    more = f" {rest} more cost less." if rest > 0 else ""
    saves = {
        "ms": "what quantizing it saves is from the engine's own times",
        "MB": "what quantizing it saves is its weights",
    }.get(found.unit, "this engine gives no times of nodes, so all count alike")
    return (
        f"What each node costs {found.how} ({found.precision}), over {found.rows} "
        f"rows; {saves}.{more}"
    )


def _search(mended: Culprits, spared: str) -> str:
    """How the culprits were found, check by check."""
    made = ", ".join(f"{len(e.kept)} {'pass' if e.good else 'fail'}" for e in mended.evaluations)
    if mended.keep is None:
        ended = "As many as may be while it can still win do not mend it."
    else:
        needed = "none of them can be left out" if mended.minimal else "perhaps not all are needed"
        ended = f"It is mended with {len(mended.keep)} of them; {needed}."
    return f"It did not pass the check. Tried with so many nodes {spared}: {made}. {ended}"


def _bar(report: DeployReport, found: Refined, node: NodeWorth) -> Bar:
    kept = [item for item in found.tried if node.node in item.rung.kept]
    is_chosen = any(item.name == report.chosen for item in kept)
    said = [why(node, found.unit), *(f"{found.spared} in {item.name}" for item in kept)]
    return Bar(
        node=node.node,
        op=node.op,
        damage=node.damage,
        seen=node.seen,
        tone="chosen" if is_chosen else "passed" if kept else "not_better",
        note=_saved(node, found.unit),
        said="\n".join(said),
    )


def why(node: NodeWorth, unit: str) -> str:
    """Where a node stands in the order of what to spare."""
    if unit not in _COUNTED:
        return f"{node.damage:.2g} of damage"
    if node.saved <= 0:
        return "quantizing it saves nothing"
    return f"{node.damage / node.saved:.2g} of damage for each {unit} that quantizing it saves"


def _saved(node: NodeWorth, unit: str) -> str:
    if unit not in _COUNTED:
        return ""
    return "saves nothing" if node.saved <= 0 else f"saves {words.milliseconds(node.saved)} {unit}"


def _legend(report: DeployReport, found: Refined) -> Markup:
    tones = {_bar(report, found, node).tone for node in found.nodes[:SHOWN]}
    keys = (
        el("span", said.format(found.spared), class_=f"badge s-{tone}")
        for tone, said in _TONES.items()
        if tone in tones
    )
    return el("p", *keys, class_="legend")


def _tried(report: DeployReport, found: Refined) -> Markup:
    """A line for the whole form, then one for each that spares some nodes."""
    cells = [_whole(report, found), *(_mixed(report, found, item) for item in found.tried)]
    body = (
        el(
            "tr",
            *(el("td", cell, class_="figure" if at > 1 else None) for at, cell in enumerate(row)),
            class_="chosen" if name == report.chosen else None,
        )
        for name, row in zip((found.base, *(t.name for t in found.tried)), cells, strict=True)
    )
    of = _COUNTED.get(found.unit, "time")
    titles = (
        *("form", "result", f"{found.spared} nodes", "error, expected", "error, measured"),
        *(f"{of}, expected", f"{of}, measured", "loss"),
    )
    head = el(
        "tr",
        *(el("th", title, class_="figure" if at > 1 else None) for at, title in enumerate(titles)),
    )
    table = el("table", el("thead", head), el("tbody", *body), class_="refined")
    return el("div", table, class_="scroll")


def _whole(report: DeployReport, found: Refined) -> Sequence[object]:
    row = report.row(found.base)
    name = el("div", el("code", found.base))
    measured = _measured(report, found, row, found.speedup)
    return (name, _result(row), "0", "100 %", "", "", measured, _loss(row))


def _mixed(report: DeployReport, found: Refined, item: Tried) -> Sequence[object]:
    row, kept = report.row(item.name), item.rung.kept
    name = el(
        "div",
        el("code", item.name),
        el("div", item.why, class_="why"),
        _listed(found, kept),
    )
    return (
        name,
        _result(row),
        str(len(kept)),
        _percent(item.rung.damage_left),
        _left(report.row(found.base), row),
        _expected(report, found, item),
        _measured(report, found, row, None),
        _loss(row),
    )


def _listed(found: Refined, kept: Sequence[str]) -> Markup:
    """The nodes that are spared, each with why, behind a click."""
    nodes = {node.node: node for node in found.nodes}
    items = (
        el("li", el("code", name), f": {why(nodes[name], found.unit)}")
        for name in kept
        if name in nodes
    )
    return el("details", el("summary", "which, and why"), el("ul", *items), class_="why")


def _result(row: Row | None) -> object:
    if row is None:
        return words.ABSENT
    return el(
        "span", words.STATUS_WORDS.get(row.status, row.status), class_=f"badge s-{row.status}"
    )


def _left(base: Row | None, row: Row | None) -> str:
    """Of small errors 1 - cosine is half of noise over signal power, so its shares are those."""
    if base is None or row is None or base.cosine is None or row.cosine is None:
        return words.ABSENT
    return _percent((1 - row.cosine) / (1 - base.cosine)) if base.cosine < 1 else words.ABSENT


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _expected(report: DeployReport, found: Refined, item: Tried) -> str:
    if found.unit not in _COUNTED:
        return words.ABSENT
    base = _size_or_time(report, found, report.row(found.base), found.speedup)
    if base is None:
        return f"{item.rung.extra:+.3g} {found.unit}"
    return f"{words.milliseconds(base + item.rung.extra)} {found.unit}"


def _measured(report: DeployReport, found: Refined, row: Row | None, speedup: float | None) -> str:
    value = _size_or_time(report, found, row, speedup)
    unit = "MB" if found.unit == "MB" else "ms"
    return words.ABSENT if value is None else f"{words.milliseconds(value)} {unit}"


def _size_or_time(
    report: DeployReport, found: Refined, row: Row | None, speedup: float | None
) -> float | None:
    """Megabytes, or milliseconds in the minutes in which the original was measured for the report.

    By the speedups, as these come from pairs measured beside each other.
    """
    if found.unit == "MB":
        return row.size_bytes / 1e6 if row and row.size_bytes is not None else None
    original = report.baseline_row.p50_ms if report.baseline_row else None
    speed = row.speedup.value if row and row.speedup else speedup
    return original / speed if original is not None and speed else None


def _loss(row: Row | None) -> str:
    return words.ABSENT if row is None or row.loss is None else f"{row.loss:.2g}"
