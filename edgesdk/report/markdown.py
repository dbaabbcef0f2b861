"""A deploy as Markdown: for a pull request, a wiki, a log."""

from __future__ import annotations

from edgesdk.report import elsewhere, words
from edgesdk.report.document import DeployReport, Row


def render_markdown(report: DeployReport) -> str:
    """Headline, one table, reasons and notes; what users named is escaped."""
    lines = [f"## {_text(report.title)}", ""]
    head = f"**{_text(report.chosen)}**: " if report.chosen else "**Nothing chosen**: "
    lines += [head + _text(report.headline), "", *_table(report), ""]
    rejected = [f"- {_text(item.name)}: {_text(item.reason)}" for item in report.rejected]
    if rejected:
        lines += ["### Not tried", "", *rejected, ""]
    lines += _elsewhere(report)
    if report.warnings:
        lines += ["### To know", "", *(f"- {_text(note)}" for note in report.warnings), ""]
    return "\n".join(lines)


def _elsewhere(report: DeployReport) -> list[str]:
    """What another processor computes, beside this machine."""
    found = elsewhere.lines(report)
    said = [f"- {_text(name)}: {_text(text)}" for name, text in elsewhere.remarks(report)]
    if not found and not said:
        return []
    table = [
        _line(list(elsewhere.COLUMNS)),
        _line(["---", "---", "---:", "---:", "---:"]),
        *(_line([_text(cell) for cell in line.cells]) for line in found),
        "",
        _text(elsewhere.note(report)),
        "",
    ]
    return [f"### {elsewhere.TITLE}", "", *(table if found else []), *said, *([""] if said else [])]


def _table(report: DeployReport) -> list[str]:
    metrics = words.metric_names(report.rows)
    titles = ["candidate", "result", words.pace(report), *_figure_titles(report)]
    titles += [*_rows_title(report), "cosine", *metrics, "evidence", "why"]
    aligned = ["---", "---", *["---:"] * (len(titles) - 4), "---", "---"]
    rows = [_cells(row, metrics, report) for row in words.in_order(report.rows)]
    return [_line([_text(title) for title in titles]), _line(aligned), *map(_line, rows)]


def _figure_titles(report: DeployReport) -> list[str]:
    if report.tells == "sizes":
        return ["size", "estimated ms"]
    if report.tells == "instructions":
        return ["million instructions", "size"]
    return ["p50 ms", "p95 ms", "size", "peak"]


def _figures(row: Row, report: DeployReport) -> list[str]:
    if report.tells == "sizes":
        return [words.megabytes(row.size_bytes), words.milliseconds(row.estimate_ms)]
    if report.tells == "instructions":
        return [words.millions(row.instructions), words.megabytes(row.size_bytes)]
    return [
        words.milliseconds(row.p50_ms),
        words.milliseconds(row.p95_ms),
        words.megabytes(row.size_bytes),
        words.mebibytes(row.peak_mib),
    ]


def _rows_title(report: DeployReport) -> list[str]:
    """A column for how many rows were checked, where that differs."""
    return ["rows"] if words.some_stopped_early(report) else []


def _cells(row: Row, metrics: tuple[str, ...], report: DeployReport) -> list[str]:
    found = [words.metric_of(row, name) for name in metrics]
    name = _text(row.name)
    return [
        f"**{name}**" if row.name == report.chosen else name,
        words.STATUS_WORDS.get(row.status, _text(row.status)),
        words.times(row.speedup),
        *_figures(row, report),
        *(words.rows_seen(row) for _ in _rows_title(report)),
        words.cosine(row.cosine),
        *(words.metric(item) if item else words.ABSENT for item in found),
        str(row.evidence) if row.has_figures else words.ABSENT,
        _text(row.reason),
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: str) -> str:
    """Text that neither ends a table cell nor starts markup."""
    flat = " ".join(words.plain(text).split())
    for char in "\\`*_[]<>|#":
        flat = flat.replace(char, "\\" + char) if char not in "<>" else flat
    return flat.replace("<", "&lt;").replace(">", "&gt;")
