"""Golden samples: recorded runs, and how far a rerun may be off. Imports numpy on use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.errors import BundleError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

ROUNDING = 1e-4
"""Share of an output's largest magnitude by which CPUs and engine builds differ in float32: about
a thousand roundings of 6e-8 each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSample:
    """One recorded run; arrays by the names of the pipeline's inputs and outputs.

    Attributes:
        inputs: what was fed; optional ones may be missing, here and below.
        reference: what the float original gave.
        expected: what the bundled form gave.
    """

    inputs: Mapping[str, Array]
    reference: Mapping[str, Array]
    expected: Mapping[str, Array]


def deviation(got: Array, want: Array) -> float:
    """Largest absolute difference of two arrays; infinite when shapes, NaNs or strings differ."""
    import numpy as np

    if got.shape != want.shape:
        return float("inf")
    if got.size == 0:
        return 0.0
    if got.dtype.kind in "OUS" or want.dtype.kind in "OUS":
        return 0.0 if np.array_equal(got.astype(str), want.astype(str)) else float("inf")
    kind = np.complex128 if "c" in (got.dtype.kind, want.dtype.kind) else np.float64
    left, right = got.astype(kind), want.astype(kind)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(left - right))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart)))


def tolerance(samples: Sequence[GoldenSample], output: str) -> float:
    """How far a healthy rerun of an output may be off, in the output's own unit.

    As far as compression itself moved it from the float reference (another CPU may round every
    quantized value the other way), and at least `ROUNDING` of its largest finite magnitude.
    """
    import numpy as np

    moved, largest = 0.0, 0.0
    for sample in samples:
        if output not in sample.expected:
            continue
        expected = sample.expected[output]
        if expected.dtype.kind not in "fiucb" or expected.size == 0:
            continue
        apart = deviation(sample.reference[output], expected)
        moved = max(moved, apart if np.isfinite(apart) else 0.0)
        sizes = np.abs(expected.astype(np.complex128))
        finite = sizes[np.isfinite(sizes)]
        largest = max(largest, float(finite.max()) if finite.size else 0.0)
    return max(moved, ROUNDING * largest)


def write_golden(
    file: Path,
    sample: GoldenSample,
    inputs: Sequence[str],
    outputs: Sequence[str],
    optional: Collection[str] = (),
) -> None:
    """Write one sample as `.npz`, arrays named by position; the same sample gives the same bytes.

    Raises:
        BundleError: an array is missing or of a type that `.npz` cannot hold.
    """
    from edgesdk.arrays import save_arrays

    arrays: dict[str, Array] = {}
    parts = (("input", sample.inputs, inputs), ("reference", sample.reference, outputs))
    for word, found, names in (*parts, ("expected", sample.expected, outputs)):
        for index, name in enumerate(names):
            if name not in found and name in optional:
                continue
            if name not in found:
                has = sorted(found)
                raise BundleError(f"golden sample: no {word} array for {name!r}; has {has}")
            arrays[f"{word}.{index}"] = _plain(found[name], f"{word} {name!r}")
    save_arrays(file, arrays)


def _plain(array: Array, what: str) -> Array:
    """The array as .npz holds it without pickling: strings of fixed width instead of objects."""
    import numpy as np

    if array.dtype.kind == "O":
        return array.astype(np.str_)
    if array.dtype.kind == "V":
        raise BundleError(
            f"golden sample: {what} is {array.dtype}, which .npz does not hold; make it float32"
        )
    return array


def read_golden(
    file: Path, inputs: Sequence[str], outputs: Sequence[str], optional: Collection[str] = ()
) -> GoldenSample:
    """The inverse of `write_golden`; strings come back as arrays of objects, as engines take them.

    Raises:
        BundleError: not such a file.
    """
    from edgesdk.arrays import load_arrays

    try:
        found = load_arrays(file)
        parts = (("input", inputs), ("reference", outputs), ("expected", outputs))
        fed, reference, expected = (
            {
                name: _strings(found[f"{word}.{index}"])
                for index, name in enumerate(names)
                if name not in optional or f"{word}.{index}" in found
            }
            for word, names in parts
        )
        return GoldenSample(inputs=fed, reference=reference, expected=expected)
    except (InputError, KeyError) as exc:
        raise BundleError(f"golden sample {file.name} cannot be read: {exc}") from exc


def _strings(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind == "U" else array
