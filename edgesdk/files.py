"""Writing so that nothing is ever half there, and knowing files by their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesdk.errors import OutputError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_bytes(folder: Path) -> int:
    """Size of all files below a folder; of the file itself when it is one."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all.

    Raises:
        OutputError: the place is not writable, or the disk is full; nothing is left behind.
    """
    with _explained(path):
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document whole or not at all.

    Raises:
        OutputError: as `write_text`.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it on success and vanishes on any failure.

    Raises:
        OutputError: the target exists and is not an empty folder, or cannot be written, or the disk is
            full; nothing is left behind.
    """
    with _explained(target):
        check_free_place(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            yield part
            part.chmod(0o755)
            if target.is_dir():
                target.rmdir()
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def check_free_place(target: Path) -> None:
    """Refuse a place that is taken or cannot be written, before any work is spent on it.

    Raises:
        OutputError: what is there, and what to do.
    """
    if target.exists():
        if not target.is_dir():
            raise OutputError(f"{target} exists and is not a folder; choose another --out")
        if any(target.iterdir()):
            raise OutputError(f"{target} is not empty; choose another --out or remove it")
    parent = next(folder for folder in (target, *target.parents) if folder.exists())
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise OutputError(f"{parent} is not writable; choose another --out")


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the operating system's complaint about an output place into ours."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"no space left to write {target}; nothing was kept") from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"{target} is not writable: {exc.strerror}") from exc
        raise
