"""Parsing a model and building an engine of it; the same calls for TensorRT and for TensorRT-RTX.

`trt` is the Python module of one of the two, which share this interface (seen in TensorRT-RTX 1.7 and in
the documentation of TensorRT 10). Networks are strongly typed: every operation computes in the types
that the ONNX graph states, and no flag of the builder decides about precision.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.backend import NodePlacement
from edgesdk.errors import StepFailed

_TOLD = 5
_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's types as numpy names them; it has others that numpy lacks."""
Listener = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What came of a model that was accepted.

    Attributes:
        engine: serialized.
        timing: what was learned about kernels, for the next build; empty where nothing was asked.
        layers: of the network that the parser made.
        seconds: parsing and building.
        types: of every tensor that a layer of the network writes, by the name it has in the model.
    """

    engine: bytes
    timing: bytes
    layers: int
    seconds: float
    types: Mapping[str, str]


def build(
    trt: Any,
    artifact: Path,
    *,
    label: str,
    capability: str | None = None,
    timing: bytes | None = None,
    listen: Listener | None = None,
) -> Built:
    """Parse a model and build an engine.

    Args:
        trt: the module of TensorRT or TensorRT-RTX.
        artifact: an ONNX file.
        label: what the engine is called in messages.
        capability: name of the GPU's compute capability in `trt.ComputeCapability`; None for the GPU
            that is here.
        timing: what an earlier build on this machine learned, empty at first; None where nothing is to
            be learned, as TensorRT-RTX does not.
        listen: takes a line whenever a phase of building goes on.

    Raises:
        StepFailed: the parser or the builder refuses the model; names the nodes and reasons.
    """
    log = make_log(trt)
    builder = trt.Builder(log)
    network = _network(trt, builder)
    parser = trt.OnnxParser(network, log)
    start = time.perf_counter()
    if not parser.parse_from_file(str(artifact)):
        refused = unsupported(trt, artifact) or _refused(trt, parser)
        raise StepFailed(_told(label, refused, log.errors))
    config = builder.create_builder_config()
    # On by default, it computes products of float32 with 10 bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    if timing is not None:
        # What is damaged, or of another version, is answered with an empty one or with none.
        known = config.create_timing_cache(timing) or config.create_timing_cache(b"")
        config.set_timing_cache(known, ignore_mismatch=False)
    monitor = make_monitor(trt, listen) if listen else None
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reasons = "; ".join(log.errors[:_TOLD]) or "it says no reason"
        raise StepFailed(f"{label} parses the model and builds no engine: {reasons}")
    return Built(
        engine=bytes(engine),
        timing=b"" if timing is None else bytes(config.get_timing_cache().serialize()),
        layers=int(network.num_layers),
        seconds=time.perf_counter() - start,
        types=_types(network),
    )


def unsupported(trt: Any, artifact: Path) -> tuple[NodePlacement, ...]:
    """The nodes that the parser refuses, each with its reason; empty when it takes the model."""
    log = make_log(trt)
    builder = trt.Builder(log)
    network = _network(trt, builder)  # the parser does not keep it alive
    # A second question to the same parser is answered with an error.
    parser = trt.OnnxParser(network, log)
    if parser.supports_model_v2(artifact.read_bytes(), str(artifact)):
        return ()
    return _refused(trt, parser)


def type_name(kind: Any) -> str:
    """A type of TensorRT's, as numpy names it where it has it."""
    name = str(kind.name)
    return _TYPES.get(name, name.lower())


def make_log(trt: Any) -> Any:
    """A logger that keeps errors, in `errors`; the library's own writes all to standard error."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(_plain(message))

    return Log()


def make_monitor(trt: Any, listen: Listener) -> Any:
    """A progress monitor that tells each outermost phase, and every tenth of it."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                listen(f"{phase_name}: {num_steps} steps")

        def phase_finish(self, phase_name: str) -> None:
            if self._steps.pop(phase_name, None) is not None:
                listen(f"{phase_name}: done")

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._steps.get(phase_name, 0)
            if steps >= 10 and (step + 1) % (steps // 10) == 0:
                listen(f"{phase_name}: {step + 1} of {steps}")
            return True

    return Monitor()


def to_stderr(line: str) -> None:
    """Progress for whoever waits."""
    print(f"tensorrt: {line}", file=sys.stderr, flush=True)


def _network(trt: Any, builder: Any) -> Any:
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def _refused(trt: Any, parser: Any) -> tuple[NodePlacement, ...]:
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    return tuple(
        NodePlacement(
            node=error.node_name() or f"node {error.node()}",
            op=error.node_operator(),
            unit="cpu",
            origin=(error.node_name(),) if error.node_name() else (),
            why=_reason(parser, error),
        )
        for error in errors
    )


def _reason(parser: Any, error: Any) -> str:
    op = error.node_operator()
    if op and not parser.supports_operator(op):
        return f"its parser has no operator {op}"
    return _plain(error.desc())


def _told(label: str, refused: tuple[NodePlacement, ...], errors: list[str]) -> str:
    if not refused:
        return (
            f"{label} does not parse the model: {'; '.join(errors[:_TOLD]) or 'it says no reason'}"
        )
    named = "; ".join(f"{item.node} ({item.op}): {item.why}" for item in refused[:_TOLD])
    more = f"; and {len(refused) - _TOLD} more" if len(refused) > _TOLD else ""
    count = f"{len(refused)} node" + ("s" if len(refused) > 1 else "")
    return f"{label} refuses {count}: {named}{more}"


def _plain(text: str) -> str:
    """A message in one line, without the places in NVIDIA's sources."""
    return re.sub(r"\s*\(?\bIn \w+ at /\S+?:\d+\)?|\s+", " ", text).strip()


def _types(network: Any) -> dict[str, str]:
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    outputs = [layer.get_output(place) for layer in layers for place in range(layer.num_outputs)]
    return {tensor.name: type_name(tensor.dtype) for tensor in outputs if tensor is not None}
