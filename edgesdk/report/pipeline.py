"""A pipeline drawn for the terminal: its parts from top to bottom, loops as boxes."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgesdk.pipeline import Pipeline
from edgesdk.signature import TensorInfo
from edgesdk.wiring import (
    Carried,
    Fill,
    InputPort,
    Loop,
    Origin,
    OutputPort,
    Presence,
    Slice,
    Stage,
    TensorSource,
)


def draw_pipeline(pipeline: Pipeline) -> RenderableType:
    """Inputs with modalities, components with what each input is given, loops, outputs, warnings."""
    wiring = pipeline.wiring
    parts: list[RenderableType] = [_inputs(wiring.inputs)]
    for part in wiring.parts():
        if isinstance(part, Stage):
            parts.append(_stage(pipeline, part))
        else:
            parts.append(_loop(pipeline, part))
    parts.append(_outputs(wiring.outputs))
    models = [component.model for component in pipeline.components]
    parts.append(
        Text(
            f"{len(models)} models, {sum(m.parameters for m in models):,} parameters, "
            f"{sum(m.file_bytes for m in models):,} bytes"
        )
    )
    parts += [Text.assemble(("! ", "yellow"), _clean(text)) for text in pipeline.warnings]
    return Group(*parts)


def _grid() -> Table:
    grid = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(overflow="fold")
    return grid


def _inputs(ports: tuple[InputPort, ...]) -> RenderableType:
    grid = _grid()
    for port in ports:
        words = port.modality or "-"
        if port.fill is not None:
            words += f", may be missing: then {_fill(port.fill)}"
        elif port.optional:
            words += ", may be missing"
        grid.add_row(_clean(str(port.info)), _clean(words))
    return Panel(grid, title="inputs", title_align="left", border_style="cyan")


def _outputs(ports: tuple[OutputPort, ...]) -> RenderableType:
    grid = _grid()
    for port in ports:
        words = f"← {_source(port.source)}" + (", may be missing" if port.optional else "")
        grid.add_row(_clean(str(port.info)), _clean(words))
    return Panel(grid, title="outputs", title_align="left", border_style="cyan")


def _stage(pipeline: Pipeline, stage: Stage) -> RenderableType:
    grid = _grid()
    for info, origin in stage.inputs:
        grid.add_row(_clean(str(info)), _clean(f"← {_origin(origin)}"))
    for info in stage.outputs:
        grid.add_row(_clean(f"→ {info}"), "")
    title = Text.assemble((stage.name, "bold"), "  ", _clean(_about(pipeline, stage.name)))
    return Panel(grid, title=title, title_align="left")


def _about(pipeline: Pipeline, name: str) -> str:
    if name in pipeline.functions:
        return f"step of the app, {pipeline.functions[name].rpartition('/')[2]}"
    model = pipeline.component(name).model
    return f"{model.parameters:,} parameters, {model.file_bytes:,} bytes"


def _loop(pipeline: Pipeline, loop: Loop) -> RenderableType:
    inside = [_stage(pipeline, pipeline.wiring.stage(name)) for name in loop.stages]
    grid = _grid()
    for label, words in _rules(loop):
        grid.add_row(_clean(label), _clean(words))
    title = Text(f"loop {loop.name}", "bold")
    return Panel(Group(*inside, grid), title=title, title_align="left", border_style="magenta")


def _rules(loop: Loop) -> Iterator[tuple[str, str]]:
    if loop.token is not None:
        start = f", at first from {_source(loop.token_start)}" if loop.token_start else ""
        yield "token", f"chosen from {_source(loop.token)}{start}"
    ends = [f"after {loop.steps} steps"] if loop.steps is not None else []
    ends += [f"at token {', '.join(map(str, loop.end))}"] if loop.end else []
    yield "ends", " or ".join(ends) or "when nothing is left to go over"
    for give in loop.gives:
        how = "of the last step" if give.join is None else f"of all steps, along axis {give.join}"
        yield f"→ {give.name}", f"{_source(give.source)} {how}"


def _origin(origin: Origin) -> str:
    match origin:
        case TensorSource():
            return _source(origin)
        case Fill():
            return _fill(origin)
        case Presence():
            return f"1 if {_source(origin.of)} is there, else 0"
        case Slice():
            return f"each {origin.length} of {_source(origin.of)} along axis {origin.axis}"
    return _carried(origin)


def _carried(origin: Carried) -> str:
    start = _fill(origin.start) if isinstance(origin.start, Fill) else _source(origin.start)
    if origin.next is not None:
        return f"{start}, then {_source(origin.next)}"
    if origin.append is not None:
        more = origin.append
        added = _fill(more) if isinstance(more, Fill) else _source(more)
        return f"{start}, then with {added} behind it along axis {origin.axis}"
    return f"{start}, then its last + {origin.advance}"


def _source(source: TensorSource) -> str:
    return str(source) + (f", if missing {_fill(source.fill)}" if source.fill else "")


def _fill(fill: Fill) -> str:
    shape = TensorInfo(name="", dtype="", shape=fill.shape)
    return f"{fill.value:g}{str(shape)[2:]}" if fill.shape else f"{fill.value:g}"


def _clean(text: str) -> Text:
    """No markup and no control characters: names come from files."""
    return Text("".join(char if char.isprintable() else "\ufffd" for char in text))
