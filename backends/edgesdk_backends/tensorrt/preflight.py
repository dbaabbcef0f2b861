"""What TensorRT-RTX says of a model on a machine without a GPU: parsed, supported, built.

TensorRT-RTX is TensorRT's sibling for consumer GPUs, with the same parser and builder interface, and
builds for GPUs that are not here. That it accepts a model is strong evidence for TensorRT of a Jetson,
and no proof: versions differ, and Orin's own compute capability is not in its list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesdk.backend import Compiled, NodePlacement
from edgesdk.errors import ProfileError
from edgesdk_backends.tensorrt.building import Built, build

MODULE, PROVIDER = "tensorrt_rtx_bindings", "TensorRT-RTX"
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bf16": "bf16"}
_SILENT = frozenset(("QuantizeLinear", "DequantizeLinear", "Constant"))


def library() -> Any:
    """The Python module of TensorRT-RTX.

    Raises:
        ImportError: it is not installed.
    """
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def parse_capability(text: str) -> tuple[int, int]:
    """Major and minor number of a compute capability.

    Raises:
        ProfileError: the text is none.
    """
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if not match:
        raise ProfileError(
            f"target compute_capability = {text!r}; legal: major.minor, as '8.7' for Jetson Orin"
        )
    return int(match[1]), int(match[2])


def nearest_capability(wanted: str, members: Mapping[str, Any]) -> str:
    """The newest compute capability in a list that runs on the wanted one: same major, no newer.

    Args:
        wanted: as CUDA writes it: `8.7`.
        members: names such as `SM86`, in any order; others are passed over.

    Raises:
        ProfileError: it is no compute capability, or the list has none for its architecture.
    """
    major, minor = parse_capability(wanted)
    known = {(int(n[2:-1]), int(n[-1])): n for n in members if re.fullmatch(r"SM\d{2,}", n)}
    fitting = [pair for pair in known if pair[0] == major and pair[1] <= minor]
    if not fitting:
        legal = ", ".join(f"{first}.{second}" for first, second in sorted(known))
        raise ProfileError(
            f"target compute_capability = {wanted!r}: {PROVIDER} builds for none of its "
            f"architecture; it has {legal}"
        )
    return known[max(fitting)]


def prove(artifact: Path, capability: str) -> Compiled:
    """Parse a model and build an engine that is thrown away.

    Args:
        artifact: an ONNX file, which is the program that ships.
        capability: of the device, as CUDA writes it.

    Raises:
        ProfileError: no GPU of that architecture is known.
        StepFailed: the parser or the builder refuses the model; names nodes and reasons.
    """
    trt = library()
    chosen = nearest_capability(capability, trt.ComputeCapability.__members__)
    label = f"{PROVIDER} {trt.__version__}"
    built = build(trt, artifact, label=label, capability=chosen)
    notes = [
        f"{label} parses and supports all nodes ({built.layers} layers) and builds an engine of "
        f"{len(built.engine)} bytes for {chosen} in {built.seconds:.1f} s; nothing was run on a GPU",
        "the engine that runs is built on the device, by its own TensorRT",
    ]
    exact = "SM{}{}".format(*parse_capability(capability))
    if chosen != exact:
        notes.append(f"{PROVIDER} has no {exact}; {chosen} is the nearest of its architecture")
    return Compiled(
        program=artifact, placement=_placement(artifact, built, label), notes=tuple(notes)
    )


def _placement(artifact: Path, built: Built, label: str) -> tuple[NodePlacement, ...]:
    """An engine is on the GPU as a whole; the types are those of the parsed network."""
    import onnx

    from edgesdk_backends.tensorrt.placing import quantized_products

    proto = onnx.load(artifact, load_external_data=False)
    integer = quantized_products(proto)
    return tuple(
        NodePlacement(
            node=node.name,
            op=node.op_type,
            unit="gpu",
            provider=label,
            precision="int8" if node.name in integer else _precision(node, built),
            origin=(node.name,),
        )
        for node in proto.graph.node
        if node.op_type not in _SILENT
    )


def _precision(node: Any, built: Built) -> str:
    kinds = [built.types[name] for name in node.output if name in built.types]
    return _PRECISIONS.get(kinds[0], kinds[0]) if kinds else ""
