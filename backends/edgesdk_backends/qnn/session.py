"""An opened program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array, FeedCheck, NodePlacement, OpenOptions, Session
from edgesdk.errors import BackendUnavailable, ModelError, SamplesError, StepFailed
from edgesdk.signature import Dim, TensorInfo
from edgesdk_backends.qnn.about import About, read_about
from edgesdk_backends.qnn.engine import PROVIDER, errors, open_engine

_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "bool": "bool",
} | {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_CONTEXT = "EPContext"
_WIDE = ("int64", "uint64")
_NARROW = np.iinfo(np.int32)


class QnnSession(Session):
    """Runs on the HTP, or in the vendor's simulator of it, and what is left on the CPU."""

    def __init__(self, program: Path, options: OpenOptions) -> None:
        """Load the program with what is beside it.

        Raises:
            StepFailed: a file is missing or damaged, or the engine refuses it.
            BackendUnavailable: float32 is asked for and the program computes in half precision.
        """
        about = read_about(program)
        _check_execution(about, options.execution)
        self._engine: Any = open_engine(program, about.target, threads=options.threads)
        _check_placed(self._engine, program)
        self._placement = about.placement
        self.inputs = tuple(_info(value) for value in self._engine.get_inputs())
        self.outputs = tuple(_info(value) for value in self._engine.get_outputs())
        self._check = FeedCheck(self.inputs)
        self._names = [info.name for info in self.outputs]
        self._wide = [info.name for info in self.inputs if info.dtype in _WIDE]
        self._errors = errors()

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the engine; its arrays are fresh and handed on as they are."""
        self._check(feed)
        if self._engine is None:
            raise StepFailed("this session is closed; open the artifact again")
        for name in self._wide:
            _check_narrow(name, feed[name])
        try:
            results = self._engine.run(self._names, dict(feed))
        except self._errors as exc:
            raise StepFailed(f"onnxruntime-qnn could not run the model: {exc}") from exc
        return dict(zip(self._names, results, strict=True))

    def placement(self) -> tuple[NodePlacement, ...]:
        """As recorded when it was compiled: at run time the HTP's part is a single node."""
        return self._placement if self._engine is not None else ()

    def close(self) -> None:
        """Free the program and the unit."""
        self._engine = None


def _check_execution(about: About, execution: str) -> None:
    halves = about.halves
    if execution == "fp32" and halves:
        raise BackendUnavailable(
            f"the HTP computes {len(halves)} operations of this model in half precision "
            f"({', '.join(halves[:3])}{', …' if len(halves) > 3 else ''}), not in fp32; take "
            "fp16, or a quantized recipe with -fp16"
        )


def _check_placed(engine: Any, program: Path) -> None:
    """See that the compiled part did go to the HTP."""
    for part in engine.get_provider_graph_assignment_info():
        if part.ep_name != PROVIDER and any(n.op_type == _CONTEXT for n in part.get_nodes()):
            raise StepFailed(
                f"{program.name}: the runtime gives its compiled part to {part.ep_name}"
            )


def _check_narrow(name: str, array: Array) -> None:
    """The HTP has no 64-bit integers; the runtime would cut them to 32 in silence."""
    if array.size and not _NARROW.min <= int(array.min()) <= int(array.max()) <= _NARROW.max:
        raise SamplesError(
            f"input {name!r} has values beyond int32, in which the HTP computes; "
            f"legal: {_NARROW.min} to {_NARROW.max}"
        )


def _info(value: Any) -> TensorInfo:
    dtype = _DTYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise ModelError(f"{value.name!r} is a {value.type}; the HTP takes tensors of numbers")
    dims: tuple[Dim, ...] = tuple(
        dim if isinstance(dim, int | str) else None for dim in value.shape
    )
    return TensorInfo(name=value.name, dtype=dtype, shape=dims)
