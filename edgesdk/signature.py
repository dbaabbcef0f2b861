"""Names, dtypes and shapes of a model's inputs and outputs. Imports nothing, so a device can use it."""

from __future__ import annotations

from dataclasses import dataclass

Dim = int | str | None
"""A fixed length, a named symbolic length, or unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One input or output.

    Attributes:
        name: as in the ONNX graph; backends that rename undo it.
        dtype: numpy's name: `float32`, `int64`, `bool`, … (`bfloat16` for what numpy lacks).
        shape: one `Dim` an axis; the empty tuple is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"

    @property
    def is_static(self) -> bool:
        """True when every axis has a fixed length."""
        return all(isinstance(dim, int) for dim in self.shape)

    def mismatch(self, dtype: str, shape: tuple[int, ...]) -> str | None:
        """Why an array of this dtype and shape cannot be this tensor, or None when it can."""
        if dtype != self.dtype:
            return f"{self.name}: dtype {dtype}, expected {self.dtype}"
        fits = len(shape) == len(self.shape) and all(
            not isinstance(want, int) or want == got
            for want, got in zip(self.shape, shape, strict=False)
        )
        return None if fits else f"{self.name}: shape {list(shape)}, expected {self}"
