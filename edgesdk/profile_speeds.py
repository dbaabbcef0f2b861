"""Measured speeds in a profile: series of times by kind of operation, precision and size.

`edgesdk probe` measures them, `edgesdk.plan.cost` interpolates between them. A series is one
statement: it has one source and one date, and a child profile replaces it whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgesdk.errors import ProfileError
from edgesdk.profile_checks import Table, day, member, one_of, tables, text

SERIES_KEYS = ("name", "backend", "precision", "op", "threads", "source", "date", "points")

_ELEMENTS = ("elements",)
_UNARY = ("relu", "scale", "sigmoid", "gelu", "swish", "hardswish")
"""Element-wise kinds with one operand; `relu` stands for every cheap one, `scale` for a stored factor
or addend; `swish` is a value times its sigmoid, `hardswish` the same by clipping, in four nodes."""
ELEMENTWISE = ("add", *_UNARY)
"""`add` stands for every operation on two activations."""

KINDS: dict[str, tuple[str, ...]] = {
    "run": ("bytes",),
    "product": ("rows", "inner", "columns"),
    "batched": ("batch", "rows", "inner", "columns"),
    "conv": ("pixels", "inputs", "outputs", "taps"),
    "depthwise": ("pixels", "channels", "taps"),
    "lstm": ("steps", "inputs", "hidden"),
    "softmax": ("rows", "width"),
    "norm": ("rows", "width"),
    "gather": ("rows", "width"),
    "pool": ("elements", "taps"),
    "reduce": _ELEMENTS,
    "transpose": _ELEMENTS,
    "copy": _ELEMENTS,
    "reshape": _ELEMENTS,
    "border": _ELEMENTS,
    **dict.fromkeys(ELEMENTWISE, _ELEMENTS),
    **{f"{anchor}>{kind}": _ELEMENTS for anchor in ("conv", "product") for kind in ELEMENTWISE},
}
"""Kinds of operations, and what the sizes of a point mean.

`run` is one call of a session with next to nothing in it, by bytes in and out; `product` has a
weight, `batched` multiplies two activations; `border` is a QuantizeLinear with its
DequantizeLinear; `conv>add` is what an Add costs on top of the convolution that it follows.
"""

SPEED_PRECISIONS = ("fp32", "fp16", "bf16", "w8a8", "w8-dynamic", "w8-only", "w4-only")
"""What operations of a series compute in; the words of capability tables."""

_MOST = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Times of one kind of operation at several sizes.

    Attributes:
        name: unique in the profile.
        backend: the engine that was measured.
        precision: one of `SPEED_PRECISIONS`.
        op: one of `KINDS`.
        threads: threads inside one run; at least 1.
        source: what measured it, with the engine's version.
        date: `YYYY-MM-DD`.
        points: sizes as `KINDS` names them, each above 0, then microseconds of one operation,
            0 or above.
    """

    name: str
    backend: str
    precision: str
    op: str
    threads: int
    source: str
    date: str
    points: tuple[tuple[float, ...], ...]


def read_speeds(document: Table, backends: list[str]) -> tuple[Speed, ...]:
    """The list `speeds` of a document.

    Args:
        document: a whole profile.
        backends: names of its runtimes.

    Raises:
        ProfileError: names the dotted key, what it holds and what is legal.
    """
    found = tables(document, "speeds", SERIES_KEYS)
    return tuple(_read_series(table, path, backends) for path, table in found)


def _read_series(table: Table, path: str, backends: list[str]) -> Speed:
    backend = text(table, "backend", path)
    member(backend, f"{path}.backend", backends)
    op = one_of(table, "op", path, KINDS)
    threads = table.get("threads")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ProfileError(f"{path}.threads = {threads!r}; legal: a whole number from 1")
    return Speed(
        name=text(table, "name", path),
        backend=backend,
        precision=one_of(table, "precision", path, SPEED_PRECISIONS),
        op=op,
        threads=threads,
        source=text(table, "source", path),
        date=day(table, path),
        points=_read_points(table, path, op),
    )


def _read_points(table: Table, path: str, op: str) -> tuple[tuple[float, ...], ...]:
    columns = (*KINDS[op], "microseconds")
    rows = table.get("points")
    legal = f"legal: at least one list [{', '.join(columns)}]"
    if not isinstance(rows, list | tuple) or not rows:
        raise ProfileError(f"{path}.points = {rows!r}; {legal}")
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple) or len(row) != len(columns):
            raise ProfileError(f"{path}.points[{number}] = {row!r}; {legal}")
        for column, value in zip(columns, row, strict=True):
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            fits = plain and (0 < value < _MOST or (column == "microseconds" and value == 0))
            if not fits:
                bound = "0 or above" if column == "microseconds" else "above 0"
                said = f"{path}.points[{number}]: {column} = {value!r}"
                raise ProfileError(f"{said}; legal: a number {bound}")
    return tuple(tuple(float(value) for value in row) for row in rows)
