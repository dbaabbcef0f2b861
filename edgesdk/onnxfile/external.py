"""External data: weights beside the model file, named by paths that a stranger wrote.

The rules follow the ONNX project's document "External Data Security": contained in the model's
folder, no symbolic link on the way, no hard link, opened without following links and looked at
again after opening, ranges inside the file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from edgesdk.errors import ModelError

_CHUNK = 1 << 20
# Absent on some systems, where the checks before opening must do.
_SAFE_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_MAX_DIGITS = 19
"""Of an offset or length: 2^63 has nineteen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalRange:
    """Where one tensor's data lies.

    Attributes:
        tensor: its name, for messages.
        location: the file as the model names it.
        offset: first byte.
        length: bytes the model states, or None.
        needed: bytes that the tensor's dims and type take.
    """

    tensor: str
    location: str
    offset: int
    length: int | None
    needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalFile:
    """One checked file of external data."""

    location: str
    size: int
    sha256: str


def parse_range(tensor: str, entries: list[tuple[str, str]], needed: int) -> ExternalRange:
    """The range that a tensor's `external_data` entries describe.

    Raises:
        ModelError: no or several locations, numbers that are none, a length that does not fit.
    """
    found: dict[str, str] = {}
    for key, value in entries:
        if key in found:
            raise ModelError(
                f"tensor {tensor!r} states its external {key!r} twice: {found[key]!r} and "
                f"{value!r}; readers would disagree: export the model again"
            )
        found[key] = value
    if "location" not in found:
        raise ModelError(f"tensor {tensor!r} is external but names no file; export it again")
    length = _number(tensor, "length", found["length"]) if "length" in found else None
    if length is not None and length != needed:
        raise ModelError(
            f"tensor {tensor!r} takes {needed} bytes, but states {length} bytes of external data; "
            "the model is damaged: export it again"
        )
    return ExternalRange(
        tensor=tensor,
        location=check_location(tensor, found["location"]),
        offset=_number(tensor, "offset", found.get("offset", "0")),
        length=length,
        needed=needed,
    )


def _number(tensor: str, key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
        raise ModelError(
            f"tensor {tensor!r} has the external {key} {value[:40]!r}; legal: 0 to 2^63"
        )
    return int(value)


def check_location(tensor: str, location: str) -> str:
    """The location, if it is a plain relative path that stays below the model's folder.

    Raises:
        ModelError: absolute, with `..`, a backslash, a drive or a control character.
    """
    parts = PurePosixPath(location).parts
    bad = (
        not parts
        or location.startswith("/")
        or "\\" in location
        or ".." in parts
        or bool(PureWindowsPath(location).drive)
        or not location.isprintable()
    )
    if bad:
        raise ModelError(
            f"tensor {tensor!r} keeps its data in {location[:200]!r}, which is not a plain path "
            "below the model's folder; legal: a relative path without '..' or backslash; "
            "put the data beside the model and export it again"
        )
    return location


def check_file(folder: Path, location: str, ranges: list[ExternalRange]) -> ExternalFile:
    """Check one external file, every range in it, and hash it in pieces.

    Raises:
        ModelError: missing, a link, not a regular file, or shorter than a tensor needs.
    """
    with _open_contained(folder, location) as stream:
        size = os.fstat(stream.fileno()).st_size
        for wanted in ranges:
            length = wanted.needed if wanted.length is None else wanted.length
            if wanted.offset + length > size:
                raise ModelError(
                    f"tensor {wanted.tensor!r} needs bytes {wanted.offset} to "
                    f"{wanted.offset + length} of {location!r}, which has {size}; "
                    "the file is truncated or belongs to another model"
                )
        digest = hashlib.sha256()
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return ExternalFile(location=location, size=size, sha256=digest.hexdigest())


def _open_contained(folder: Path, location: str) -> BinaryIO:
    """Open a file below the folder through no link of any kind."""
    path = folder
    try:
        for part in PurePosixPath(location).parts:
            path = path / part
            if path.is_symlink():
                raise ModelError(
                    f"external data {location!r} goes through the symbolic link {path}; "
                    "legal: real files only; copy the data there (`cp -L`)"
                )
        if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise ModelError(f"external data {location!r} lies outside {folder}")
        descriptor = os.open(path, _SAFE_FLAGS)
    except FileNotFoundError as exc:
        raise ModelError(
            f"external data {location!r} is missing in {folder}; "
            "keep the model's data files beside it"
        ) from exc
    except OSError as exc:
        raise ModelError(f"external data {path} cannot be read: {exc.strerror}") from exc
    facts = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(facts.st_mode):
        problem = "is not a regular file"
    elif facts.st_nlink > 1:
        problem = f"has {facts.st_nlink} hard links, so it may be another file in disguise"
    if problem:
        os.close(descriptor)
        raise ModelError(f"external data {path} {problem}; legal: a file of its own; copy it there")
    return os.fdopen(descriptor, "rb")
