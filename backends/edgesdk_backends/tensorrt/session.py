"""An engine on the GPU that it was built for. Nothing here could be run without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array, FeedCheck, NodePlacement, NodeTime, OpenOptions, Session
from edgesdk.errors import StepFailed
from edgesdk.signature import TensorInfo
from edgesdk_backends.tensorrt.building import make_log, type_name
from edgesdk_backends.tensorrt.layers import read_layers


class TensorRtSession(Session):
    """Runs an engine by Polygraphy's runner, which moves the arrays to the GPU and back."""

    def __init__(self, trt: Any, plan: Path, options: OpenOptions) -> None:
        """Load an engine.

        Raises:
            StepFailed: it is damaged, or this machine's TensorRT or GPU does not take it.
        """
        from polygraphy.backend.trt import TrtRunner

        self._trt = trt
        self._log = make_log(trt)
        self._runner: Any = None
        self._engine: Any = load_engine(trt, plan, self._log)
        self.inputs, self.outputs = (
            _infos(trt, self._engine, mode)
            for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT)
        )
        self._check = FeedCheck(self.inputs)
        self._times = _make_times(trt) if options.profiling else None
        self._runs = 0
        runner = TrtRunner(self._engine)
        try:
            runner.activate()
        except Exception as exc:  # Polygraphy's own, or ctypes'
            raise StepFailed(f"TensorRT cannot prepare {plan.name}: {exc}{self._said()}") from exc
        if self._times is not None:
            runner.context.profiler = self._times
        self._runner = runner

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """One inference. The runner uses its buffers again, so outputs are copied."""
        self._check(feed)
        if self._runner is None:
            raise StepFailed("this session is closed; open the artifact again")
        given = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        try:
            found = self._runner.infer(given, check_inputs=False)
        except Exception as exc:
            raise StepFailed(f"TensorRT could not run the engine: {exc}{self._said()}") from exc
        self._runs += 1
        return {info.name: np.array(found[info.name]) for info in self.outputs}

    def placement(self) -> tuple[NodePlacement, ...]:
        """The engine's layers, by its inspector."""
        return () if self._runner is None else inspect(self._trt, self._engine)

    def node_times(self) -> tuple[NodeTime, ...]:
        """By TensorRT's own profiler, layer for layer, over the runs so far."""
        if self._times is None or not self._runs:
            return ()
        layers = {item.node: item for item in self.placement()}
        return tuple(
            NodeTime(
                node=name,
                op=layers[name].op if name in layers else "",
                ms=total / self._runs,
                unit=layers[name].unit if name in layers else "gpu",
                provider=layers[name].provider if name in layers else "",
            )
            for name, total in self._times.total_ms.items()
        )

    def close(self) -> None:
        """Free the engine and its memory on the GPU."""
        if self._runner is not None:
            self._runner.deactivate()
        self._runner = self._engine = None

    def _said(self) -> str:
        return f" ({'; '.join(self._log.errors)})" if self._log.errors else ""


def load_engine(trt: Any, plan: Path, log: Any = None) -> Any:
    """An engine from its file; what TensorRT has to say later goes to `log`.

    Raises:
        StepFailed: the file is damaged or missing, or this TensorRT or GPU does not take it.
    """
    try:
        content = plan.read_bytes()
    except OSError as exc:
        raise StepFailed(f"cannot read the engine {plan}: {exc}") from exc
    log = log or make_log(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(content) if runtime is not None else None
    if engine is None:
        reasons = "; ".join(log.errors) or "it says no reason"
        raise StepFailed(f"TensorRT {trt.__version__} does not load {plan.name}: {reasons}")
    return engine


def inspect(trt: Any, engine: Any) -> tuple[NodePlacement, ...]:
    """The layers of an engine; empty where its inspector tells none."""
    inspector = engine.create_engine_inspector()
    try:
        return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    except ValueError:
        return ()


def _infos(trt: Any, engine: Any, mode: Any) -> tuple[TensorInfo, ...]:
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    return tuple(
        TensorInfo(
            name=name,
            dtype=type_name(engine.get_tensor_dtype(name)),
            shape=tuple(int(dim) for dim in engine.get_tensor_shape(name)),
        )
        for name in names
        if engine.get_tensor_mode(name) == mode
    )


def _make_times(trt: Any) -> Any:
    class Times(trt.IProfiler):  # type: ignore[misc]
        """Adds up what TensorRT reports after each run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms

    return Times()
