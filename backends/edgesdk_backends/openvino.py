"""OpenVINO on the CPU. The artifact is its own format: `model.xml` with the weights in `model.bin`.

What OpenVINO would decide for itself is stated here: the float type (its default is bfloat16 where
the CPU has AMX), int8 activations behind integer weights, thread pinning. See docs/backends.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgesdk.backend import (
    Array,
    Backend,
    FeedCheck,
    NodePlacement,
    NodeTime,
    OpenOptions,
    Session,
)
from edgesdk.errors import BackendUnavailable, ModelError, StepFailed
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo

_DEVICE = "CPU"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_COPIED_BYTES = 1 << 16
"""Up to here inputs are copied. Pointing the request to other arrays cost a text encoder with three
small inputs 52 us a run (binding them, and preparing the graph's edges again), copying them 8."""
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}

_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "boolean": "bool",
    "string": "object",
} | {
    f"{sign}{bits}": f"{kind}{bits}"
    for sign, kind in (("i", "int"), ("u", "uint"))
    for bits in (8, 16, 32, 64)
}

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_CONTROL_FLOW = frozenset({"If", "Loop", "TensorIterator"})
_NOT_EXECUTED = frozenset({"Input", "Output", "Const"})


class OpenVinoBackend(Backend):
    """Intel's openvino, CPU plugin (x86-64 and Arm)."""

    name: ClassVar[str] = "openvino"
    install: ClassVar[str] = "pip install 'edgesdk[openvino]'"
    distributions: ClassVar[tuple[str, ...]] = ("openvino",)
    executions: ClassVar[frozenset[str]] = frozenset(_HINTS)

    def unavailable(self) -> str | None:
        """Why `import openvino` fails, if it does."""
        try:
            import openvino  # noqa: F401
        except ImportError as exc:
            return f"openvino does not import ({exc}); {self.install}"
        return None

    def version(self) -> str:
        """As `openvino.__version__` without the build's hash."""
        import openvino

        return str(openvino.__version__).split("-", maxsplit=1)[0]

    def rejects(self, recipe: Recipe) -> str | None:
        """Besides the float type: two kinds of graph that it reads, then runs wrong or slowly."""
        if recipe.activation_bits == 16:
            # And with it the clipping that stands for a Relu: tests/test_backends.py shows both.
            return "openvino drops 16-bit quantization of activations, and computes other results"
        if recipe.mode == "dynamic":
            # 1.3x to 2.2x the time of its own float32 on six 768x768 layers (2026.4.1).
            return "openvino runs dynamic int8 operations in float, slower than the float model"
        return super().rejects(recipe)

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Read the ONNX file and save it as IR, weights in float16 where the recipe stores 16 bits.

        `Core.read_model` instead of `convert_model`: the same front end without its telemetry.

        Raises:
            StepFailed: the front end does not know an operation or cannot work out a rank.
        """
        import openvino

        from edgesdk.onnxfile.open import open_onnx

        graph = open_onnx(model).proto.graph
        weights = {tensor.name for tensor in graph.initializer}
        try:
            converted = openvino.Core().read_model(str(model))
            inputs = [value.name for value in graph.input if value.name not in weights]
            _keep_names(converted.inputs, inputs)
            _keep_names(converted.outputs, [value.name for value in graph.output])
            _name_like_onnx(converted, graph.node)
            artifact = out / "model.xml"
            openvino.save_model(converted, artifact, compress_to_fp16=recipe.weight_bits == 16)
        except _engine_errors() as exc:
            raise StepFailed(f"openvino cannot convert {model.name}: {exc}") from exc
        return artifact

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Compile for this machine; nothing is cached between processes."""
        self.check_options(options)
        return _OpenVinoSession(artifact, options)


class _OpenVinoSession(Session):
    def __init__(self, artifact: Path, options: OpenOptions) -> None:
        import openvino

        self._errors = _engine_errors()
        try:
            core = openvino.Core()
            _check_capability(core, options.execution)
            model = core.read_model(str(artifact))
            # Compiling adds names to ports where it removes operations behind them, so ask before.
            self.inputs = tuple(_info(port) for port in model.inputs)
            self.outputs = tuple(_info(port) for port in model.outputs)
            self._compiled: Any = core.compile_model(model, _DEVICE, _config(options))
            self._request: Any = self._compiled.create_infer_request()
        except self._errors as exc:
            raise StepFailed(f"openvino cannot open {artifact.name}: {exc}") from exc
        self._names = [info.name for info in self.outputs]
        self._check = FeedCheck(self.inputs)
        self._profiling = options.profiling
        self._tensor = openvino.Tensor
        # What the request points to: arrays of the caller, or ours where the input is small.
        self._bound: list[Array | None] = [None] * len(self.inputs)
        self._ours = [False] * len(self.inputs)
        self._runs = 0
        self._seconds: dict[tuple[str, str, str], float] = {}

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Lend large inputs to the engine for the run, copy small ones; outputs are copied out."""
        self._check(feed)
        if self._request is None:
            raise StepFailed("this session is closed; open the artifact again")
        try:
            for number, info in enumerate(self.inputs):
                self._give(number, feed[info.name])
            results = self._request.infer().to_tuple()
        except self._errors as exc:
            raise StepFailed(f"openvino could not run the model: {exc}") from exc
        if self._profiling:
            self._add_times()
        return dict(zip(self._names, results, strict=True))

    def _give(self, number: int, array: Array) -> None:
        """Have the request read this array, by pointing to it only where that costs less."""
        bound = self._bound[number]
        small = array.nbytes <= _COPIED_BYTES and not array.dtype.hasobject
        if small and bound is not None and self._ours[number] and bound.shape == array.shape:
            np.copyto(bound, array)
            return
        bound = array.copy(order="C") if small else _plain(array)
        self._request.set_input_tensor(number, self._tensor(bound, shared_memory=True))
        self._bound[number], self._ours[number] = bound, small

    def placement(self) -> tuple[NodePlacement, ...]:
        """The compiled graph's nodes; with dynamic shapes the kernels are known after a run."""
        if self._compiled is None:
            return ()
        nodes = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            facts = {key: _text(value) for key, value in node.get_rt_info().items()}
            if facts["layerType"] in _NOT_EXECUTED:
                continue
            kernel = facts["primitiveType"]
            nodes.append(
                NodePlacement(
                    node=node.get_friendly_name(),
                    op=facts["layerType"],
                    unit=_DEVICE.lower(),
                    provider=kernel,
                    precision="" if facts["layerType"] in _CONTROL_FLOW else _precision(kernel),
                    origin=tuple(filter(None, facts["originalLayersNames"].split(","))),
                )
            )
        return tuple(nodes)

    def node_times(self) -> tuple[NodeTime, ...]:
        """From the plugin's counters, summed after every run."""
        return tuple(
            NodeTime(node=name, op=op, ms=1e3 * seconds / self._runs, provider=kernel)
            for (name, op, kernel), seconds in self._seconds.items()
        )

    def close(self) -> None:
        """Free the request and the compiled model; the weights are unmapped with it."""
        self._request = None
        self._compiled = None
        self._bound = [None] * len(self.inputs)

    def _add_times(self) -> None:
        from openvino import ProfilingInfo

        self._runs += 1
        for entry in self._request.get_profiling_info():
            if (
                entry.status == ProfilingInfo.Status.EXECUTED
                and entry.node_type not in _NOT_EXECUTED
            ):
                key = (entry.node_name, entry.node_type, entry.exec_type)
                seconds = entry.real_time.total_seconds()
                self._seconds[key] = self._seconds.get(key, 0.0) + seconds


def _config(options: OpenOptions) -> dict[str, Any]:
    """Everything stated, because several defaults depend on the CPU or change what is computed."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": options.threads,
        "INFERENCE_PRECISION_HINT": _HINTS[options.execution],
        # The default of 32 turns activations into int8 behind integer weights with blocks of 32,
        # where the recipe said that they stay float.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Two pinned processes take the same cores and wait for each other; whoever wants pinning
        # pins the process.
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": options.profiling,
    }


def _check_capability(core: Any, execution: str) -> None:
    """OpenVINO takes the hint for a type that the CPU lacks, and computes in another in silence."""
    available = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[execution] not in available:
        raise BackendUnavailable(
            f"openvino does not execute in {execution} on this CPU; it has {', '.join(available)}"
        )


def _keep_names(ports: Iterable[Any], names: list[str]) -> None:
    """Leave each port the one name that it has in the ONNX file, where fusion gave it several."""
    found = list(ports)
    if len(found) != len(names):
        raise StepFailed(f"openvino made {len(found)} ports of {', '.join(names) or 'none'}")
    for port, name in zip(found, names, strict=True):
        if name not in port.get_names():
            raise StepFailed(f"openvino renamed {name!r} to {sorted(port.get_names())}")
        port.get_tensor().set_names({name})


def _name_like_onnx(model: Any, nodes: Iterable[Any]) -> None:
    """Give each operation its ONNX node's name, where OpenVINO took that of the node's output."""
    names = {output: node.name for node in nodes for output in node.output if node.name}
    for operation in model.get_ops():
        name = names.get(operation.get_friendly_name())
        if name:
            operation.set_friendly_name(name)


def _info(port: Any) -> TensorInfo:
    shape = port.get_partial_shape()
    name = port.get_any_name()
    dtype = _DTYPES.get(port.get_element_type().get_type_name())
    if dtype is None or shape.rank.is_dynamic:
        raise ModelError(
            f"{name!r} is {port.get_element_type()}{shape}; its type and rank must be known"
        )
    dims = tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)
    return TensorInfo(name=name, dtype=dtype, shape=dims)


def _plain(array: Array) -> Array:
    """The array, or a copy where it is strided or read-only, which openvino cannot borrow."""
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else array.copy(order="C")


def _precision(kernel: str) -> str:
    """The type at the end of a kernel's name, as in `brgconv_avx512_amx_I8`."""
    word = kernel.rsplit("_", maxsplit=1)[-1].lower()
    return _PRECISIONS.get(word) or _DTYPES.get(word, word)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value.astype(str))


def _engine_errors() -> tuple[type[Exception], ...]:
    """All that openvino raises; its front ends' classes derive from Exception directly."""
    from openvino import _pyopenvino as native

    own = [kind for kind in vars(native).values() if isinstance(kind, type)]
    return (RuntimeError, TypeError, *(kind for kind in own if issubclass(kind, Exception)))
