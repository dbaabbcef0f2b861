"""LiteRT's interpreter: a file in, arrays by the names of its signature in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array
from edgesdk.errors import StepFailed

ERRORS = (ValueError, RuntimeError, TypeError, KeyError)
"""All that the interpreter raises."""
_TOLD = 200
"""Characters of its messages that are repeated; it says the same thing several times over."""
_REMEMBERING = frozenset(
    f"{kind}{cell}"
    for kind in ("", "UNIDIRECTIONAL_SEQUENCE_", "BIDIRECTIONAL_SEQUENCE_")
    for cell in ("LSTM", "RNN", "SVDF")
)
"""Operations that go on from where the run before ended, which no operation of ONNX does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of the file.

    Attributes:
        index: how the interpreter calls it.
        shape: with -1 where it says that the length is open.
        dtype: numpy's name.
        scale, zero_point: what its integers mean; a scale of 0 where they mean themselves.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation of a file, as it stands there.

    Attributes:
        name: TFLite's word, or that of a custom operation.
        outputs: names of the tensors that it writes.
        kinds: numpy's names of the types of what it reads.
    """

    name: str
    outputs: tuple[str, ...]
    kinds: tuple[str, ...]


def interpreter_class() -> Any:
    """The interpreter of `ai_edge_litert`, or of its predecessor where only that is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter


def operations(file: Path) -> tuple[Operation, ...]:
    """The operations of a file, those included that this interpreter has no kernel for.

    Raises:
        StepFailed: it is no TFLite file.
    """
    try:
        interpreter: Any = interpreter_class()(model_path=str(file), **_kernels("BUILTIN_REF"))
        names = {int(one["index"]): str(one["name"]) for one in interpreter.get_tensor_details()}
        return tuple(
            Operation(
                name=str(node["op_name"]),
                outputs=tuple(names.get(int(index), "") for index in node["outputs"]),
                kinds=tuple(np.dtype(kind).name for kind in node["operand_types"]),
            )
            for node in interpreter._get_ops_details()
        )
    except ERRORS as exc:
        raise StepFailed(f"litert cannot read {file.name}: {exc}") from exc


def _kernels(which: str) -> dict[str, Any]:
    """The interpreter's option for a set of kernels, by its name in `OpResolverType`."""
    kinds = import_module(interpreter_class().__module__).OpResolverType
    return {"experimental_op_resolver_type": kinds[which]}


class Engine:
    """An opened TFLite file.

    Attributes:
        inputs, outputs: by the names of its signature, in its order.
    """

    def __init__(self, file: Path, *, threads: int = 1, reference: bool = False) -> None:
        """Load the file; XNNPACK takes the operations that it has.

        Args:
            file: a TFLite file.
            threads: inside one run.
            reference: compute with the kernels that define what an operation is, which are slow.

        Raises:
            StepFailed: it is no TFLite file, or has operations that this version does not know.
        """
        kernels = _kernels("BUILTIN_REF") if reference else {}
        try:
            self._interpreter: Any = interpreter_class()(
                model_path=str(file), num_threads=threads, **kernels
            )
            runner = self._interpreter.get_signature_runner()
            self.inputs = _tensors(runner.get_input_details())
            self.outputs = _tensors(runner.get_output_details())
            del runner  # while it is there, the interpreter refuses to allocate
        except ERRORS as exc:
            raise StepFailed(f"litert cannot open {file.name}: {exc}") from exc
        is_open = any(dim < 0 for tensor in self.inputs.values() for dim in tensor.shape)
        try:
            self._interpreter.allocate_tensors()
        except ERRORS as exc:
            if not is_open:  # else it has yet to be told the lengths
                raise StepFailed(f"litert cannot prepare {file.name}: {exc}") from exc
        self._given = tuple((name, tensor.index) for name, tensor in self.inputs.items())
        self._gives = tuple((name, tensor.index) for name, tensor in self.outputs.items())
        self._shapes = tuple(tensor.shape for tensor in self.inputs.values())
        self._remembers = any(node["op_name"] in _REMEMBERING for node in self.nodes())

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs; the arrays belong to the caller. Inputs may have other lengths than before.

        Raises:
            StepFailed: the interpreter refuses, because the graph was made for other shapes, say.
        """
        engine = self._interpreter
        if engine is None:
            raise StepFailed("this session is closed; open the artifact again")
        try:
            shapes = tuple([feed[name].shape for name, _ in self._given])
            if shapes != self._shapes:
                self._resize(shapes)
            for name, index in self._given:
                engine.set_tensor(index, feed[name])
            if self._remembers:
                engine.reset_all_variables()
            engine.invoke()
            return {name: np.asarray(engine.get_tensor(index)) for name, index in self._gives}
        except ERRORS as exc:
            raise StepFailed(f"litert could not run the model: {str(exc)[:_TOLD]}") from exc

    def nodes(self) -> list[dict[str, Any]]:
        """The operations with `op_name`, `inputs`, `outputs`, `operand_types`; delegates come last."""
        found: list[dict[str, Any]] = self._interpreter._get_ops_details()
        return found

    def tensor_names(self) -> dict[int, str]:
        """Names of all tensors by index."""
        return {
            int(tensor["index"]): str(tensor["name"])
            for tensor in self._interpreter.get_tensor_details()
        }

    def close(self) -> None:
        """Give back its memory. Calling it twice is harmless."""
        self._interpreter = None

    def _resize(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._shapes = ()  # whatever happens next, it is not as it was
        for (_, index), shape in zip(self._given, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _tensors(details: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    return {
        name: Tensor(
            index=int(one["index"]),
            shape=tuple(int(dim) for dim in one["shape_signature"]),
            dtype=np.dtype(one["dtype"]).name,
            scale=float(one["quantization"][0]),
            zero_point=int(one["quantization"][1]),
        )
        for name, one in details.items()
    }
