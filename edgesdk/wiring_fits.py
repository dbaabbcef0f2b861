"""Does one tensor fit where another is wanted? Standard library only."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from edgesdk.errors import PipelineError
from edgesdk.signature import TensorInfo
from edgesdk.wiring import TOKEN_INFO, Fill

MOST_ELEMENTS = 1 << 28
"""Of a fill, in its fixed axes; a gigabyte of float32."""
_MOST_AXES = 32
INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
FLOATS = frozenset({"float16", "float32", "float64"})
_NUMBERS = INTEGERS | FLOATS | {"bool"}


def near(word: str, legal: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest legal word, else what is legal."""
    words = list(legal)
    close = get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; legal: {', '.join(words) or 'none'}"


def check_fill(fill: Fill, info: TensorInfo, what: str, free: Collection[object]) -> None:
    """Refuse a value that the dtype has not, an axis that is nowhere, and what is too large.

    `free` are the free axes of inputs that are always there.
    """
    if info.dtype not in _NUMBERS:
        raise PipelineError(f"{what} is {info.dtype}; a value can be given for numbers only")
    if info.dtype in INTEGERS | {"bool"} and fill.value != int(fill.value):
        raise PipelineError(f"{what} is {info.dtype} and cannot be {fill.value!r}")
    if info.dtype in INTEGERS:
        bits, signed = int(info.dtype.lstrip("uint")), info.dtype[0] == "i"
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if not low <= fill.value <= high:
            raise PipelineError(f"{what} is {info.dtype} and cannot be {fill.value!r}")
    lengths = [dim for dim in fill.shape if isinstance(dim, int)]
    too_large = max((math.prod(lengths), *lengths)) > MOST_ELEMENTS
    if too_large or len(fill.shape) > _MOST_AXES:
        raise PipelineError(
            f"{what}: a fill of shape {list(fill.shape)} is too large; at most {MOST_ELEMENTS} elements"
        )
    for dim in fill.shape:
        if isinstance(dim, str) and dim not in free:
            legal = sorted(str(name) for name in free if name)
            raise PipelineError(
                f"{what}: its shape {list(fill.shape)} names {dim!r}, no free axis of an input that "
                f"is always there{near(dim, legal)}"
            )
    shape = tuple(dim if isinstance(dim, int) else None for dim in fill.shape)
    made = TensorInfo(name="a fill", dtype=info.dtype, shape=shape)
    check_shape(made, info, what, "it comes from")


def check_dtype(found: TensorInfo, info: TensorInfo, what: str) -> None:
    """Refuse another dtype; a token is cast to any whole number."""
    if found is TOKEN_INFO and info.dtype in INTEGERS:
        return
    if found.dtype != info.dtype:
        raise PipelineError(
            f"{what} is {info.dtype}, but its source is {found.dtype}; export one of them with the "
            "other's type, or put a Cast between them"
        )


def check_shape(found: TensorInfo, info: TensorInfo, what: str, why: str) -> None:
    """Refuse another number of axes, and fixed lengths that differ."""
    if len(found.shape) != len(info.shape):
        raise PipelineError(
            f"{what} has {len(info.shape)} axes, {info}; {why} {found} with {len(found.shape)}; put a "
            "Reshape between them"
        )
    for axis, (have, want) in enumerate(zip(found.shape, info.shape, strict=True)):
        if isinstance(have, int) and isinstance(want, int) and have != want:
            raise PipelineError(
                f"{what}: axis {axis} has length {want}, {info}; {why} {found} with {have}; is it "
                "another tensor that belongs here?"
            )
