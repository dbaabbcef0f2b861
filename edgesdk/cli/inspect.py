"""`edgesdk inspect`: the facts of a model, or of a whole pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesdk.cli.options import Json, ModelOrPipeline
from edgesdk.cli.output import emit, reported_errors
from edgesdk.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from edgesdk.model import Model

_TOP_OPS = 12

Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", help="Fix an input's shape to count its costs: x=1,3,48,320. Repeatable."
    ),
]


def inspect(model: ModelOrPipeline, shape: Shapes = None, as_json: Json = False) -> None:
    """Show what a model takes, returns, weighs and costs, or draw a pipeline; refuse what means harm."""
    from edgesdk.model import node_facts, read_model

    with reported_errors(as_json=as_json):
        if model.suffix.lower() == ".toml":
            _inspect_pipeline(model, shape, as_json=as_json)
            return
        shapes = dict(_parse_shape(text) for text in shape or ())
        facts = read_model(model)
        if shapes or all(info.is_static for info in facts.inputs):
            facts = replace(facts, nodes=node_facts(facts, shapes))
        emit(facts.to_json(), render_model(facts), as_json=as_json)


def _inspect_pipeline(path: Path, shape: list[str] | None, *, as_json: bool) -> None:
    from edgesdk.pipeline_reader import read_pipeline
    from edgesdk.report.pipeline import draw_pipeline

    if shape:
        raise InputError("--shape is for one model; name an ONNX file of the pipeline")
    pipeline = read_pipeline(path)
    emit(pipeline.to_json(), draw_pipeline(pipeline), as_json=as_json)


def render_model(model: Model) -> RenderableType:
    """The facts for people: a table, and what is worth a warning."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in _rows(model):
        table.add_row(label, _plain(value))
    warnings = (Text.assemble(("! ", "yellow"), _plain(text)) for text in _warnings(model))
    return Group(table, *warnings)


def _rows(model: Model) -> list[tuple[str, str]]:
    """Label and value; values come from the file and are not to be trusted with markup."""
    rows = [("model", str(model.path))]
    rows += [("input", str(info)) for info in model.inputs]
    rows += [("output", str(info)) for info in model.outputs]
    others = [f"{domain} {version}" for domain, version in model.domains.items() if domain]
    rows += [
        ("opset", ", ".join([str(model.opset), *others])),
        ("IR version", str(model.ir_version)),
        ("producer", model.producer or "-"),
        ("parameters", f"{model.parameters:,}"),
        ("weights", f"{model.weight_bytes:,} bytes"),
        ("files", f"{model.file_bytes:,} bytes"),
    ]
    if model.external_files:
        rows.append(("external data", ", ".join(model.external_files)))
    ops = list(model.op_histogram.items())
    shown = [f"{op} {count}" for op, count in ops[:_TOP_OPS]]
    if len(ops) > _TOP_OPS:
        shown.append(f"and {len(ops) - _TOP_OPS} more")
    rows += [
        ("MACs", _macs(model)),
        ("nodes", f"{len(model.nodes):,}: {', '.join(shown)}"),
        ("sha256", model.sha256),
    ]
    return rows


def _macs(model: Model) -> str:
    unknown = model.unknown_macs_nodes
    if unknown and not model.macs:
        return f"unknown: {unknown} nodes depend on the input shapes (--shape NAME=1,3,224,224)"
    note = f", and {unknown} nodes unknown" if unknown else ""
    return f"{model.macs:,}{note}"


def _warnings(model: Model) -> list[str]:
    from edgesdk.model import unknown_ops

    warnings = []
    unknown = unknown_ops(model)
    if unknown:
        warnings.append(
            f"operators that ONNX does not define at this opset: {', '.join(unknown)}; "
            "only an engine that brings them can run this model"
        )
    if model.has_control_flow:
        warnings.append("it has control flow (If, Loop or Scan), which some engines do not take")
    if model.has_rnn:
        warnings.append("it has recurrent layers, which some engines and quantizers do not take")
    return warnings


def _plain(text: str) -> Text:
    """Text as it stands: no markup, and no control characters that would steer a terminal."""
    return Text("".join(char if char.isprintable() else "\ufffd" for char in text))


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, dims = text.rpartition("=")
    lengths = dims.split(",") if dims else []
    if not equals or not all(one.isascii() and one.isdigit() for one in lengths):
        raise InputError(f"shape {text!r} does not parse; legal: NAME=1,3,224,224")
    return name, tuple(int(one) for one in lengths)
