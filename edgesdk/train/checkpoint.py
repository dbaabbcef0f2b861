"""The state of a training in a file, so that a killed one goes on from there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from edgesdk.train.objective import Labels
    from edgesdk.train.reader import OnnxModule
    from edgesdk.train.rows import Row
    from edgesdk.train.settings import Training

_FORMAT = 1
State = dict[str, Any]


def identity(
    modules: Sequence[OnnxModule], rows: Sequence[Row], labels: Labels, settings: Training
) -> str:
    """Hex digest of all that decides what training does: weights, rows, labels, settings."""
    told = asdict(settings) | {"frozen": sorted(settings.frozen)}  # sets have no order
    digest = hashlib.sha256(f"{_FORMAT} {torch.__version__} {sorted(told.items())}".encode())
    for module in modules:
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().numpy().tobytes())
        digest.update(" ".join(module.inner_names).encode())
    for row in rows:
        _update(digest, row)
    for name in sorted(labels):
        digest.update(name.encode())
        for label in labels[name]:
            _update(digest, {"label": label})
    return digest.hexdigest()


def _update(digest: Any, arrays: Mapping[str, Any]) -> None:
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())


def save(path: Path, state: State) -> None:
    """Write a state whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path | None, wanted: str) -> State | None:
    """The state of a training of that identity; None where there is none that can be read.

    Nothing is unpickled but tensors and plain values.
    """
    if path is None or not path.is_file():
        return None
    try:
        state: State = torch.load(path, weights_only=True)
    except Exception:  # torch raises what its readers raise; a damaged file is as good as none
        return None
    return state if isinstance(state, dict) and state.get("identity") == wanted else None
