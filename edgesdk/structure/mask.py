"""The graph of full size in which chosen units are not heard: what the pruned graph must equal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.structure.copying import copy_model, put_array
from edgesdk.structure.units import Selection, Structure

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.structure.copying import Array


def mask(proto: onnx.ModelProto, structure: Structure, selection: Selection) -> onnx.ModelProto:
    """Set the weights that read the chosen units to zero.

    "Removed" is defined by this: every sum over a unit's channels (a convolution, a product, the recurrence
    of a cell) multiplies them by zero. What the units hold, and what is computed from it index by index, is
    left as it is and must only be finite. Where a unit is read without weights its group is not offered.

    Args:
        proto: with its weights; not changed.
        structure: what `find_groups` found in it.
        selection: the units to silence.

    Returns:
        A model of the same shapes.

    Raises:
        ModelError: the selection does not fit.
    """
    gone = structure.gone(selection)
    axes = structure.axes
    silenced = copy_model(proto)
    reading = {(reader.weight, reader.weight_axis) for reader in axes.readers}
    for name, axis in sorted(reading):
        atoms = axes.labels[name][axis]
        if atoms is not None and gone[axes.roots[atoms]].any():
            put_array(silenced, name, partial(_zeroed, kept=axes.kept(atoms, gone), axis=axis))
    return silenced


def _zeroed(values: Array, kept: NDArray[np.bool_], axis: int) -> Array:
    result = values.copy()
    np.moveaxis(result, axis, 0)[~kept] = 0
    return result
