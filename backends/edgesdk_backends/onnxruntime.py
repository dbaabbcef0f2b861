"""ONNX Runtime on the CPU. The artifact is the ONNX file itself.

ONNX Runtime computes in the types that the graph has: `fp32` says to leave them alone. It is the
only execution offered, because on x86 a float16 graph runs in float32 between casts (measured; see
docs/backends.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from edgesdk.backend import (
    Array,
    Backend,
    FeedCheck,
    NodePlacement,
    NodeTime,
    OpenOptions,
    Session,
    keep_onnx,
)
from edgesdk.errors import ModelError, StepFailed
from edgesdk.recipe import Recipe
from edgesdk.signature import Dim, TensorInfo

_PROVIDER = "CPUExecutionProvider"
_UNITS = {_PROVIDER: "cpu"}
_QUIET = 4
"""Fatal only: whatever is worth knowing arrives as an exception."""

_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "double": "float64",
    "bool": "bool",
    "string": "object",
} | {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

_KERNEL = "_kernel_time"
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
_PACKED = frozenset({"MatMulNBits", "GatherBlockQuantized"})
"""Ops whose 8-bit input holds packed weights and says nothing about the type they compute in."""


class OnnxRuntimeBackend(Backend):
    """Microsoft's onnxruntime, CPU execution provider."""

    name: ClassVar[str] = "onnxruntime"
    install: ClassVar[str] = "pip install 'edgesdk[onnxruntime]'"
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def unavailable(self) -> str | None:
        """Why `import onnxruntime` fails, if it does."""
        try:
            import onnxruntime  # noqa: F401
        except ImportError as exc:
            return f"onnxruntime does not import ({exc}); {self.install}"
        return None

    def version(self) -> str:
        """As `onnxruntime.__version__`."""
        return str(_engine().__version__)

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Copy the model with its data files, and load it once to see that it does load.

        The optimised graph is not kept: it holds layouts that only this machine's CPU may have.
        """
        artifact = keep_onnx(model, out)
        options = _session_options(OpenOptions())
        # Optimising is for the machine that runs it, and takes most of the time.
        options.graph_optimization_level = _engine().GraphOptimizationLevel.ORT_DISABLE_ALL
        _load(artifact, options)
        return artifact

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load and optimise the graph for this machine."""
        self.check_options(options)
        return _OnnxRuntimeSession(artifact, options)


class _OnnxRuntimeSession(Session):
    def __init__(self, artifact: Path, options: OpenOptions) -> None:
        settings = _session_options(options)
        self._trace_folder: TemporaryDirectory[str] | None = None
        if options.profiling:
            self._trace_folder = TemporaryDirectory(prefix="edgesdk-trace-")
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(self._trace_folder.name) / "trace")
        self._trace: tuple[_TracedNode, ...] = ()
        self._runs = 0
        try:
            self._engine = _load(artifact, settings)
            self.inputs = tuple(_info(value) for value in self._engine.get_inputs())
            self.outputs = tuple(_info(value) for value in self._engine.get_outputs())
            self._check = FeedCheck(self.inputs)
        except BaseException:
            self._drop_trace_folder()
            raise
        self._names = [info.name for info in self.outputs]
        self._errors = _engine_errors()

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the engine; its arrays are fresh and handed on as they are."""
        self._check(feed)
        if self._engine is None:
            raise StepFailed("this session is closed; open the artifact again")
        try:
            results = self._engine.run(self._names, feed if type(feed) is dict else dict(feed))
        except self._errors as exc:
            raise StepFailed(f"onnxruntime could not run the model: {exc}") from exc
        if self._trace_folder:
            self._runs += 1
        return dict(zip(self._names, results, strict=True))

    def placement(self) -> tuple[NodePlacement, ...]:
        """What ran, by the trace, if opened with `profiling`; else what was assigned at loading.

        The trace has the fused nodes with their types. The assignment (onnxruntime 1.24 or later)
        has the nodes of the file, whether or not they run.
        """
        assigned = self._assigned()
        if not self._runs:
            return assigned
        in_file = {item.node for item in assigned}
        return tuple(
            NodePlacement(
                node=node.name,
                op=node.op,
                unit=_UNITS[node.provider],
                provider=node.provider,
                precision=node.precision,
                origin=(node.name,) if node.name in in_file else (),
            )
            for node in self._read_trace()
        )

    def node_times(self) -> tuple[NodeTime, ...]:
        """From ONNX Runtime's trace, which the first call ends: later runs are not in it."""
        return tuple(
            NodeTime(
                node=node.name,
                op=node.op,
                ms=node.ms,
                unit=_UNITS[node.provider],
                provider=node.provider,
            )
            for node in self._read_trace()
        )

    def close(self) -> None:
        """Free the graph, the weights and the arena."""
        if self._trace_folder and self._engine is not None:
            # An engine that is dropped while it traces writes its file at that moment.
            self._engine.end_profiling()
        self._drop_trace_folder()
        self._engine = None

    def _assigned(self) -> tuple[NodePlacement, ...]:
        if not hasattr(self._engine, "get_provider_graph_assignment_info"):
            return ()
        return tuple(
            NodePlacement(
                node=node.name or f"{node.op_type}_{number}",
                op=node.op_type,
                unit=_UNITS[part.ep_name],
                provider=part.ep_name,
                origin=(node.name,) if node.name else (),
            )
            for part in self._engine.get_provider_graph_assignment_info()
            for number, node in enumerate(part.get_nodes())
        )

    def _read_trace(self) -> tuple[_TracedNode, ...]:
        if self._trace_folder and self._engine is not None:
            self._trace = _read_trace_file(Path(self._engine.end_profiling()))
            self._drop_trace_folder()
        return self._trace

    def _drop_trace_folder(self) -> None:
        if self._trace_folder:
            self._trace_folder.cleanup()
            self._trace_folder = None


def _engine() -> Any:
    import onnxruntime

    # A build switch on Windows only; elsewhere it does nothing.
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _session_options(options: OpenOptions) -> Any:
    """Everything stated, because the defaults are for a server that has nothing else to do."""
    engine = _engine()
    settings = engine.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = engine.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = _QUIET
    # Threads spin while a run lasts, where waking them for every node would cost more than the work
    # saves, and sleep as soon as it returns. The default spins on and takes the cores of whatever
    # runs next: measured, it burns a whole core for 50 ms after each run.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return settings


def _load(artifact: Path, settings: Any) -> Any:
    try:
        return _engine().InferenceSession(str(artifact), settings, providers=[_PROVIDER])
    except _engine_errors() as exc:
        raise StepFailed(f"onnxruntime cannot load {artifact.name}: {exc}") from exc


def _engine_errors() -> tuple[type[Exception], ...]:
    """All that onnxruntime raises; its own classes have no common base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    own = [kind for kind in vars(native).values() if isinstance(kind, type)]
    return (RuntimeError, ValueError, *(kind for kind in own if issubclass(kind, Exception)))


def _info(value: Any) -> TensorInfo:
    dtype = _DTYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise ModelError(f"{value.name!r} is a {value.type}; only tensors can go in and out")
    dims: tuple[Dim, ...] = tuple(
        dim if isinstance(dim, int | str) else None for dim in value.shape
    )
    return TensorInfo(name=value.name, dtype=dtype, shape=dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TracedNode:
    """One node that ran.

    Attributes:
        name: as in the graph; fused nodes have the name of one of their parts.
        op: operation after fusion.
        provider: the execution provider.
        precision: `fp32`, `int8`, …: by the types of its first two inputs; empty if there are none.
        ms: mean over all runs, without the nodes inside its branches or loop body.
    """

    name: str
    op: str
    provider: str
    precision: str
    ms: float


def _read_trace_file(file: Path) -> tuple[_TracedNode, ...]:
    """Nodes in the order in which they first ran."""
    events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    runs = sum(event.get("name") == "model_run" for event in events)
    kernels = [
        event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
    ]
    micros: dict[tuple[str, str, str], int] = {}
    facts: dict[tuple[str, str, str], dict[str, Any]] = {}
    for event, own in zip(kernels, _own_micros(kernels), strict=True):
        args = event["args"]
        key = (event["name"].removesuffix(_KERNEL), args["op_name"], args["node_index"])
        micros[key] = micros.get(key, 0) + own
        facts.setdefault(key, args)
    return tuple(
        _TracedNode(
            name=key[0],
            op=key[1],
            provider=facts[key]["provider"],
            precision=_precision(key[1], facts[key]),
            ms=total / max(runs, 1) / 1e3,
        )
        for key, total in micros.items()
    )


def _own_micros(kernels: list[dict[str, Any]]) -> list[int]:
    """Duration of each event less what others took inside it: `If`, `Loop` and `Scan` nest."""
    own = [int(event["dur"]) for event in kernels]
    # Where an inner event starts in the same microsecond as the outer one, the longer is the outer.
    order = sorted(range(len(kernels)), key=lambda i: (kernels[i]["ts"], -kernels[i]["dur"]))
    open_events: list[int] = []
    for i in order:
        start = kernels[i]["ts"]
        while open_events and start >= _end(kernels[open_events[-1]]):
            open_events.pop()
        if open_events:
            own[open_events[-1]] -= int(kernels[i]["dur"])
        open_events.append(i)
    return [max(value, 0) for value in own]


def _end(event: dict[str, Any]) -> int:
    return int(event["ts"]) + int(event["dur"])


def _precision(op: str, args: dict[str, Any]) -> str:
    """By the first two inputs: data and weights, or data and scale where an op quantizes."""
    types = [next(iter(entry), "") for entry in args.get("input_type_shape", ())][:2]
    if not types:
        return ""
    if op in _PACKED:
        types = types[:1]
    if any(kind in ("int8", "uint8") for kind in types):
        return "int8"
    return _PRECISIONS.get(types[0], types[0])
