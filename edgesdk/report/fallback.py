"""The nodes of the winner that are not on the unit that was wanted."""

from __future__ import annotations

from rich.console import RenderResult
from rich.table import Table
from rich.text import Text

from edgesdk.placement import OF, UnitShares, percent, shortened
from edgesdk.report import words
from edgesdk.report.document import DeployReport
from edgesdk.report.markup import Markup, el

_TITLES = ("node", "op", "unit", "share", "why")
_MOST_ON_PAGE, _MOST_IN_TERMINAL = 100, 8


def fallback_on_page(report: DeployReport) -> tuple[str, Markup | None, str]:
    """Title, table and note of the section; no table where all nodes are on the wanted unit."""
    row = report.scattered_row
    if row is None or row.shares is None:
        return "", None, ""
    shares = row.shares
    head = el("tr", *(el("th", title, class_=_kind(title)) for title in _TITLES))
    lines = [
        el("tr", *(el("td", cell, class_=_kind(t)) for t, cell in zip(_TITLES, line, strict=True)))
        for line in _lines(shares, _MOST_ON_PAGE, width=120)
    ]
    table = el("table", el("thead", head), el("tbody", *lines), class_="fallback")
    note = f"{row.name}: {shares} ({shares.evidence}). {_rest(shares, _MOST_ON_PAGE)}"
    return f"Not on {shares.wanted}", el("div", table, class_="scroll"), note


def fallback_in_terminal(report: DeployReport) -> RenderResult:
    """The same for a terminal, the nodes with the largest shares only."""
    row = report.scattered_row
    if row is None or row.shares is None:
        return
    shares = row.shares
    yield Text.assemble(
        (f"\nNot on {words.plain(shares.wanted)}", "bold"),
        f"  {words.plain(row.name)}: {words.plain(str(shares))} ({shares.evidence})",
    )
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in _TITLES:
        table.add_column(title, justify="right" if title == "share" else "left", overflow="fold")
    for line in _lines(shares, _MOST_IN_TERMINAL, width=40):
        table.add_row(*(Text(words.plain(cell)) for cell in line))
    yield table
    rest = _rest(shares, _MOST_IN_TERMINAL)
    if rest:
        yield Text(rest, style="dim")


def _lines(shares: UnitShares, most: int, *, width: int) -> list[tuple[str, ...]]:
    return [
        (shortened(one.node, width), one.op, one.unit, percent(one.share), one.why or "not told")
        for one in shares.elsewhere[:most]
    ]


def _rest(shares: UnitShares, most: int) -> str:
    left = shares.elsewhere[most:]
    if not left:
        return ""
    return f"{len(left)} more with {percent(sum(one.share for one in left))} {OF[shares.by]}."


def _kind(title: str) -> str | None:
    return "figure" if title == "share" else None
