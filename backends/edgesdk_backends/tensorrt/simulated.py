"""The artifact computed here, by onnxruntime's CPU provider: TensorRT's arithmetic by other kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesdk.backend import Array, FeedCheck, OpenOptions, Session
from edgesdk.errors import StepFailed
from edgesdk.signature import TensorInfo

_PROVIDER = "CPUExecutionProvider"
_FATAL = 4
_NAMES = {"float": "float32", "float16": "float16", "double": "float64", "bool": "bool"} | {
    name: name
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}


class SimulatedSession(Session):
    """Runs the graph as it is written: what is quantized is rounded, and computed in float.

    With its own int8 kernels onnxruntime would saturate on some CPUs, and round the biases of a float16
    graph by scales that float16 cannot hold: an image classifier's outputs were then off by their whole
    range, and by 0.05 of it without. In float16 it may fold and fuse only where that rounds alike.
    """

    def __init__(self, artifact: Path, options: OpenOptions) -> None:
        """Load the graph.

        Raises:
            StepFailed: it is missing or damaged, or has what onnxruntime cannot compute.
        """
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _FATAL
        levels = onnxruntime.GraphOptimizationLevel
        half = options.execution == "fp16"
        settings.graph_optimization_level = (
            levels.ORT_ENABLE_BASIC if half else levels.ORT_ENABLE_ALL
        )
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._engine: Any = onnxruntime.InferenceSession(
                str(artifact), settings, providers=[_PROVIDER]
            )
        except Exception as exc:  # its classes of errors have no common base
            raise StepFailed(f"onnxruntime cannot load {artifact.name}: {exc}") from exc
        self.inputs = tuple(map(_info, self._engine.get_inputs()))
        self.outputs = tuple(map(_info, self._engine.get_outputs()))
        self._names = [info.name for info in self.outputs]
        self._check = FeedCheck(self.inputs)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """One call of onnxruntime."""
        self._check(feed)
        if self._engine is None:
            raise StepFailed("this session is closed; open the artifact again")
        try:
            results = self._engine.run(self._names, dict(feed))
        except Exception as exc:
            raise StepFailed(f"onnxruntime could not run the model: {exc}") from exc
        return dict(zip(self._names, results, strict=True))

    def close(self) -> None:
        """Free the graph and the weights."""
        self._engine = None


def _info(value: Any) -> TensorInfo:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(dim if isinstance(dim, int | str) else None for dim in value.shape)
    return TensorInfo(name=value.name, dtype=_NAMES.get(kind, kind), shape=shape)
