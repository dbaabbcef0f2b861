"""Reading `.npz` files of strangers: nothing is unpickled, and rows are read one at a time."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgesdk.errors import SamplesError

Array = NDArray[np.generic]


def read_whole(path: Path) -> dict[str, Array]:
    """All arrays of a file by name.

    Raises:
        SamplesError: not an .npz file, damaged, or holding Python objects.
    """
    with _opened(path) as members:
        return {name: member.all_rows() for name, member in members.items()}


def read_rows(path: Path) -> Iterator[dict[str, Array]]:
    """One dict of arrays a row of the first axis; an array without axes belongs to every row.

    Only one row of each array is in memory (all of one that is stored in Fortran order).

    Raises:
        SamplesError: as `read_whole`; or arrays with differing numbers of rows.
    """
    with _opened(path) as members:
        counts = {name: m.shape[0] for name, m in members.items() if m.shape}
        if len(set(counts.values())) > 1:
            seen = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise SamplesError(
                f"{path}: {seen} rows; every array needs the same number along its first axis"
            )
        if not counts and members:
            raise SamplesError(
                f"{path}: no array has a first axis; its length is the number of samples"
            )
        readers = {name: member.rows() for name, member in members.items()}
        for _ in range(next(iter(counts.values()), 0)):
            yield {name: next(reader) for name, reader in readers.items()}


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, _Member]]:
    """The arrays of a file, headers read; damage met while reading on is explained too."""
    try:
        with zipfile.ZipFile(path) as archive, ExitStack() as stack:
            yield {
                info.filename.removesuffix(".npy"): _Member(
                    f"{path}: array {info.filename.removesuffix('.npy')!r}",
                    stack.enter_context(archive.open(info)),
                    info.file_size,
                )
                for info in archive.infolist()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as exc:
        raise SamplesError(f"{path} is not a readable .npz file: {exc}") from exc


class _Member:
    """One array of the archive, its header read."""

    def __init__(self, place: str, stream: IO[bytes], file_size: int) -> None:
        self.place = place
        self.stream = stream
        try:
            version = np.lib.format.read_magic(stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, self.fortran, self.dtype = read(stream)
        except KeyError as exc:
            raise SamplesError(f"{self.place} has an unknown header version") from exc
        except ValueError as exc:
            raise SamplesError(f"{self.place} has no readable header: {exc}") from exc
        if self.dtype.hasobject:
            raise SamplesError(
                f"{self.place} holds Python objects, which are never unpickled; store plain "
                "numbers or text, ragged samples as a folder with one .npz each"
            )

        # Python's integers do not overflow, so that no header can talk us into a wrong size.
        if (
            min(self.shape, default=0) < 0
            or math.prod(self.shape) * self.dtype.itemsize > file_size
        ):
            raise SamplesError(f"{place} is cut short: shape {list(self.shape)} is not all there")

    def all_rows(self) -> Array:
        """The whole array."""
        flat = self._read(math.prod(self.shape))
        return flat.reshape(self.shape, order="F" if self.fortran else "C")

    def rows(self) -> Iterator[Array]:
        """Its rows in order; without axes, the same value without end."""
        if not self.shape:
            value = self.all_rows()
            while True:
                yield value
        elif self.fortran and len(self.shape) > 1:
            yield from self.all_rows()
        else:
            size = math.prod(self.shape[1:])
            for _ in range(self.shape[0]):
                yield self._read(size).reshape(self.shape[1:])

    def _read(self, count: int) -> Array:
        wanted = count * self.dtype.itemsize
        content = self.stream.read(wanted) if wanted else b""
        if len(content) != wanted:
            raise SamplesError(f"{self.place} is cut short")
        return (
            np.frombuffer(content, dtype=self.dtype).copy()
            if wanted
            else np.empty(count, dtype=self.dtype)
        )
