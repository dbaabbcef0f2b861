"""An ONNX file opened without its weights, after every check that a hostile file must not pass."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgesdk.errors import ModelError
from edgesdk.onnxfile.external import ExternalRange, check_file
from edgesdk.onnxfile.magic import HEAD_BYTES, describe_bytes
from edgesdk.onnxfile.wire import Walk

if TYPE_CHECKING:
    from onnx import ModelProto

_MAX_BYTES = 2**31 - 1
"""Protobuf's limit on one message (protobuf.dev, "Proto Limits"); runtimes stop there too."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """A checked file.

    Attributes:
        proto: the model without tensor data above 1 KiB; names, types and dims are all there.
        external_files: names relative to the model's folder, in the order in which it names them.
        file_bytes: the model file and its external files.
        sha256: of the model file; where there are external files, of the digests of all in order.
    """

    proto: ModelProto
    external_files: tuple[str, ...]
    file_bytes: int
    sha256: str


def open_onnx(path: Path) -> OnnxFile:
    """Check and open an ONNX file; its weights are neither parsed nor kept.

    Raises:
        ModelError: there is no such file, it is no ONNX model, it is damaged, or it wants what no
            honest model needs (data outside its folder, more bytes than there are, …).
    """
    with _opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        proto, externals = _parse(path, stream)
        digests = [_sha256(stream)]
    ranges: dict[str, list[ExternalRange]] = {}
    for one in externals:
        ranges.setdefault(one.location, []).append(one)
    try:
        files = [check_file(path.parent, location, wanted) for location, wanted in ranges.items()]
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    digests += [file.sha256 for file in files]
    joined = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()
    return OnnxFile(
        proto=proto,
        external_files=tuple(ranges),
        file_bytes=size + sum(file.size for file in files),
        sha256=joined if files else digests[0],
    )


def read_graph(path: Path) -> ModelProto:
    """The model without its weights; external data and hashes are left alone.

    Raises:
        ModelError: as `open_onnx`, but for external data.
    """
    with _opened(path) as stream:
        return _parse(path, stream)[0]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file of legal size; never waits on a pipe or device."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as exc:
        raise ModelError(f"no model at {path}; give the path of an .onnx file") from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read: {exc}") from exc
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise ModelError(f"{path} is {what}; give the path of an .onnx file")
    with os.fdopen(descriptor, "rb") as stream:
        if facts.st_size == 0:
            raise ModelError(f"{path} is empty; give an .onnx file")
        if facts.st_size > _MAX_BYTES:
            raise ModelError(
                f"{path} has {facts.st_size:,} bytes; an ONNX file holds at most {_MAX_BYTES:,}; "
                "export it with its weights in external data (onnx.save(model, path, "
                "save_as_external_data=True))"
            )
        yield stream


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(_CHUNK):
        digest.update(piece)
    return digest.hexdigest()


def _parse(path: Path, stream: BinaryIO) -> tuple[ModelProto, list[ExternalRange]]:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = Walk(data)
        try:
            proto: ModelProto = ModelProto.FromString(walk.strip())
        except (DecodeError, ValueError) as exc:
            raise _no_onnx(path, data, str(exc)) from exc
        except ModelError as exc:
            raise ModelError(f"{path}: {exc}") from exc
        if not proto.HasField("graph"):
            raise _no_onnx(path, data, "it has no graph")
    return proto, walk.externals


def _no_onnx(path: Path, data: mmap.mmap, why: str) -> ModelError:
    what, advice = describe_bytes(data[:HEAD_BYTES])
    return ModelError(f"{path} is no ONNX model but {what}; {advice} ({why})")
