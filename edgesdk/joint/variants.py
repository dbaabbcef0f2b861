"""The rows a pipeline is judged by: with all inputs, and with each optional one missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.errors import SamplesError
from edgesdk.files import sha256_json
from edgesdk.pipeline import Pipeline
from edgesdk.samples import INPUT_PREFIX, Samples, SampleSet
from edgesdk.sources import row_file
from edgesdk.workshop import Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Evaluation rows that all hold the same inputs.

    Attributes:
        missing: the input that none of them has; empty for all inputs there.
        samples: these rows; calibration rows are those of the pipeline.
    """

    missing: str
    samples: Samples

    @property
    def name(self) -> str:
        """For people, and in the subjects of floors."""
        return f"without {self.missing}" if self.missing else "all inputs"


def variants_of(workshop: Workshop, pipeline: Pipeline, samples: Samples) -> tuple[Variant, ...]:
    """All inputs first; then one variant for each optional input, its rows made by leaving it out.

    Rows that lack something of themselves are judged in the variant that lacks just that.

    Raises:
        SamplesError: no evaluation row holds all inputs, so nothing can be timed.
    """
    ports = pipeline.wiring.inputs
    names = [port.info.name for port in ports]
    optional = [port.info.name for port in ports if port.optional]
    if not optional:
        return (Variant(missing="", samples=samples),)
    lacking: dict[tuple[str, ...], list[int]] = {}
    for row, sample in zip(samples.evaluation.rows, samples.evaluation, strict=True):
        absent = tuple(name for name in names if name not in sample.inputs)
        lacking.setdefault(absent, []).append(row)
    whole = lacking.get((), [])
    if not whole:
        raise SamplesError(
            f"no evaluation row holds all inputs ({', '.join(names)}), so the whole pipeline cannot be "
            "timed; give rows that do"
        )
    full = _judging(samples, samples.folder, whole, "whole")
    found = [Variant(missing="", samples=full)]
    for name in optional:
        if len(names) > 1:
            own = lacking.get((name,), [])
            found.append(
                Variant(missing=name, samples=_without(workshop, samples, name, whole, own))
            )
    return tuple(found)


def _without(
    workshop: Workshop, samples: Samples, name: str, rows: Sequence[int], own: Sequence[int]
) -> Samples:
    key = workshop.cache.key("without", rows=samples.fingerprint, input=name)

    def build(folder: Path) -> None:
        for number, row in enumerate((*rows, *own)):
            arrays = load_arrays(row_file(samples.folder, row))
            left = {key: array for key, array in arrays.items() if key != f"{INPUT_PREFIX}{name}"}
            save_arrays(row_file(folder, number), left)

    folder = workshop.folder(key, build)
    shapes = {input_: shape for input_, shape in samples.uniform_shapes.items() if input_ != name}
    left = _judging(samples, folder, range(len(rows) + len(own)), name)
    return replace(left, uniform_shapes=shapes)


def _judging(samples: Samples, folder: Path, rows: Sequence[int], what: str) -> Samples:
    return replace(
        samples,
        fingerprint=sha256_json([samples.fingerprint, what, list(rows)]),
        folder=folder,
        evaluation=SampleSet(folder=folder, rows=tuple(rows)),
    )
