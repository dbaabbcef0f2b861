"""What stands between the model's inputs and outputs and those of the TFLite file.

A converter may rename tensors, reorder or drop them, move channels last, narrow types and give scalars
a dimension; a quantizer may leave integers that stand for fractions. `interface.json` beside the file
says how to undo that, so that a session takes and gives what the model does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array
from edgesdk.errors import SamplesError, StepFailed
from edgesdk.files import read_json, write_json
from edgesdk.signature import Dim, TensorInfo

FILE = "interface.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the model, and where it is in the file.

    Attributes:
        info: as the model has it.
        tensor: its name in the file's signature; empty where an input was dropped.
        dtype: its type in the file.
        axes: order of the axes when moving from the model to the file (inputs) or back (outputs);
            empty where they stay.
        shape: the shape in the file where its rank differs (static ones only); None where not.
        scale, zero_point: a value of the model is `scale * (integer - zero_point)`; a scale of 0 where
            the file has the values themselves.
    """

    info: TensorInfo
    tensor: str
    dtype: str
    axes: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None
    scale: float = 0.0
    zero_point: int = 0

    def to_file(self, array: Array) -> Array:
        """A value of the model as the file takes it.

        Raises:
            SamplesError: it holds integers that the narrower type of the file does not, or no numbers
                where the file takes integers.
        """
        if self.shape is not None:
            array = array.reshape(self.shape)
        if self.axes:
            array = array.transpose(self.axes)
        if self.scale:
            return self._quantized(array)
        if array.dtype != self.dtype:
            narrow = array.astype(self.dtype)
            if array.dtype.kind in "iu" and not np.array_equal(narrow, array):
                raise SamplesError(
                    f"input {self.info.name!r} has values beyond {self.dtype}, in which litert "
                    f"computes; legal: {np.iinfo(self.dtype).min} to {np.iinfo(self.dtype).max}"
                )
            array = narrow
        return array

    def from_file(self, array: Array) -> Array:
        """What the file gives as the model does."""
        if self.scale:
            array = (array.astype(np.int32) - self.zero_point) * np.float32(self.scale)
        if self.axes:
            array = np.ascontiguousarray(array.transpose(self.axes))
        if self.shape is not None:
            array = array.reshape([dim for dim in self.info.shape if isinstance(dim, int)])
        return array if array.dtype == self.info.dtype else array.astype(self.info.dtype)

    def _quantized(self, array: Any) -> Array:
        """As TFLite's own QUANTIZE does it: halves are rounded away from zero, what is beyond is clipped."""
        steps = array.astype(np.float32) / np.float32(self.scale)
        if np.isnan(steps).any():
            raise SamplesError(f"input {self.info.name!r} holds NaN, which {self.dtype} has not")
        rounded = np.trunc(steps + np.copysign(0.5, steps, dtype=np.float64)) + self.zero_point
        limits = np.iinfo(self.dtype)
        integers: Array = np.clip(rounded, limits.min, limits.max).astype(self.dtype)
        return integers

    @property
    def is_plain(self) -> bool:
        """Whether values go through unchanged."""
        return not self.axes and self.shape is None and self.dtype == self.info.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Everything that a session needs beside the file.

    Attributes:
        inputs, outputs: in the model's order.
        origins: names of the ONNX nodes behind each tensor of the file that an operation writes.
        file_bytes: size of the TFLite file; 0 until it is written.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    origins: Mapping[str, tuple[str, ...]]
    file_bytes: int = 0


def write_interface(interface: Interface, folder: Path) -> None:
    """Write `interface.json`."""
    document = {
        "format": _FORMAT,
        "inputs": [_port_to_json(port) for port in interface.inputs],
        "outputs": [_port_to_json(port) for port in interface.outputs],
        "origins": {name: list(nodes) for name, nodes in interface.origins.items()},
        "file_bytes": interface.file_bytes,
    }
    write_json(folder / FILE, document)


def read_interface(file: Path) -> Interface:
    """The interface of a TFLite file that lies beside it.

    Raises:
        StepFailed: one of them is missing, damaged or belongs to another.
    """
    try:
        found = read_json(file.parent / FILE)
        if found["format"] != _FORMAT:
            raise StepFailed(f"{file.parent / FILE} has format {found['format']}, not {_FORMAT}")
        interface = Interface(
            inputs=tuple(map(_port_from_json, found["inputs"])),
            outputs=tuple(map(_port_from_json, found["outputs"])),
            origins={name: tuple(nodes) for name, nodes in found["origins"].items()},
            file_bytes=int(found["file_bytes"]),
        )
        size = file.stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StepFailed(f"{file} or the {FILE} beside it is missing or damaged: {exc}") from exc
    if size != interface.file_bytes:
        raise StepFailed(f"{file} has {size:,} bytes; {FILE} says {interface.file_bytes:,}")
    return interface


def _port_to_json(port: Port) -> dict[str, Any]:
    return {
        "name": port.info.name,
        "dtype": port.info.dtype,
        "shape": list(port.info.shape),
        "tensor": port.tensor,
        "file_dtype": port.dtype,
        "axes": list(port.axes),
        "file_shape": None if port.shape is None else list(port.shape),
        "scale": port.scale,
        "zero_point": port.zero_point,
    }


def _port_from_json(found: Mapping[str, Any]) -> Port:
    shape = found["file_shape"]
    return Port(
        info=TensorInfo(name=found["name"], dtype=found["dtype"], shape=_dims(found["shape"])),
        tensor=found["tensor"],
        dtype=found["file_dtype"],
        axes=tuple(found["axes"]),
        shape=None if shape is None else tuple(shape),
        scale=float(found.get("scale", 0.0)),
        zero_point=int(found.get("zero_point", 0)),
    )


def _dims(values: Sequence[Any]) -> tuple[Dim, ...]:
    return tuple(values)
