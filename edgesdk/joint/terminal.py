"""The deploy of a pipeline in a terminal: what was tried end to end, each component, each modality."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesdk.joint.document import ComponentRow, FormRow, PipelineReport, VerdictRow, WholeRow
from edgesdk.report import words
from edgesdk.report.coverage import coverage_table

_STYLES = {"chosen": "bold green", "passed": "cyan", "failed": "red", "error": "red"}
_VERDICTS = {"pass": "green", "fail": "red", "undecided": "yellow"}


def render_pipeline(report: PipelineReport) -> RenderableType:
    """The view; tables fold to the width of the console."""
    return Group(
        Text(words.plain(report.headline), style="bold green" if report.chosen else "bold red"),
        *_titled("end to end", _wholes(report)),
        *_titled("components", _components(report)),
        *_titled("verdicts", _verdicts(report)),
        *_titled("stages, beside the float pipeline", _stages(report)),
        *_coverage(report),
        *_reasons(report),
        *(Text(words.plain(f"! {note}"), style="yellow") for note in report.notes),
    )


def damage_words(form: FormRow | None) -> str:
    """The share of a floor that a form alone uses up."""
    if form is None:
        return words.ABSENT
    if form.broken:
        return "breaks"
    return words.ABSENT if form.damage is None else f"{form.damage:.0%}"


def _titled(title: str, table: Table) -> Iterator[RenderableType]:
    if table.row_count:
        yield Text(f"\n{title}", style="dim")
        yield table


def _table(*columns: str, figures: int) -> Table:
    """The last `figures` columns hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for at, title in enumerate(columns):
        right = at >= len(columns) - figures
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    return table


def _wholes(report: PipelineReport) -> Table:
    table = _table("pipeline", "result", "speed", "p50 ms", "p95 ms", "size", "peak", figures=5)
    for row in report.wholes:
        table.add_row(
            _text(row.name),
            Text(row.status, style=_STYLES.get(row.status, "")),
            words.times(row.speedup),
            words.milliseconds(row.p50_ms),
            words.milliseconds(row.p95_ms),
            words.megabytes(row.size_bytes),
            words.mebibytes(row.peak_mib),
        )
    return table


def _components(report: PipelineReport) -> Table:
    table = _table("component", "recipe", "backend", "ms", "MB", "damage", figures=3)
    for row in report.components:
        form = row.form
        if form is not None:
            table.add_row(*_component(row, form))
    return table


def _component(row: ComponentRow, form: FormRow) -> Iterator[RenderableType]:
    yield _text(row.name)
    yield _text("original" if row.chosen == "original" else row.recipe)
    yield _text(row.backend)
    yield words.milliseconds(form.ms)
    yield words.megabytes(form.bytes).removesuffix(" MB")
    yield _text("none" if row.chosen == "original" else damage_words(form))


def _verdicts(report: PipelineReport) -> Table:
    table = _table("of", "verdict", "why", figures=0)
    rows: list[tuple[str, VerdictRow]] = [(row.name, row) for row in report.variants]
    rows += [(f"what follows from {row.name}", row) for row in report.modalities]
    for name, row in rows:
        verdict = Text(row.verdict, style=_VERDICTS.get(row.verdict, ""))
        table.add_row(_text(name), verdict, _text(row.reason))
    return table


def _stages(report: PipelineReport) -> Table:
    table = _table("stage", "output", "cosine", "agreement", figures=2)
    for row in report.stages:
        agreement = words.ABSENT if row.agreement is None else f"{row.agreement:.4f}"
        table.add_row(_text(row.stage), _text(row.output), words.cosine(row.cosine), agreement)
    return table


def _coverage(report: PipelineReport) -> Iterator[RenderableType]:
    yield Text("\ncalibration rows", style="dim")
    yield coverage_table(report.coverage)


def _reasons(report: PipelineReport) -> Iterator[RenderableType]:
    yield Text("")
    for row in report.wholes:
        yield _text(f"{row.name}: {_reason(row)}")


def _reason(row: WholeRow) -> str:
    expected = (
        f"; by single damages it uses up {row.expected:.0%} of a floor"
        if row.expected is not None
        else ""
    )
    return "; ".join((f"{row.reason}{expected}", *row.notes))


def _text(value: str) -> Text:
    return Text(words.plain(value), overflow="fold")
