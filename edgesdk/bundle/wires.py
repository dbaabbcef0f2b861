"""Tensors, what they are given, and loops, from the fields of a manifest."""

from __future__ import annotations

from edgesdk.bundle.fields import Field
from edgesdk.signature import Dim, TensorInfo
from edgesdk.wiring import (
    Carried,
    Fill,
    Give,
    InputPort,
    Loop,
    Origin,
    OutputPort,
    Presence,
    Slice,
    Stage,
    TensorSource,
    Wiring,
)

DTYPES = frozenset(
    {
        *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("int4", "int8", "int16", "int32", "int64"),
        *("uint4", "uint8", "uint16", "uint32", "uint64"),
        *("bool", "str", "object", "complex64", "complex128"),
    }
)
NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_NAME_WORDS = "letters, digits, _ and -"


def read_shape(field: Field) -> tuple[Dim, ...]:
    """Lengths, names of free axes, and null."""
    return tuple(_dim(item) for item in field.items())


def _dim(field: Field) -> Dim:
    if field.value is None:
        return None
    return field.text() if isinstance(field.value, str) else field.integer()


def read_tensor(field: Field) -> TensorInfo:
    """Name, dtype and shape."""
    return TensorInfo(
        name=field["name"].text(),
        dtype=field["dtype"].one_of(DTYPES),
        shape=read_shape(field["shape"]),
    )


def read_source(field: Field) -> TensorSource:
    """Component and tensor, and what is taken in its place."""
    component, fill = field["component"], field.get("fill")
    return TensorSource(
        component=None if component.value is None else component.text(),
        tensor=field["tensor"].text(),
        fill=read_fill(fill) if fill else None,
    )


def read_fill(field: Field) -> Fill:
    """A value and a shape."""
    value = field["value"]
    number = value.value if isinstance(value.value, bool) else value.number()
    whole = isinstance(value.value, int) and not isinstance(value.value, bool)
    return Fill(value=value.integer(-(2**63)) if whole else number, shape=_lengths(field["shape"]))


def _lengths(field: Field) -> tuple[int | str, ...]:
    return tuple(
        item.text() if isinstance(item.value, str) else item.integer() for item in field.items()
    )


def read_inputs(field: Field) -> tuple[tuple[TensorInfo, Origin], ...]:
    """Tensors, each with what it is given."""
    return tuple((read_tensor(item), _origin(item["from"])) for item in field.items())


def _origin(field: Field) -> Origin:
    """Which of the forms it is, its keys tell."""
    if field.get("value") is not None:
        return read_fill(field)
    if field.get("present") is not None:
        return Presence(of=read_source(field["present"]), shape=_lengths(field["shape"]))
    if field.get("each") is not None:
        return Slice(
            of=read_source(field["each"]),
            axis=field["axis"].integer(),
            length=field["length"].integer(1),
        )
    if field.get("start") is not None:
        return _carried(field)
    return read_source(field)


def _carried(field: Field) -> Carried:
    following, append, advance = (field.get(key) for key in ("next", "append", "advance"))
    return Carried(
        start=_either(field["start"]),
        next=read_source(following) if following else None,
        append=_either(append) if append else None,
        axis=field["axis"].integer() if append else 0,
        advance=advance.integer(-(2**31)) if advance else None,
    )


def _either(field: Field) -> TensorSource | Fill:
    return read_fill(field) if field.get("value") is not None else read_source(field)


def read_step(field: Field) -> Stage:
    """A processing step of the app."""
    return Stage(
        name=field["name"].match(NAME, _NAME_WORDS),
        inputs=read_inputs(field["inputs"]),
        outputs=tuple(read_tensor(item) for item in field["outputs"].items()),
    )


def read_loop(field: Field) -> Loop:
    """Components, when it ends, and what it gives."""
    steps = field["steps"]
    token, token_start = field["token"], field["token_start"]
    return Loop(
        name=field["name"].match(NAME, _NAME_WORDS),
        stages=tuple(item.text() for item in field["components"].items()),
        gives=tuple(_give(item) for item in field["gives"].items()),
        steps=None if steps.value is None else steps.integer(1),
        token=None if token.value is None else read_source(token),
        token_start=None if token_start.value is None else read_source(token_start),
        end=tuple(item.integer(-(2**31)) for item in field["end"].items()),
    )


def _give(field: Field) -> Give:
    join = field["join"]
    return Give(
        name=field["name"].text(),
        source=read_source(field["from"]),
        join=None if join.value is None else join.integer(),
    )


def read_wiring(field: Field) -> Wiring:
    """The inverse of `edgesdk.pipeline.wiring_json`."""
    return Wiring(
        inputs=tuple(_input(item) for item in field["inputs"].items()),
        stages=tuple(read_step(item) for item in field["components"].items()),
        outputs=tuple(
            OutputPort(
                info=read_tensor(item),
                source=read_source(item["from"]),
                optional=item["optional"].flag(),
            )
            for item in field["outputs"].items()
        ),
        loops=tuple(read_loop(item) for item in field["loops"].items()),
    )


def _input(field: Field) -> InputPort:
    fill = field["fill"]
    return InputPort(
        info=read_tensor(field),
        modality=field["modality"].text(empty=True),
        optional=field["optional"].flag(),
        fill=None if fill.value is None else read_fill(fill),
    )
