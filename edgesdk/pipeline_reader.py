"""From `pipeline.toml`, or the same as a dictionary, to a checked `Pipeline`; see `docs/pipelines.md`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesdk.errors import ModelError, PipelineError
from edgesdk.model import Model, read_model
from edgesdk.pipeline import Component, Pipeline
from edgesdk.pipeline_order import in_order
from edgesdk.pipeline_shapes import bind_shapes, unnamed
from edgesdk.pipeline_syntax import (
    References,
    Table,
    dtype,
    fill,
    flag,
    integer,
    integers,
    named_tables,
    shape,
    table,
    tensor,
    text,
    texts,
)
from edgesdk.pipeline_warnings import find_warnings
from edgesdk.signature import TensorInfo
from edgesdk.usercode import absolute_reference
from edgesdk.wiring import (
    TOKEN,
    TOKEN_INFO,
    Give,
    InputPort,
    Key,
    Loop,
    Origin,
    OutputPort,
    Stage,
    TensorSource,
    Wiring,
    give_info,
    reads,
)
from edgesdk.wiring_checks import check_wiring
from edgesdk.wiring_fits import near

SUFFIX = ".toml"
_TOP = ("name", "inputs", "components", "loops", "outputs")
_INPUT = ("modality", "dtype", "shape", "missing")
_COMPONENT = ("model", "function", "takes", "gives", "inputs")
_LOOP = ("components", "steps", "token", "token_start", "end", "gives")


def read_pipeline(path: Path) -> Pipeline:
    """The pipeline of a `.toml` file, or of one ONNX file.

    Raises:
        PipelineError: it cannot run as written; names the file, the component and the tensor.
        ModelError: an ONNX file cannot be used.
    """
    if path.suffix.lower() != SUFFIX:
        return Pipeline.of(read_model(path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise PipelineError(f"{path}: {exc}") from exc
    try:
        return make_pipeline({"name": path.absolute().parent.name, **document}, folder=path.parent)
    except PipelineError as exc:
        raise PipelineError(f"{path}: {exc}") from exc


def make_pipeline(document: Mapping[str, Any], *, folder: Path = Path()) -> Pipeline:
    """A pipeline from the tables of `pipeline.toml`.

    Args:
        document: in place of a file name, `model` may be a `Model`.
        folder: what file names are relative to.

    Raises:
        PipelineError: it cannot run as written; names the component and the tensor.
        ModelError: an ONNX file cannot be used.
    """
    top = table(document, "pipeline", _TOP)
    entries = named_tables(top.get("components", {}), "components")
    models: dict[str, Model] = {}
    functions: dict[str, str] = {}
    for name, value in entries.items():
        entry = table(value, f"components.{name}", _COMPONENT)
        if ("model" in entry) == ("function" in entry):
            raise PipelineError(f"components.{name} needs one of: model, function")
        if "model" in entry:
            models[name] = _model(entry, f"components.{name}", folder)
        else:
            functions[name] = _function(
                text(entry["function"], f"components.{name}.function"), folder
            )
    signatures = {name: _signature(name, entries[name], models.get(name)) for name in entries}
    ports = dict(table(top.get("inputs", {}), "inputs"))
    loops = named_tables(top.get("loops", {}), "loops")
    wired, made_loops = _wire(entries, signatures, ports, loops)
    stages = in_order(wired, made_loops)
    order = [stage.name for stage in stages]
    made_loops = tuple(
        replace(loop, stages=tuple(sorted(loop.stages, key=order.index))) for loop in made_loops
    )
    inputs = tuple(_input(str(name), value, stages) for name, value in ports.items())
    wiring = Wiring(inputs=inputs, stages=stages, loops=made_loops, outputs=())
    wiring = replace(wiring, outputs=tuple(_outputs(top.get("outputs"), wiring)))
    wiring = bind_shapes(wiring)
    check_wiring(wiring)
    return Pipeline(
        components=tuple(Component(name=n, model=models[n]) for n in order if n in models),
        given=wiring,
        functions=functions,
        name=text(top.get("name", "pipeline"), "name"),
        warnings=find_warnings(wiring),
    )


def _model(entry: Table, key: str, folder: Path) -> Model:
    value = entry["model"]
    for word in ("takes", "gives"):
        if word in entry:
            raise PipelineError(
                f"{key}.{word}: only a function says that; a model's file does itself"
            )
    if isinstance(value, Model):
        return value
    place = folder / text(value, f"{key}.model")
    if not place.is_file():
        there = sorted(file.name for file in folder.glob("*.onnx"))
        raise ModelError(f"{key}.model: there is no file {place}{near(place.name, there)}")
    return read_model(place.absolute())


def _function(reference: str, folder: Path) -> str:
    place, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier():
        raise PipelineError(
            f"function = {reference!r}; legal: 'module:function' or 'path/to/file.py:function'"
        )
    local = folder / place
    return absolute_reference(f"{local}:{name}" if local.is_file() else reference)


def _signature(
    name: str, entry: Table, model: Model | None
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    if model is not None:
        return model.inputs, model.outputs
    sides = []
    for word in ("takes", "gives"):
        key = f"components.{name}.{word}"
        if word not in entry:
            raise PipelineError(
                f"{key} is missing; a function says what it {word}: {{ x = 'float32[n, 3]' }}"
            )
        items = table(entry[word], key).items()
        sides.append(tuple(tensor(str(one), value, f"{key}.{one}") for one, value in items))
    return sides[0], sides[1]


_Signatures = Mapping[str, tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]]


def _wire(
    entries: Table, signatures: _Signatures, ports: Table, loops: Table
) -> tuple[list[Stage], tuple[Loop, ...]]:
    tensors = {name: [info.name for info in outputs] for name, (_, outputs) in signatures.items()}
    for name, value in loops.items():
        if name in tensors:
            raise PipelineError(f"loops.{name}: a component has that name; choose another")
        entry = table(value, f"loops.{name}", _LOOP)
        gives = table(entry.get("gives", {}), f"loops.{name}.gives")
        tensors[name] = [*map(str, gives), *([TOKEN] if "token" in entry else [])]
    references = References(list(ports), tensors)
    made = tuple(_loop(name, value, references, signatures) for name, value in loops.items())
    unit = {member: loop.name for loop in made for member in loop.stages}
    stages = []
    for name, (inputs, outputs) in signatures.items():
        key = f"components.{name}.inputs"
        given = table(entries[name].get("inputs", {}), key)
        legal = [info.name for info in inputs]
        for word in given:
            if word not in legal:
                raise PipelineError(
                    f"{key}: component {name!r} has no input {word!r}{near(word, legal)}"
                )
        wires: list[tuple[TensorInfo, Origin]] = []
        for info in inputs:
            if info.name in given:
                origin = references.origin(given[info.name], f"{key}.{info.name}")
            else:
                origin = _by_name(info, name, unit, references)
            wires.append((info, origin))
        stages.append(Stage(name=name, inputs=tuple(wires), outputs=outputs))
    return stages, made


def _by_name(
    info: TensorInfo, stage: str, unit: Mapping[str, str], references: References
) -> TensorSource:
    """The one tensor of the same name that the stage could read."""
    found: list[str | None] = [None] if info.name in references.inputs else []
    for made, names in references.tensors.items():
        visible = made not in unit or unit[made] == unit.get(stage)
        own = made in (stage, unit.get(stage))
        if info.name in names and visible and not own and info.name != TOKEN:
            found.append(made)
    sources = [TensorSource(component=made, tensor=info.name) for made in found]
    if len(sources) == 1:
        return sources[0]
    key = f"components.{stage}.inputs.{info.name}"
    if sources:
        several = " and ".join(
            str(source) if source.component else "an input" for source in sources
        )
        raise PipelineError(
            f"input {info.name!r} of component {stage!r} could come from {several}; say which: {key} = "
            f"{str(sources[0])!r}"
        )
    raise PipelineError(
        f"input {info} of component {stage!r} is wired to nothing; say what it gets: {key} = "
        "'component.tensor', the name of an input of the pipeline, or { value = 0 } for a constant"
    )


def _loop(name: str, entry: Table, references: References, signatures: _Signatures) -> Loop:
    key = f"loops.{name}"
    members = texts(entry.get("components"), f"{key}.components")
    for member in members:
        if member not in signatures:
            raise PipelineError(
                f"{key}: there is no component {member!r}{near(member, signatures)}"
            )
    gives = []
    for word, value in table(entry.get("gives", {}), f"{key}.gives").items():
        here = f"{key}.gives.{word}"
        given = table({"from": value} if isinstance(value, str) else value, here, ("from", "join"))
        if "from" not in given:
            raise PipelineError(f"{here} needs: from")
        source = given["from"]
        if source == TOKEN:
            found = TensorSource(component=name, tensor=TOKEN)
        else:
            found = references.source(source, f"{here}.from")
        join = integer(given["join"], f"{here}.join", 0) if "join" in given else None
        gives.append(Give(name=word, source=found, join=join))
    token, start = (
        references.source(entry[word], f"{key}.{word}") if word in entry else None
        for word in (TOKEN, "token_start")
    )
    return Loop(
        name=name,
        stages=members,
        gives=tuple(gives),
        steps=integer(entry["steps"], f"{key}.steps", 1) if "steps" in entry else None,
        token=token,
        token_start=start,
        end=integers(entry.get("end", []), f"{key}.end"),
    )


def _input(name: str, value: Any, stages: tuple[Stage, ...]) -> InputPort:
    key = f"inputs.{name}"
    entry = table({"modality": value} if isinstance(value, str) else value, key, _INPUT)
    if "modality" not in entry:
        raise PipelineError(f"{key}.modality is missing; legal: a word such as image, text, audio")
    readers = [
        info
        for stage in stages
        for info, origin in stage.inputs
        if any(source.key == (None, name) for source in reads(origin))
    ]
    if not readers:
        raise PipelineError(f"{key}: no component reads it; wire it to one, or leave it out")
    stated = shape(entry["shape"], f"{key}.shape") if "shape" in entry else None
    missing = entry.get("missing")
    if missing is not None and not isinstance(missing, Mapping) and missing != "skip":
        raise PipelineError(
            f"{key}.missing = {missing!r}; legal: 'skip', or {{ value = 0.0, shape = […] }}"
        )
    return InputPort(
        info=TensorInfo(
            name=name,
            dtype=dtype(entry["dtype"], f"{key}.dtype") if "dtype" in entry else readers[0].dtype,
            shape=stated if stated is not None else unnamed(name, len(readers[0].shape)),
        ),
        modality=text(entry["modality"], f"{key}.modality"),
        optional=missing is not None,
        fill=fill(missing, f"{key}.missing") if isinstance(missing, Mapping) else None,
    )


def _outputs(value: Any, wiring: Wiring) -> Iterator[OutputPort]:
    tensors = _visible(wiring)
    if not value:
        raise PipelineError(
            "outputs is empty; name what the pipeline gives: NAME = 'component.tensor'"
        )
    if isinstance(value, list | tuple):
        value = {name: _producer(name, tensors) for name in texts(value, "outputs")}
    by_component: dict[str, list[str]] = {}
    for component, name in tensors:
        if component is not None:
            by_component.setdefault(component, []).append(name)
    for stage in wiring.stages:  # those in loops are refused by the check, with better words
        by_component.setdefault(stage.name, [info.name for info in stage.outputs])
    references = References([port.info.name for port in wiring.inputs], by_component)
    for name, entry in table(value, "outputs").items():
        key = f"outputs.{name}"
        fields = table({"from": entry} if isinstance(entry, str) else entry, key,
                       ("from", "missing", "optional"))  # fmt: skip
        if "from" not in fields:
            raise PipelineError(f"{key} needs: from")
        plain = {word: fields[word] for word in fields if word != "optional"}
        source = references.filled(plain, key)
        made = tensors.get(source.key) or _inside(wiring, source)
        yield OutputPort(
            info=TensorInfo(name=str(name), dtype=made.dtype, shape=made.shape),
            source=source,
            optional=flag(fields.get("optional", False), f"{key}.optional"),
        )


def _inside(wiring: Wiring, source: TensorSource) -> TensorInfo:
    outputs = wiring.stage(str(source.component)).outputs
    return next(info for info in outputs if info.name == source.tensor)


def _producer(name: str, tensors: Mapping[Key, TensorInfo]) -> str:
    found = [f"{component}.{one}" for component, one in tensors if one == name and component]
    if len(found) == 1:
        return found[0]
    legal = [one for component, one in tensors if component]
    told = f" in {' and '.join(found)}; say which" if found else near(name, legal)
    raise PipelineError(
        f"outputs: {name!r} is made{told}" if found else f"outputs: no {name!r}{told}"
    )


def _visible(wiring: Wiring) -> dict[Key, TensorInfo]:
    """The tensors that can be read outside of loops."""
    tensors: dict[Key, TensorInfo] = {(None, port.info.name): port.info for port in wiring.inputs}
    inner: dict[Key, TensorInfo] = {
        (stage.name, info.name): info for stage in wiring.stages for info in stage.outputs
    }
    looped = {name for loop in wiring.loops for name in loop.stages}
    tensors |= {key: info for key, info in inner.items() if key[0] not in looped}
    for loop in wiring.loops:
        for give in loop.gives:
            made = TOKEN_INFO if give.source.tensor == TOKEN else inner.get(give.source.key)
            if made is not None:
                tensors[loop.name, give.name] = give_info(give, made)
    return tensors
