"""A bundle's files, in a folder or in a zip, behind one face. Believes nothing about either."""

from __future__ import annotations

import stat
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from edgesdk.bundle.paths import clash, path_problem
from edgesdk.errors import BundleError

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

MOST_FILES = 100_000
BOMB_BYTES = 64 << 20
"""A zip that unpacks to less is harmless whatever its ratio."""
BOMB_RATIO = 200
"""Weights compress below 2x and zeros above 1000x; a zip over both limits is refused."""


class Container(ABC):
    """Opened for reading. `sizes` has every file by path, with its size in bytes."""

    path: Path
    sizes: dict[str, int]

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """The bytes of one file of `sizes`; read them inside `explained`."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole of a small file.

        Raises:
            BundleError: it is longer than `limit` bytes, or damaged.
        """
        with self.explained(name), self.open(name) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise BundleError(f"{self.path}: {name} has more than {limit} bytes")
        return data

    @contextmanager
    def explained(self, name: str) -> Iterator[None]:
        """Turn what goes wrong while reading a file into a `BundleError` that names it."""
        try:
            yield
        except OSError as exc:
            raise BundleError(f"{self.path}: {name} cannot be read: {exc}") from exc

    def close(self) -> None:
        """Give back what is held open."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_container(path: Path) -> Container:
    """The bundle at a path.

    Raises:
        BundleError: nothing there, or something a bundle cannot be.
    """
    if path.is_dir():
        return FolderContainer(path)
    if path.is_file():
        return ZipContainer(path)
    raise BundleError(f"no bundle at {path}; give a bundle's folder or its zip")


class FolderContainer(Container):
    """A folder of plain files; links and special files are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes = {}
        with self.explained("the folder"):
            self._walk(path, "")

    def _walk(self, folder: Path, prefix: str) -> None:
        for item in sorted(folder.iterdir()):
            name = prefix + item.name
            mode = item.lstat().st_mode
            if stat.S_ISDIR(mode):
                self._walk(item, name + "/")
            elif stat.S_ISREG(mode):
                self.sizes[name] = item.lstat().st_size
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                raise BundleError(f"{self.path}: {name} is {kind}; a bundle has regular files only")
            if len(self.sizes) > MOST_FILES:
                raise BundleError(f"{self.path}: more than {MOST_FILES} files")

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")


class ZipContainer(Container):
    """A zip whose directory has been checked before anything is unpacked."""

    def __init__(self, path: Path) -> None:
        import zipfile

        self.path = path
        with self.explained("the zip"):
            self._zip: ZipFile = zipfile.ZipFile(path)
        try:
            with self.explained("the zip"):
                self._infos = _checked(path, self._zip)
        except BundleError:
            self._zip.close()
            raise
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def open(self, name: str) -> IO[bytes]:
        with self.explained(name):
            return self._zip.open(self._infos[name])

    @contextmanager
    def explained(self, name: str) -> Iterator[None]:
        import struct
        import zipfile

        # What the standard library raises on damaged zips; found by tests that damage them.
        damage = (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            struct.error,
            OSError,
        )
        try:
            yield
        except damage as exc:
            raise BundleError(
                f"{self.path}: {name} cannot be read as part of a zip: {exc}"
            ) from exc

    def close(self) -> None:
        self._zip.close()


def _checked(path: Path, archive: ZipFile) -> dict[str, ZipInfo]:
    """The files of a zip by name, after refusing everything that unpacking must not meet."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MOST_FILES:
        raise BundleError(f"{path}: more than {MOST_FILES} files")
    for info in infos:
        problem = _entry_problem(info)
        if problem:
            raise BundleError(f"{path}: entry {info.filename!r} {problem}")
    twin = clash(info.filename for info in infos)
    if twin is not None:
        raise BundleError(
            f"{path}: entry {twin!r} is there twice, differs from another only in case, or is a "
            "folder of another"
        )
    total = sum(info.file_size for info in infos)
    if total > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
        raise BundleError(
            f"{path}: {path.stat().st_size} bytes that unpack to {total}: refused as a zip bomb"
        )
    return {info.filename: info for info in infos}


def _entry_problem(info: ZipInfo) -> str | None:
    problem = path_problem(info.orig_filename)
    if problem:
        return problem
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a symbolic link or a special file; a bundle has regular files only"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (0, 8):
        return f"is compressed by method {info.compress_type}; legal: 0 (stored), 8 (deflated)"
    return None
