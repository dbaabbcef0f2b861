"""Reading a source of samples row by row: every row is checked, written, and forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesdk.arrays import save_arrays
from edgesdk.errors import SamplesError
from edgesdk.npz import read_rows, read_whole
from edgesdk.signature import TensorInfo
from edgesdk.usercode import did_you_mean, is_reference, load_object, user_code

Array = NDArray[np.generic]

LABEL = "label"


def row_file(folder: Path, row: int) -> Path:
    """Where a row is stored."""
    return folder / f"{row:06d}.npz"


class Reader:
    """Reads one source row by row, checks each row and writes it; keeps only digests."""

    def __init__(
        self, *, source: str, inputs: tuple[TensorInfo, ...], optional: Collection[str] = ()
    ) -> None:
        self.source = source
        self.optional = frozenset(optional)
        self.inputs = {info.name: info for info in inputs}
        self.digests: list[str] = []
        """Of each whole row, labels included."""
        self.contents: list[str] = []
        """Of each row's inputs; equal ones must not be on both sides of a split."""
        self.shapes: dict[str, set[tuple[int, ...]]] = {}
        self.labels: tuple[str, ...] | None = None

    def store(
        self, folder: Path, *, first: int, rows: Iterator[Mapping[str, Any]] | None = None
    ) -> None:
        """Write every row to `folder`, numbered from `first`."""
        for number, (where, raw) in enumerate(_named_rows(self.source, rows)):
            inputs, labels = self._check(raw, where)
            arrays = {f"input.{name}": array for name, array in inputs.items()}
            self.contents.append(_digest(arrays))
            arrays |= {f"label.{name}": array for name, array in labels.items()}
            self.digests.append(_digest(arrays))
            save_arrays(row_file(folder, first + number), arrays)
        if not self.digests:
            raise SamplesError(f"{self.source} has no samples; at least 1 is needed")

    def _check(self, raw: object, where: str) -> tuple[dict[str, Array], dict[str, Array]]:
        if not isinstance(raw, Mapping):
            raise SamplesError(
                f"{where} is a {type(raw).__name__}; expected a dict from input names to arrays"
            )
        self._check_names([str(name) for name in raw], where)
        inputs = {}
        labels = {}
        for name, value in raw.items():
            array = _plain_array(name, value, where)
            if name in self.inputs:
                inputs[name] = _fitted(array, self.inputs[name], where)
                self.shapes.setdefault(name, set()).add(inputs[name].shape)
            else:
                labels[name.removeprefix(f"{LABEL}.")] = array
        names = tuple(sorted(labels))
        if self.labels is None:
            self.labels = names
        elif self.labels != names:
            raise SamplesError(
                f"{where} has the labels {list(names)}, the first row has {list(self.labels)}; "
                "every row needs the same"
            )
        return inputs, labels

    def _check_names(self, names: list[str], where: str) -> None:
        legal = (*self.inputs, LABEL)
        for name in names:
            if name not in legal and not (name.startswith(f"{LABEL}.") and name != f"{LABEL}."):
                raise SamplesError(
                    f"{where}: the model has no input {name!r}{did_you_mean(name, legal)} "
                    f"Legal: {', '.join(self.inputs)}, {LABEL}, {LABEL}.<name>"
                )
        missing = [n for n in self.inputs if n not in names and n not in self.optional]
        if missing:
            raise SamplesError(
                f"{where}: input {missing[0]!r} is missing; the model takes "
                f"{', '.join(str(info) for info in self.inputs.values())}"
            )


def _named_rows(
    source: str, rows: Iterator[Mapping[str, Any]] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row of a source, with words that say where it is."""
    path = Path(source)
    if rows is not None:
        yield from ((f"{source}, row {i}", row) for i, row in enumerate(rows))
    elif path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise SamplesError(f"folder {path} holds no .npz files; put one sample in each")
        yield from ((str(file), read_whole(file)) for file in files)
    elif path.is_file():
        yield from ((f"{path}, row {i}", row) for i, row in enumerate(read_rows(path)))
    elif is_reference(source):
        function = load_object(source)
        with user_code(source):
            made = iter(function())
        yield from _from_user(source, made)
    else:
        raise SamplesError(
            f"no samples at {source!r}; give an .npz file, a folder of them, module:function or "
            "path/to/file.py:function"
        )


def _from_user(source: str, made: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    number = 0
    while True:
        with user_code(source):
            try:
                row = next(made)
            except StopIteration:
                return
        yield f"{source}, row {number}", row
        number += 1


def _plain_array(name: str, value: object, where: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise SamplesError(f"{where}: {name!r} is no array: {exc}") from exc
    if array.dtype.hasobject:
        raise SamplesError(
            f"{where}: {name!r} holds Python objects; legal are arrays of numbers, bools and text"
        )
    return array


def _fitted(array: Array, info: TensorInfo, where: str) -> Array:
    """The array with its batch axis, if it is what the input takes."""
    if array.dtype.name != info.dtype:
        raise SamplesError(
            f"{where}: {info.name!r} has dtype {array.dtype.name}, the model takes {info.dtype}; "
            f"convert it with .astype({info.dtype!r})"
        )
    if array.ndim == len(info.shape) - 1:
        array = array[np.newaxis]
    problem = info.mismatch(array.dtype.name, array.shape)
    if problem:
        raise SamplesError(f"{where}: {problem}")
    if array.size == 0:
        raise SamplesError(f"{where}: {info.name!r} is empty, shape {list(array.shape)}")
    if array.dtype.kind in "fc":
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            place = tuple(int(i) for i in bad[0])
            raise SamplesError(
                f"{where}: {info.name!r} holds {array[place]} at {list(place)} ({len(bad)} such "
                "values); every value must be finite"
            )
    # Native byte order and C layout, which is what engines take; a scalar stays a scalar.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _digest(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
