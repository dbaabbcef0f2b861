"""Tensors of a CTranslate2 model file.

The layout, little endian, as `src/models/model.cc` of CTranslate2 reads it: uint32 version; string
specification; uint32 revision; uint32 count; for each tensor a string name, uint8 rank, uint32
lengths, uint8 type, uint32 bytes, and these. A string is uint16 length and that many bytes, the last
of them 0. Aliases that follow are not needed here.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_TYPES = ("float32", "int8", "int16", "int32", "float16")
_VERSION = 6


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors by name, in the types in which they are stored.

    Raises:
        ValueError: another version of the format, or a type that numpy lacks.
    """
    with path.open("rb") as stream:
        (version,) = _take(stream, "<I")
        if version > _VERSION:
            raise ValueError(f"{path.name} has version {version}; legal: up to {_VERSION}")
        _string(stream)
        _, count = _take(stream, "<II")
        return dict(_tensor(stream) for _ in range(count))


def _tensor(stream: BinaryIO) -> tuple[str, NDArray[Any]]:
    name = _string(stream)
    (rank,) = _take(stream, "<B")
    shape = _take(stream, f"<{rank}I")
    kind, size = _take(stream, "<BI")
    if kind >= len(_TYPES):
        raise ValueError(f"{name} is stored as type {kind}; legal: 0 to {len(_TYPES) - 1}")
    return name, np.frombuffer(stream.read(size), _TYPES[kind]).reshape(shape)


def _string(stream: BinaryIO) -> str:
    (length,) = _take(stream, "<H")
    return stream.read(length)[:-1].decode()


def _take(stream: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, stream.read(struct.calcsize(layout)))
