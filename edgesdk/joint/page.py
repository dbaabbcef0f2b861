"""The deploy of a pipeline as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edgesdk.joint.document import PipelineReport
from edgesdk.joint.terminal import damage_words
from edgesdk.report import words
from edgesdk.report.markup import Markup, el
from edgesdk.report.page import header, page, section


def render_page(report: PipelineReport) -> str:
    """The page; equal reports give equal bytes."""
    return page(
        report.title, *_sections(report), footer=f"edgesdk {report.edgesdk}, {report.created}"
    )


def _sections(report: PipelineReport) -> Iterator[Markup | None]:
    yield header(report)
    yield section(
        "End to end",
        _wholes(report),
        "Every combination ran on all evaluation rows, and was timed beside the float pipeline; peak memory "
        "is of the process that holds all components.",
    )
    yield section("Verdicts", _verdicts(report), "The worst floor decides, never an average.")
    yield section(
        "Stages",
        _stages(report),
        "Outputs of every stage in the compressed pipeline beside the float one: where the loss arises.",
    )
    for component in report.components:
        forms = _forms(report, component.name)
        note = (
            "Damage: the share of a floor of the pipeline that is used up with this form alone. "
            "Loss: 1 - cosine of the component's own outputs."
        )
        yield section(f"Component {component.name}", forms, note)
    yield section("Calibration rows", _coverage(report))
    if report.notes:
        yield section("Notes", el("ul", *(el("li", note) for note in report.notes)))


def _wholes(report: PipelineReport) -> Markup:
    titles = ("combination", "result", "speed", "p50 ms", "p95 ms", "size", "peak", "load ms")
    rows = []
    for row in report.wholes:
        forms = "; ".join(f"{name}: {form}" for name, form in row.forms.items())
        expected = (
            f"By single damages it uses up {row.expected:.0%} of a floor."
            if row.expected is not None
            else None
        )
        remarks = (row.reason, forms, expected, *row.notes)
        name = el(
            "div", el("code", row.name), *(el("div", it, class_="why") for it in remarks if it)
        )
        rows.append(
            (
                name,
                el("span", row.status, class_=f"badge s-{row.status}"),
                words.times(row.speedup),
                words.milliseconds(row.p50_ms),
                words.milliseconds(row.p95_ms),
                words.megabytes(row.size_bytes),
                words.mebibytes(row.peak_mib),
                words.milliseconds(row.load_ms),
            )
        )
    return _table(titles, rows)


def _verdicts(report: PipelineReport) -> Markup | None:
    rows = [(row.name, row.verdict, row.reason, f"{row.rows:,}") for row in report.variants]
    rows += [
        (f"what follows from {row.name}", row.verdict, row.reason, f"{row.rows:,}")
        for row in report.modalities
    ]
    return _table(("of", "verdict", "why", "rows"), rows) if rows else None


def _stages(report: PipelineReport) -> Markup | None:
    rows = [
        (
            row.stage,
            row.output,
            words.cosine(row.cosine),
            words.ABSENT if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
            words.ABSENT if row.agreement is None else f"{row.agreement:.4f}",
        )
        for row in report.stages
    ]
    return _table(("stage", "output", "cosine", "SQNR dB", "agreement"), rows) if rows else None


def _forms(report: PipelineReport, name: str) -> Markup:
    component = next(item for item in report.components if item.name == name)
    rows = []
    for form in component.forms:
        mark = " (chosen)" if form.name == component.chosen else ""
        rows.append(
            (
                el("div", el("code", form.name), mark, el("div", form.remark, class_="why")),
                words.milliseconds(form.ms),
                words.megabytes(form.bytes),
                words.ABSENT if form.loss is None else f"{form.loss:.2g}",
                "none" if form.name == "original" else damage_words(form),
                form.floor,
            )
        )
    return _table(("form", "ms", "size", "loss", "damage", "floor"), rows)


def _coverage(report: PipelineReport) -> Markup:
    rows = [
        (
            f"{item.component}.{item.input}" if item.component else item.input,
            ", ".join(item.modalities),
            str(item.rows),
            str(item.distinct),
            words.ABSENT if item.low is None else f"{item.low:.4g}",
            words.ABSENT if item.high is None else f"{item.high:.4g}",
            item.warning,
        )
        for item in report.coverage
    ]
    return _table(("input", "modality", "rows", "distinct", "from", "to", ""), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    head = el("tr", *(el("th", title) for title in titles))
    body = [el("tr", *(el("td", cell) for cell in row)) for row in rows]
    table = el("table", el("thead", head), el("tbody", *body))
    return el("div", table, class_="scroll")
