"""A deploy as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping

from edgesdk.evidence import Evidence
from edgesdk.report import elsewhere, removed, words
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.fallback import fallback_on_page
from edgesdk.report.markup import Markup, el
from edgesdk.report.page import header, page, section
from edgesdk.report.plots import distributions, operations, tradeoff
from edgesdk.report.refinement import refinements
from edgesdk.report.sensed import sensed_on_page
from edgesdk.report.table import candidate_table


def render_html(report: DeployReport) -> str:
    """The page; equal reports give equal bytes."""
    numbers = {row.name: at for at, row in enumerate(words.in_order(report.rows), start=1)}
    return page(
        report.title,
        *_sections(report, numbers),
        footer=f"edgesdk {report.edgesdk}, {report.created}",
    )


def _sections(report: DeployReport, numbers: Mapping[str, int]) -> list[Markup | None]:
    return [
        header(report),
        _tiles(report),
        _warnings(report),
        _tradeoffs(report, numbers),
        section(
            "Candidates",
            candidate_table(report, numbers),
            "Click a column's title to sort by it. Cosine is that of the worst output.",
        ),
        _removed(report),
        _mixed(report),
        section(
            "Run times",
            distributions(report, numbers),
            "Warm runs: the line spans 5 to 95 %, the box the middle half, the tick is the median.",
        ),
        _operations(report),
        section(*fallback_on_page(report)),
        section(*sensed_on_page(report)),
        _elsewhere(report),
        _rejected(report),
        _facts(report),
        _evidence(report),
    ]


def _tiles(report: DeployReport) -> Markup | None:
    """The winner's figures, each with what the original has."""
    row, base = report.chosen_row, report.baseline_row
    if row is None:
        return None
    before = base if base is not None and base.name != row.name else None
    return el(
        "div",
        _tile(words.pace(report), words.times(row.speedup, bounds=False), _bounds(row, report)),
        _run_tile(report, row, before),
        _tile(
            "size",
            words.megabytes(row.size_bytes),
            words.megabytes(before.size_bytes) if before else None,
        ),
        _memory_tile(row, before),
        _quality_tile(row),
        class_="tiles",
    )


def _run_tile(report: DeployReport, row: Row, before: Row | None) -> Markup | None:
    if report.tells == "sizes":
        stated = f"{words.milliseconds(row.estimate_ms)} ms"
        return _tile("estimated run", stated, None) if row.estimate_ms else None
    if report.tells == "instructions":
        was = f"{words.millions(before.instructions)} million" if before else None
        return _tile("instructions of a run", f"{words.millions(row.instructions)} million", was)
    was = f"{words.milliseconds(before.p95_ms)} ms" if before else None
    return _tile("p95 of a run", f"{words.milliseconds(row.p95_ms)} ms", was)


def _memory_tile(row: Row, before: Row | None) -> Markup | None:
    if row.peak_mib is None:
        return None
    was = words.mebibytes(before.peak_mib) if before else None
    return _tile("peak memory", words.mebibytes(row.peak_mib), was)


def _tile(label: str, value: str, before: str | None) -> Markup:
    was = (
        el("span", before if before[:1] == "[" else f"was {before}", class_="was")
        if before
        else None
    )
    return el("div", el("span", label, class_="label"), el("b", value), was)


def _bounds(row: Row, report: DeployReport) -> str | None:
    bounds = words.times(row.speedup).partition(" ")[2]
    of = "over single runs" if report.tells == "instructions" else "at 95 %"
    return f"{bounds} {of}" if bounds else None


def _quality_tile(row: Row) -> Markup:
    if row.metrics:
        first = row.metrics[0]
        return _tile(first.name, f"{first.value:.4f}", f"{first.baseline:.4f}")
    return _tile("worst cosine", words.cosine(row.cosine), None)


def _warnings(report: DeployReport) -> Markup | None:
    if not report.warnings:
        return None
    return el("ul", *(el("li", warning) for warning in report.warnings), class_="warnings")


def _tradeoffs(report: DeployReport, numbers: Mapping[str, int]) -> Markup | None:
    """Two plots of which one is shown; on paper both are."""
    views = [
        (title, plot)
        for title, plot in (
            (words.pace(report).capitalize(), tradeoff(report, numbers, by="speed")),
            ("Size", tradeoff(report, numbers, by="size")),
        )
        if plot is not None
    ]
    if not views:
        return None
    parts: list[Markup] = []
    for at, (title, _) in enumerate(views):
        name = f"view-{at}"
        parts.append(el("input", type="radio", name="view", id=name, class_=name, checked=at == 0))
        parts.append(el("label", title, for_=name))
    parts += [el("div", plot, class_=f"view plot-{at}") for at, (_, plot) in enumerate(views)]
    note = (
        "Higher is closer to the original. Numbers are those of the table; the dashed line joins "
        "what nothing else beats in both. Point at a mark for its figures."
    )
    return section("What quality costs", el("div", *parts, _legend(report), class_="views"), note)


def _legend(report: DeployReport) -> Markup:
    shown = {row.status for row in report.rows if row.loss is not None}
    present = [status for status in words.STATUS_WORDS if status in shown]
    return el(
        "p",
        *(el("span", words.STATUS_WORDS[status], class_=f"badge s-{status}") for status in present),
        class_="legend",
    )


def _removed(report: DeployReport) -> Markup | None:
    """Every structural form that was measured, with what it brought."""
    found = [el("tr", el("td", el("code", n)), el("td", told)) for n, told in removed.lines(report)]
    table = el("table", el("tbody", *found), class_="pairs") if found else None
    note = "Fewer parameters are no aim by themselves: what brings nothing is undone."
    return section(removed.TITLE, table, note)


def _mixed(report: DeployReport) -> Markup | None:
    """Which nodes stay float, and why."""
    found = refinements(report)
    note = (
        "Nodes are spared in the order of the damage that quantizing them does for each "
        "millisecond (or megabyte) that it saves. What was expected of each form stands before "
        "what was measured; point at a node for its figures."
    )
    return section("Mixed precision", el("div", *found) if found else None, note)


def _operations(report: DeployReport) -> Markup | None:
    """Where the time goes, the original beside the winner."""
    rows = [row for row in (report.baseline_row, report.chosen_row) if row and row.node_times]
    rows = rows[:1] if len(rows) == 2 and rows[0].name == rows[1].name else rows
    plot = operations(rows)
    if plot is None:
        return None
    keys = [
        el("span", row.name, class_=f"badge s-{row.status if len(rows) > 1 else 'chosen'}")
        for row in rows
    ]
    placed = [el("li", f"{row.name}: {_placed(row)}") for row in rows if row.placement]
    content = el(
        "div", el("p", *keys, class_="legend"), plot, el("ul", *placed) if placed else None
    )
    note = "Milliseconds a run, from the engine's own profile, which slows the run a little."
    return section("Where the time goes", content, note)


def _placed(row: Row, most: int = 6) -> str:
    """The units with the most nodes, and how many nodes the others have."""
    counts = sorted(row.placement.items(), key=lambda item: -item[1])
    said = [f"{count} on {unit}" for unit, count in counts[:most]]
    rest = sum(count for _, count in counts[most:])
    return "nodes: " + ", ".join([*said, f"{rest} elsewhere"] if rest else said)


def _elsewhere(report: DeployReport) -> Markup | None:
    """What another processor computes, beside this machine."""
    lines = elsewhere.lines(report)
    said = [el("li", f"{name}: {text}") for name, text in elsewhere.remarks(report)]
    if not lines and not said:
        return None
    head = el("tr", *(el("th", title) for title in elsewhere.COLUMNS))
    rows = [
        el("tr", el("td", el("code", line.candidate)), *(el("td", cell) for cell in line.cells[1:]))
        for line in lines
    ]
    table = el("table", el("thead", head), el("tbody", *rows)) if lines else None
    content = el("div", el("ul", *said) if said else None, table, class_="scroll")
    return section(elsewhere.TITLE, content, elsewhere.note(report) if lines else "")


def _rejected(report: DeployReport) -> Markup | None:
    if not report.rejected:
        return None
    rows = [el("tr", el("td", item.name), el("td", item.reason)) for item in report.rejected]
    return section("Not tried", el("table", el("tbody", *rows), class_="pairs"))


def _facts(report: DeployReport) -> Markup:
    device = {"profile": report.profile, "device": report.profile_title, **report.environment}
    columns = [("Model", report.model), ("Device and run", device)]
    return el(
        "section",
        el("h2", "What was deployed, and where"),
        el("div", *(_fact_table(title, facts) for title, facts in columns), class_="columns"),
    )


def _fact_table(title: str, facts: Mapping[str, str]) -> Markup:
    rows = [el("tr", el("td", label), el("td", value)) for label, value in facts.items() if value]
    return el("div", el("h3", title), el("table", el("tbody", *rows), class_="pairs"))


def _evidence(report: DeployReport) -> Markup:
    """What the words about the figures mean; those that occur here are marked."""
    used = {row.evidence for row in report.rows if row.has_figures}
    rows = [
        el(
            "tr",
            el("td", el("b", kind.value) if kind in used else kind.value),
            el("td", words.EVIDENCE_WORDS[kind] + (" (figures here)" if kind in used else "")),
        )
        for kind in Evidence
    ]
    return el(
        "section",
        el("h2", "How the figures were obtained"),
        el("table", el("tbody", *rows), class_="pairs"),
    )
