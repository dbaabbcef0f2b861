"""The words of `pipeline.toml`: each function takes a value of the parsed document and gives a typed one.

Every complaint names the dotted key, the value seen and what is legal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from edgesdk.errors import PipelineError
from edgesdk.signature import Dim, TensorInfo
from edgesdk.wiring import Carried, Fill, Origin, Presence, Slice, TensorSource
from edgesdk.wiring_fits import near

Table = Mapping[str, Any]

NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
DTYPES = frozenset(
    {"float16", "float32", "float64", "bool", "object"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_TENSOR = re.compile(r"\s*(\w+)\s*\[([^\[\]]*)\]\s*")


def table(value: Any, key: str, legal: Collection[str] | None = None) -> Table:
    """A table, with no keys but the legal ones where they are given."""
    if not isinstance(value, Mapping):
        raise PipelineError(f"{key} = {value!r}; legal: a table")
    if legal is not None:
        for word in value:
            if word not in legal:
                raise PipelineError(f"unknown key {key}.{word}{near(str(word), legal)}")
    return value


def named_tables(value: Any, key: str) -> dict[str, Any]:
    """A table of entries, each with a name of letters, digits, _ and -."""
    entries = table(value, key)
    for name in entries:
        if not re.fullmatch(NAME, str(name)):
            raise PipelineError(f"{key}: {name!r} is no name; legal: letters, digits, _ and -")
    return dict(entries)


def text(value: Any, key: str) -> str:
    """Text that is not empty and prints on one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise PipelineError(f"{key} = {value!r}; legal: text")
    return value


def flag(value: Any, key: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise PipelineError(f"{key} = {value!r}; legal: true, false")
    return value


def integer(value: Any, key: str, least: int | None = None) -> int:
    """A whole number."""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (least is not None and value < least)
    ):
        limit = "" if least is None else f" of at least {least}"
        raise PipelineError(f"{key} = {value!r}; legal: a whole number{limit}")
    return value


def integers(value: Any, key: str) -> tuple[int, ...]:
    """A whole number or a list of them."""
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple(integer(item, key) for item in entries)


def texts(value: Any, key: str) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, list | tuple):
        raise PipelineError(f"{key} = {value!r}; legal: a list of names")
    return tuple(text(item, key) for item in value)


def shape(value: Any, key: str) -> tuple[int | str, ...]:
    """A list of lengths and names of free axes."""
    if not isinstance(value, list | tuple):
        raise PipelineError(f"{key} = {value!r}; legal: a list such as [1, 3, 'height', 'width']")
    return tuple(
        text(dim, key) if isinstance(dim, str) else integer(dim, key, least=0) for dim in value
    )


def dtype(value: Any, key: str) -> str:
    """A numpy dtype by name; text is `object`."""
    word = text(value, key)
    if word not in DTYPES:
        raise PipelineError(f"{key} = {word!r}{near(word, sorted(DTYPES))}")
    return word


def tensor(name: str, value: Any, key: str) -> TensorInfo:
    """`float32[n, 3, 48, ?]`: a dtype, and lengths, names or ? of the axes."""
    match = _TENSOR.fullmatch(text(value, key))
    if match is None:
        raise PipelineError(f"{key} = {value!r}; legal: a tensor such as 'float32[n, 3, 48, ?]'")
    dims: list[Dim] = []
    for part in match[2].split(",") if match[2].strip() else []:
        word = part.strip()
        if not re.fullmatch(r"\?|\w+", word):
            raise PipelineError(
                f"{key} = {value!r}: {word!r} is no axis; legal: a length, name or ?"
            )
        dims.append(None if word == "?" else int(word) if word.isdecimal() else word)
    return TensorInfo(name=name, dtype=dtype(match[1], key), shape=tuple(dims))


def fill(value: Any, key: str) -> Fill:
    """`{ value = 0.0, shape = [1, 4] }`; without a shape, a scalar."""
    entries = table(value, key, ("value", "shape"))
    number = entries.get("value")
    if not isinstance(number, int | float):
        raise PipelineError(f"{key}.value = {number!r}; legal: a number, true or false")
    return Fill(value=number, shape=shape(entries.get("shape", []), f"{key}.shape"))


class References:
    """Turns `component.tensor`, `loop.give` and names of inputs into sources."""

    def __init__(self, inputs: Collection[str], tensors: Mapping[str, Collection[str]]) -> None:
        """Know the pipeline's inputs, and what every component and loop gives."""
        self.inputs = inputs
        self.tensors = tensors

    def source(self, value: Any, key: str) -> TensorSource:
        """The tensor that a text names."""
        word = text(value, key)
        if word in self.inputs:
            return TensorSource(component=None, tensor=word)
        component, dot, name = word.partition(".")
        if not dot:
            raise PipelineError(
                f"{key} = {word!r}: the pipeline has no input of that name"
                f"{near(word, [*self.inputs, *self._all()])}"
            )
        if component not in self.tensors:
            raise PipelineError(
                f"{key} = {word!r}: there is no component {component!r}"
                f"{near(component, self.tensors)}"
            )
        if name not in self.tensors[component]:
            raise PipelineError(
                f"{key} = {word!r}: component {component!r} has no output {name!r}"
                f"{near(name, self.tensors[component])}"
            )
        return TensorSource(component=component, tensor=name)

    def _all(self) -> list[str]:
        return [f"{name}.{tensor}" for name, tensors in self.tensors.items() for tensor in tensors]

    def origin(self, value: Any, key: str) -> Origin:
        """What a component's input is given."""
        if isinstance(value, str):
            return self.source(value, key)
        entries = table(value, key)
        if "value" in entries:
            return fill(entries, key)
        if "from" in entries:
            return self.filled(entries, key)
        if "present" in entries:
            table(entries, key, ("present", "shape"))
            return Presence(
                of=self.source(entries["present"], f"{key}.present"),
                shape=shape(entries.get("shape", []), f"{key}.shape"),
            )
        if "each" in entries:
            table(entries, key, ("each", "axis", "length"))
            return Slice(
                of=self.source(entries["each"], f"{key}.each"),
                axis=integer(entries.get("axis", 0), f"{key}.axis", 0),
                length=integer(entries.get("length", 1), f"{key}.length", 1),
            )
        if "start" in entries:
            return self._carried(entries, key)
        raise PipelineError(
            f"{key} = {dict(entries)!r}; legal: 'component.tensor', or a table with one of value, from, "
            "present, each, start"
        )

    def filled(self, entries: Table, key: str) -> TensorSource:
        """`{ from = "image.embedding", missing = { value = 0.0, shape = [1, 8] } }`."""
        table(entries, key, ("from", "missing"))
        found = self.source(entries["from"], f"{key}.from")
        missing = entries.get("missing")
        return TensorSource(
            component=found.component,
            tensor=found.tensor,
            fill=None if missing is None else fill(missing, f"{key}.missing"),
        )

    def _carried(self, entries: Table, key: str) -> Carried:
        table(entries, key, ("start", "next", "append", "axis", "advance"))
        start, append = entries["start"], entries.get("append")
        return Carried(
            start=self._either(start, f"{key}.start"),
            next=self.source(entries["next"], f"{key}.next") if "next" in entries else None,
            append=None if append is None else self._either(append, f"{key}.append"),
            axis=integer(entries.get("axis", 0), f"{key}.axis", 0),
            advance=integer(entries["advance"], f"{key}.advance") if "advance" in entries else None,
        )

    def _either(self, value: Any, key: str) -> TensorSource | Fill:
        return self.source(value, key) if isinstance(value, str) else fill(value, key)
