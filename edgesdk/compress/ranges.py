"""The values that every activation takes over any number of rows, in memory that does not grow.

Rows are read and run one at a time; what a tensor held is counted and forgotten. The tensors come
out in groups of bounded size (`exposing`), one pass over the rows a group, and what was counted is
saved every so many rows: a process that is killed and started again goes on from there, and ends
with the same file, byte for byte.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.compress.calibration import RANGE_ROWS, evenly
from edgesdk.compress.exposing import Exposed, grouped
from edgesdk.compress.histogram import Array, Histogram, Tally
from edgesdk.errors import InputError, SamplesError
from edgesdk.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet

    Histograms = Mapping[str, Histogram]

_FORMAT = 1
GROUP_BYTES = 16 << 20
"""What comes out of one run beside what the run itself needs."""
_SAVED_EVERY = 64
_COMPARED = 64
"""Rows among which the largest is looked for, to size the groups by."""
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the float activations of a model held.

    Attributes:
        rows: how many were run.
        histograms: by tensor name; tensors that are one another rearranged share theirs.
    """

    rows: int
    histograms: Histograms

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: values that are no number or infinite, which no range covers."""
        strange = [(name, h) for name, h in self.histograms.items() if h.strange]
        if not strange:
            return ()
        shown = ", ".join(
            f"{name} ({h.nan} NaN, {h.below + h.above} infinite, {h.count} finite)"
            for name, h in strange[:_NAMED]
        )
        more = f" and {len(strange) - _NAMED} more" if strange[_NAMED:] else ""
        return (f"activations that are not finite everywhere, on {self.rows} rows: {shown}{more}",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    """Groups that are done, and the rows that are done of the next one."""

    group: int = 0
    row: int = 0
    counted: Histograms = field(default_factory=dict)


def observe(
    model: Path,
    samples: SampleSet,
    target: Path,
    *,
    most: int = RANGE_ROWS,
    checkpoint: Path | None = None,
    saved_every: int = _SAVED_EVERY,
) -> Observed:
    """Run the model on rows of the samples, and write what its float activations held to `target`.

    Args:
        model: what `prepare` wrote, or any ONNX file that onnxruntime loads.
        samples: rows; their shapes may vary.
        target: the file to write, `.npz`; the same model and rows give the same bytes.
        most: rows at most, spread evenly over the samples; at least 1.
        checkpoint: a file that keeps what was counted so far and is removed in the end; where it is
            there, the count goes on from it. Give different samples different names: one of another
            model or of other row numbers is ignored, but the content of the rows is not looked at.
        saved_every: rows between two saves, at least 1.

    Raises:
        SamplesError: there are no rows.
        Exception: whatever onnxruntime says about a model or a row that it cannot run.
    """
    rows = evenly(len(samples), most)
    if not rows:
        raise SamplesError("no rows to observe; give --samples")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exposed.") as scratch:
        exposed = Exposed(model, Path(scratch))
        groups = _groups(exposed, samples, rows)
        identity = sha256_json([_FORMAT, sha256_file(model), rows, groups])
        progress = _resumed(checkpoint, identity)
        while progress.group < len(groups):
            group = _Group(exposed, groups[progress.group])
            while progress.row < len(rows):
                stop = min(len(rows), progress.row + saved_every)
                part = group.count(samples, rows[progress.row : stop], progress.counted)
                progress = replace(progress, row=stop, counted={**progress.counted, **part})
                _save(checkpoint, progress, identity)
            progress = replace(progress, group=progress.group + 1, row=0)
            del group  # before the next one is opened
    _write(target, progress.counted, {"rows": len(rows), "same": dict(exposed.tensors.same)})
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return read_ranges(target)


def read_ranges(path: Path) -> Observed:
    """What `observe` wrote.

    Raises:
        InputError: not such a file, or damaged.
    """
    header, histograms = _read(path)
    for name, source in header["same"].items():
        histograms[name] = histograms[source]
    return Observed(rows=header["rows"], histograms=histograms)


class _Group:
    """Some tensors of a model, and the session that makes them."""

    def __init__(self, exposed: Exposed, names: Sequence[str]) -> None:
        self._fed = [name for name in names if name in exposed.tensors.inputs]
        self._made = [name for name in names if name in exposed.tensors.made]
        self._session = open_frugally(exposed.model_of(self._made)) if self._made else None

    def count(
        self, samples: SampleSet, rows: Sequence[int], before: Histograms
    ) -> dict[str, Histogram]:
        """What was counted before, and the values of these rows."""
        names = [*self._fed, *self._made]
        tallies = {name: Tally(before.get(name)) for name in names}
        for row in rows:
            feed = samples[row].inputs
            for name in self._fed:
                tallies[name].add(feed[name])
            for name, values in zip(self._made, self._run(feed), strict=True):
                tallies[name].add(values)
        return {name: tally.histogram() for name, tally in tallies.items()}

    def _run(self, feed: Mapping[str, Array]) -> list[Array]:
        return run(self._session, feed) if self._session is not None else []


def open_frugally(model: Path) -> Any:
    """An onnxruntime session that keeps no memory between runs, and leaves the graph as it is."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: Any, feed: Mapping[str, Array]) -> list[Array]:
    """All outputs of a session, in order; the feed may hold more than it takes."""
    taken = {value.name: feed[value.name] for value in session.get_inputs()}
    outputs: list[Array] = session.run(None, taken)
    return outputs


def _groups(exposed: Exposed, samples: SampleSet, rows: Sequence[int]) -> list[tuple[str, ...]]:
    return list(grouped(sizes_of(exposed, samples, rows), GROUP_BYTES))


def sizes_of(exposed: Exposed, samples: SampleSet, rows: Sequence[int]) -> dict[str, int]:
    """Bytes of tensors by name, as large as the largest of the rows makes them; 0 for what is fed."""
    some = [rows[place] for place in evenly(len(rows), _COMPARED)]
    largest = max(some, key=lambda row: sum(a.nbytes for a in samples[row].inputs.values()))
    tensors = exposed.tensors
    session = open_frugally(exposed.shapes_model())
    shapes = run(session, samples[largest].inputs) if tensors.made else []
    sizes = dict.fromkeys(tensors.inputs, 0)
    for (name, width), shape in zip(tensors.made.items(), shapes, strict=True):
        sizes[name] = width * math.prod(shape.tolist())
    return sizes


def _save(checkpoint: Path | None, progress: _Progress, identity: str) -> None:
    if checkpoint is not None:
        place = {"identity": identity, "group": progress.group, "row": progress.row}
        _write(checkpoint, progress.counted, place)


def _resumed(checkpoint: Path | None, identity: str) -> _Progress:
    """Where an earlier process was, if it did the same; else the beginning."""
    if checkpoint is None or not checkpoint.is_file():
        return _Progress()
    try:
        header, counted = _read(checkpoint)
    except InputError:
        return _Progress()
    if header.get("identity") != identity:
        return _Progress()
    return _Progress(group=header["group"], row=header["row"], counted=counted)


def _write(path: Path, histograms: Histograms, header: Mapping[str, Any]) -> None:
    """One file, whole or not at all; equal content gives equal bytes."""
    known = list(histograms.values())
    text = json.dumps({"format": _FORMAT, "names": list(histograms), **header})
    arrays: dict[str, Array] = {
        "header": np.frombuffer(text.encode(), np.uint8),
        "stops": np.cumsum([h.bins.size for h in known], dtype=np.int64),
        "bins": _joined([h.bins for h in known]),
        "counts": _joined([h.counts for h in known]),
        "extremes": np.array([(h.lowest, h.highest) for h in known], np.float64),
        "strange": np.array([(h.nan, h.below, h.above) for h in known], np.int64),
    }
    part = path.with_name(f".{path.name}.part")
    save_arrays(part, arrays)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)


def _joined(parts: Sequence[NDArray[np.int64]]) -> Array:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Histogram]]:
    arrays = load_arrays(path)
    try:
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != _FORMAT:
            raise InputError(f"{path} has format {header['format']}; legal: {_FORMAT}")
        names, stops = header["names"], arrays["stops"]
        if not names:
            return header, {}
        parts = zip(
            names,
            np.split(arrays["bins"].astype(np.int64), stops[:-1]),
            np.split(arrays["counts"].astype(np.int64), stops[:-1]),
            arrays["extremes"].reshape(-1, 2).tolist(),
            arrays["strange"].reshape(-1, 3).tolist(),
            strict=True,
        )
        histograms = {
            name: Histogram(
                bins=bins,
                counts=counts,
                lowest=lowest,
                highest=highest,
                nan=nan,
                below=below,
                above=above,
            )
            for name, bins, counts, (lowest, highest), (nan, below, above) in parts
        }
    except (KeyError, ValueError, TypeError) as exc:
        raise InputError(f"{path} is no file of observed ranges: {exc}") from exc
    return header, histograms
