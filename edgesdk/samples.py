"""Samples: real inputs with labels where there are any, split into calibration and evaluation.

A source is one of

- an `.npz` file: the first axis of every array is the sample;
- a folder of `.npz` files: one sample a file, in order of names, shapes may vary;
- `module:function` or `path/to/file.py:function`, yielding dicts of arrays.

Array names are the model's input names; `label` and `label.<name>` are labels. A sample may leave
out the batch axis: it is added where the array has one axis less than the model's input.

Every sample is checked and written once to a folder named by the fingerprint of them all, because
the steps that use them run in processes of their own.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgesdk.arrays import load_arrays
from edgesdk.errors import SamplesError
from edgesdk.files import new_folder, sha256_json
from edgesdk.signature import TensorInfo
from edgesdk.sources import Reader, row_file

Array = NDArray[np.generic]

CALIBRATION_SHARE = 0.2
CALIBRATION_MOST = 128
"""More rows than this change observed ranges little and cost time."""


INPUT_PREFIX = "input."
"""Arrays of stored rows are called `input.NAME` and `label.NAME`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample.

    Attributes:
        inputs: by input name, with batch axis.
        labels: by label name; the plain `label` is called `label`. Empty when there are none.
    """

    inputs: dict[str, Array]
    labels: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet(Sequence[Sample]):
    """Some of the stored rows; samples are read when they are asked for, never all at once."""

    folder: Path
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SampleSet(folder=self.folder, rows=self.rows[index])
        arrays = load_arrays(row_file(self.folder, self.rows[index]))
        return Sample(inputs=_part(arrays, INPUT_PREFIX), labels=_part(arrays, "label."))

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self.rows)):
            yield self[index]

    def subset(self, count: int) -> SampleSet:
        """At most `count` rows, evenly spread over this set, in order."""
        count = min(max(count, 0), len(self.rows))
        picked = tuple(self.rows[i * len(self.rows) // count] for i in range(count))
        return SampleSet(folder=self.folder, rows=picked)

    def paths(self) -> tuple[Path, ...]:
        """The stored files of the rows: `.npz`, arrays named `input.NAME` and `label.NAME`."""
        return tuple(row_file(self.folder, row) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a process that opens the same rows."""
        return {"folder": str(self.folder), "rows": list(self.rows)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(folder=Path(data["folder"]), rows=tuple(data["rows"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All rows of a source, checked, stored and split.

    Attributes:
        source: as the user gave it.
        fingerprint: hex digest of names, dtypes, shapes and content in order, and of the split.
        folder: where the rows are stored.
        calibration: rows to choose ranges by; empty when there is but one row, or none are real.
        evaluation: rows to judge by; none of them equals a calibration row.
        labels: names of the labels.
        uniform_shapes: each input's shape where all rows share it, else None.
        synthetic: made up from the signature; says nothing about real data.
        notes: what the user should know.
    """

    source: str
    fingerprint: str
    folder: Path
    calibration: SampleSet
    evaluation: SampleSet
    labels: tuple[str, ...]
    uniform_shapes: Mapping[str, tuple[int, ...] | None]
    synthetic: bool = False
    notes: tuple[str, ...] = ()


def read_samples(
    source: str,
    inputs: tuple[TensorInfo, ...],
    *,
    store: Path,
    calibration: int | None = None,
    calibration_source: str | None = None,
    seed: int = 0,
    optional: Collection[str] = (),
) -> Samples:
    """Check, store and split the samples of a source.

    Rows with equal inputs always land on the same side, so the numbers are kept as nearly as that
    allows. The side of a row depends on its content and the seed, not on its place.

    Args:
        source: see the top of this module.
        inputs: of the model.
        store: folder in which the samples' own folder is made, or found from an earlier time.
        calibration: rows for calibration; by default about a fifth, at least 1 and at most 128.
        calibration_source: take these from a source of their own; then all of `source` evaluates.
        seed: of the split.
        optional: inputs that rows may leave out; they have a uniform shape where those that hold them
            agree.

    Raises:
        SamplesError: a name, dtype, shape or value the model cannot take; names array and row.
        OutputError: `store` cannot be written.
    """
    plain = Reader(source=source, inputs=inputs, optional=optional)
    extra = None
    if calibration_source:
        extra = Reader(source=calibration_source, inputs=inputs, optional=optional)
    # Stored under a name of its own until the content, and so the fingerprint, is known.
    incoming = store / f"incoming-{uuid.uuid4().hex}"
    with new_folder(incoming) as part:
        plain.store(part, first=0)
        if extra:
            extra.store(part, first=len(plain.contents))
    try:
        if extra:
            sides = _two_sources(plain, extra, calibration, seed)
        else:
            sides = _split(plain.contents, calibration, seed)
        shapes = _merge([plain, *([extra] if extra else [])], inputs)
        rows = [plain.digests, extra.digests if extra else []]
        fingerprint = sha256_json([rows, [list(side) for side in sides]])
        folder = _settle(incoming, store / fingerprint)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    chosen, judged = sides
    notes = () if chosen else (_no_calibration_note(len(judged), calibration),)
    return Samples(
        source=source,
        fingerprint=fingerprint,
        folder=folder,
        calibration=SampleSet(folder=folder, rows=chosen),
        evaluation=SampleSet(folder=folder, rows=judged),
        labels=plain.labels or (),
        uniform_shapes=shapes,
        notes=notes,
    )


def synthesise(
    inputs: tuple[TensorInfo, ...],
    *,
    count: int,
    seed: int,
    store: Path,
    dims: Mapping[str, int] | None = None,
) -> Samples:
    """Inputs made up from the signature, for when there are no samples.

    Floats are standard normal, integers 0 or 1 (legal for any mask and any embedding table), bools
    fair coins. Nothing is ever calibrated on them, and quality on them says nothing of real data.

    Args:
        inputs: of the model.
        count: how many to make, at least 1.
        seed: equal seeds make equal inputs.
        store: as for `read_samples`.
        dims: lengths of axes that the model leaves open, by symbolic name or as `input.axis`; a
            first axis without an entry gets length 1.

    Raises:
        SamplesError: an open axis without a length, or a dtype that cannot be made up.
    """
    if count < 1:
        raise SamplesError(f"{count} synthetic samples; at least 1 is needed")
    shapes = {info.name: _closed(info, dims or {}) for info in inputs}
    rng = np.random.default_rng(seed)

    def rows() -> Iterator[dict[str, Array]]:
        for _ in range(count):
            yield {info.name: _random(info, shapes[info.name], rng) for info in inputs}

    reader = Reader(source="synthetic", inputs=inputs)
    incoming = store / f"incoming-{uuid.uuid4().hex}"
    with new_folder(incoming) as part:
        reader.store(part, first=0, rows=rows())
    try:
        fingerprint = sha256_json(["synthetic", reader.digests])
        folder = _settle(incoming, store / fingerprint)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return Samples(
        source="synthetic",
        fingerprint=fingerprint,
        folder=folder,
        calibration=SampleSet(folder=folder, rows=()),
        evaluation=SampleSet(folder=folder, rows=tuple(range(count))),
        labels=(),
        uniform_shapes=shapes,
        synthetic=True,
        notes=(
            "NO REAL SAMPLES: inputs were made up from the model's signature; quality on real "
            "data is unknown, and nothing is calibrated",
        ),
    )


def assumed_lengths(inputs: Sequence[TensorInfo]) -> dict[str, int]:
    """Lengths for open axes of made-up inputs, as `synthesise` takes them.

    1 for a first axis, 64 for the last two of four (images: most networks halve them five times or
    less), 16 for any other.
    """
    lengths: dict[str, int] = {}
    for info in inputs:
        for axis, dim in enumerate(info.shape):
            if not isinstance(dim, int):
                is_spatial = len(info.shape) == 4 and axis >= 2
                length = 1 if axis == 0 else 64 if is_spatial else 16
                lengths.setdefault(dim or f"{info.name}.{axis}", length)
    return lengths


def _split(
    contents: Sequence[str], wanted: int | None, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Calibration and evaluation rows; groups of equal inputs stay together."""
    groups: dict[str, list[int]] = {}
    for row, content in enumerate(contents):
        groups.setdefault(content, []).append(row)
    total = len(contents)
    if wanted is None:
        wanted = min(max(1, round(total * CALIBRATION_SHARE)), CALIBRATION_MOST)
        wanted = wanted if len(groups) > 1 else 0
    elif wanted < 0 or (wanted and (wanted >= total or len(groups) < 2)):
        raise SamplesError(
            f"{wanted} of {total} rows for calibration leaves none to evaluate; there are "
            f"{len(groups)} distinct rows, legal: 0 to {max(0, len(groups) - 1)}"
        )
    shuffled = sorted(groups, key=lambda content: sha256_json([seed, content]))
    chosen: list[int] = []
    for content in shuffled:
        if len(chosen) + len(groups[content]) <= wanted:
            chosen += groups[content]
    if wanted and not chosen:
        # Every group is larger than asked for: the smallest comes nearest.
        chosen = min((groups[content] for content in shuffled), key=len)
    picked = set(chosen)
    return tuple(sorted(picked)), tuple(row for row in range(total) if row not in picked)


def _two_sources(
    plain: Reader, extra: Reader, wanted: int | None, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Calibration rows from the second source, all of the first for evaluation."""
    known = {content: row for row, content in enumerate(plain.contents)}
    for row, content in enumerate(extra.contents):
        if content in known:
            raise SamplesError(
                f"{extra.source}, row {row} equals row {known[content]} of {plain.source}; "
                "calibration and evaluation must not share rows"
            )
    total = len(extra.contents)
    most = total if wanted is None else wanted
    if not 0 <= most <= total:
        raise SamplesError(f"{wanted} calibration rows of {extra.source}; legal: 0 to {total}")
    order = sorted(range(total), key=lambda row: sha256_json([seed, extra.contents[row]]))
    first = len(plain.contents)
    return tuple(sorted(first + row for row in order[:most])), tuple(range(first))


def _merge(
    readers: Sequence[Reader], inputs: tuple[TensorInfo, ...]
) -> dict[str, tuple[int, ...] | None]:
    """Each input's shape where all rows of all sources share it."""
    merged: dict[str, tuple[int, ...] | None] = {}
    for info in inputs:
        seen = set().union(*(reader.shapes.get(info.name, ()) for reader in readers))
        merged[info.name] = seen.pop() if len(seen) == 1 else None
    return merged


def _no_calibration_note(rows: int, wanted: int | None) -> str:
    why = "0 rows were asked for" if wanted == 0 else f"{rows} row(s), all alike, cannot be split"
    return f"no calibration rows ({why}): recipes that need calibration are left out"


def _settle(incoming: Path, final: Path) -> Path:
    """Move the stored rows to their final name, unless the same rows are there already."""
    if not final.is_dir():
        try:
            incoming.replace(final)
        except OSError:
            # Another process stored the same rows meanwhile.
            if not final.is_dir():
                raise
    return final


def _closed(info: TensorInfo, dims: Mapping[str, int]) -> tuple[int, ...]:
    shape = []
    for axis, dim in enumerate(info.shape):
        given = dims.get(f"{info.name}.{axis}", dims.get(dim) if isinstance(dim, str) else None)
        if isinstance(dim, int):
            shape.append(dim)
        elif given is not None or axis == 0:
            shape.append(given or 1)
        else:
            name = dim or f"{info.name}.{axis}"
            raise SamplesError(
                f"axis {axis} of input {info} is open; give real samples, or its length for "
                f"{name!r}"
            )
    return tuple(shape)


def _random(info: TensorInfo, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if info.dtype in ("float16", "float32", "float64"):
        return np.asarray(rng.standard_normal(shape)).astype(info.dtype)
    if info.dtype == "bool" or info.dtype.startswith(("int", "uint")):
        return np.asarray(rng.integers(0, 2, shape)).astype(info.dtype)
    raise SamplesError(f"no input of dtype {info.dtype} can be made up; give real samples")


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
