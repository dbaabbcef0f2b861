"""No engine at all: ONNX's own reference evaluator. Slow, in numpy, and its results are real.

For tests of everything above the engines, and as the third opinion when two engines disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgesdk.backend import (
    Array,
    Backend,
    FeedCheck,
    NodePlacement,
    OpenOptions,
    Session,
    keep_onnx,
)
from edgesdk.errors import StepFailed
from edgesdk.recipe import Recipe
from edgesdk.signature import Dim, TensorInfo

if TYPE_CHECKING:
    import onnx


class NullBackend(Backend):
    """Runs a graph node by node as the ONNX standard defines it: no fusion, no own threads."""

    name: ClassVar[str] = "null"
    install: ClassVar[str] = "pip install edgesdk"

    def unavailable(self) -> str | None:
        """None: onnx is one of edgesdk's own dependencies, absent only on a device."""
        return None if find_spec("onnx") else f"onnx is not installed; {self.install}"

    def version(self) -> str:
        """The version of onnx."""
        import onnx

        return onnx.__version__

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """The ONNX file itself, opened once to see that every operation is known."""
        artifact = keep_onnx(model, out)
        _evaluator(artifact)
        return artifact

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Read the graph; `threads` has no effect, numpy decides."""
        self.check_options(options)
        return _NullSession(_evaluator(artifact))


class _NullSession(Session):
    def __init__(self, evaluator: Any) -> None:
        graph: onnx.GraphProto = evaluator.proto_.graph
        weights = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(_info(value) for value in graph.input if value.name not in weights)
        self.outputs = tuple(_info(value) for value in graph.output)
        self._names = [info.name for info in self.outputs]
        self._check = FeedCheck(self.inputs)
        self._nodes = tuple((node.name, node.op_type) for node in graph.node)
        self._evaluator = evaluator

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Interpret the graph."""
        import numpy as np

        self._check(feed)
        if self._evaluator is None:
            raise StepFailed("this session is closed; open the artifact again")
        try:
            results = self._evaluator.run(None, dict(feed))
        except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError) as exc:
            raise StepFailed(f"onnx.reference could not run the graph: {exc}") from exc
        except ValueError as exc:
            raise StepFailed(f"onnx.reference found shapes that do not fit: {exc}") from exc
        # Results may be views of inputs or of weights.
        return {
            name: np.array(value, copy=True, order="C")
            for name, value in zip(self._names, results, strict=True)
        }

    def placement(self) -> tuple[NodePlacement, ...]:
        """The nodes as they stand in the file, all in numpy."""
        return tuple(
            NodePlacement(node=name, op=op, unit="cpu", provider="onnx.reference", origin=(name,))
            for name, op in self._nodes
        )

    def close(self) -> None:
        """Forget the graph."""
        self._evaluator = None


def _evaluator(artifact: Path) -> Any:
    from onnx.reference import ReferenceEvaluator

    from edgesdk.onnxfile.open import open_onnx

    open_onnx(artifact)  # says what is wrong with a damaged file, as the evaluator does not
    try:
        return ReferenceEvaluator(str(artifact))
    except (NotImplementedError, RuntimeError, TypeError) as exc:
        raise StepFailed(f"onnx.reference cannot open {artifact.name}: {exc}") from exc


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    dims: tuple[Dim, ...] = tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in tensor.shape.dim
    )
    dtype = tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorInfo(name=value.name, dtype=dtype, shape=dims)
