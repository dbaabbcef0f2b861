"""Files on their way to a worker: known by their hash, sent in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from edgesdk.farm.host import Piece
from edgesdk.files import sha256_file

_BYTES = 4 << 20
"""In one message."""


def bundles(files: Iterable[Path]) -> Iterator[list[Piece]]:
    """The contents of files, as many pieces together as fit into one message."""
    bundle: list[Piece] = []
    room = _BYTES
    for file in files:
        size, offset = file.stat().st_size, 0
        with file.open("rb") as stream:
            while offset < size or offset == 0:
                body = stream.read(room)
                bundle.append((hash_of(file), size, offset, body))
                offset += max(len(body), 1)
                room -= len(body)
                if room <= 0:
                    yield bundle
                    bundle, room = [], _BYTES
    if bundle:
        yield bundle


def hash_of(file: Path) -> str:
    """The SHA-256 of a file, read once while it does not change."""
    stat = file.stat()
    return _known_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _known_hash(file: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # another one is another file
    return sha256_file(file)
