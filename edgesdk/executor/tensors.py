"""Tensors that the executor makes itself: fills, tokens, casts. Imports numpy on use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgesdk.signature import TensorInfo
from edgesdk.wiring import Fill, Key, Wiring

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]


class Lengths:
    """How long the named axes of this run are, and tensors of one value that are as long."""

    def __init__(self, wiring: Wiring, values: Mapping[Key, Array]) -> None:
        """Measure the pipeline's inputs that are there."""
        self._lengths: dict[str, int] = {}
        for port in wiring.inputs:
            array = values.get((None, port.info.name))
            if array is not None:
                for dim, length in zip(port.info.shape, array.shape, strict=True):
                    if isinstance(dim, str):
                        self._lengths.setdefault(dim, length)

    def full(self, fill: Fill, info: TensorInfo) -> Array:
        """A tensor of one value in the type of an input."""
        import numpy as np

        shape = [dim if isinstance(dim, int) else self._lengths[dim] for dim in fill.shape]
        return np.full(shape, fill.value, info.dtype)


def choose_token(array: Array) -> Array:
    """The token of each row as int64[batch, 1]: the largest logit of the last position, or what is there."""
    import numpy as np

    if array.dtype.kind == "f":
        if array.ndim == 3:
            array = array[:, -1]
        largest: Array = np.argmax(array, axis=-1).astype(np.int64)[:, np.newaxis]
        return largest
    return array.reshape(len(array), -1)[:, -1:].astype(np.int64)


def as_input(array: Array, info: TensorInfo) -> Array:
    """The array in the type of an input, which for tokens may be another integer."""
    return array if array.dtype.name == info.dtype else array.astype(info.dtype)
