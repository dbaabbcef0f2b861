"""Whether weights that are zero save time on a runtime of a device, and what speaks against it; pure."""

from __future__ import annotations

import re

from edgesdk.cause import Cause
from edgesdk.plan.candidate import Choice
from edgesdk.profile_values import Profile

TWO_OF_FOUR = (2, 4)
_SPARSE_CORES = 80
"""The first compute capability with sparse tensor cores, times 10: Ampere."""
_BUYS = Cause(
    kind="budget",
    key="objective",
    why="zeros make a file smaller once it is zipped (compress says by how much), and nothing else; ask "
    "for that by --objective size",
)


def against_zeros(choice: Choice, profile: Profile) -> tuple[Cause, ...]:
    """Why the zeros of a choice make it no faster; none where it sets none, or where they may."""
    for step in choice.structure:
        if step.kind in ("sparse", "sparse2of4"):
            pattern = TWO_OF_FOUR if step.kind == "sparse2of4" else None
            cause = against_sparsity(profile, choice.backend, pattern)
            return () if cause is None else (cause, _BUYS)
    return ()


def against_sparsity(
    profile: Profile, backend: str, pattern: tuple[int, int] | None = None
) -> Cause | None:
    """Why zeros save no time on a runtime of a profile; None where they may, if measured.

    Where they may, the runtime has to be told: TensorRT's builder by the flag SPARSE_WEIGHTS, OpenVINO
    by sparse_weights_decompression_rate. Both are off by default.

    Args:
        profile: of the device.
        backend: name of one of its runtimes.
        pattern: N and M; None for zeros anywhere.

    Raises:
        ProfileError: the profile has no such runtime.
    """
    runtime = profile.runtime(backend)
    features = {word for name in runtime.units for word in profile.unit(name).features}
    if backend == "openvino":
        return None if "amx_int8" in features else _OPENVINO
    if backend == "tensorrt":
        if pattern != TWO_OF_FOUR:
            return _TENSORRT_PATTERN
        known = [int(m[1]) for word in features if (m := re.fullmatch(r"sm_(\d+)", word))]
        return None if any(number >= _SPARSE_CORES for number in known) else _TENSORRT_UNIT
    return _REASONS.get(backend, _UNKNOWN)


def _cause(key: str, why: str, source: str, date: str) -> Cause:
    return Cause(kind="engine", key=key, value=False, why=why, source=source, date=date)


_OPENVINO = _cause(
    "openvino.sparse_kernels",
    "OpenVINO unpacks sparse weights on CPUs with AMX only, for int8 matrix products whose sides are "
    "multiples of 64, and only if sparse_weights_decompression_rate is set; elsewhere zeros are "
    "multiplied like any number",
    "OpenVINO, src/plugins/intel_cpu/src/nodes/fullyconnected.cpp (useSparseWeightsDecompression) and "
    "the CPU device page, section on sparse weights decompression",
    "2025",
)
_TENSORRT_PATTERN = _cause(
    "tensorrt.sparse_kernels",
    "TensorRT has kernels for 2:4 along the input channels and for no other zeros",
    "NVIDIA/TensorRT issue 3282: only 2:4 structured sparsity is supported",
    "2023-09",
)
_TENSORRT_UNIT = _cause(
    "tensorrt.sparse_tensor_cores",
    "sparse tensor cores came with Ampere (sm_80); this unit is older or states no capability",
    "NVIDIA, Accelerating Inference with Sparsity Using the NVIDIA Ampere Architecture and TensorRT",
    "2021-07",
)
_REASONS = {
    "onnxruntime": _cause(
        "onnxruntime.sparse_kernels",
        "onnxruntime has no kernel that skips zeros: a sparse initializer becomes dense when the model "
        "is loaded, so zeros save bytes of a compressed file and no time",
        "microsoft/onnxruntime issues 2121 and 5578",
        "2020-10",
    ),
    "litert": _cause(
        "litert.sparse_kernels",
        "LiteRT's sparse kernels (XNNPACK) take 1x1 convolutions with two thirds of zeros, between a "
        "3x3 convolution of an image and a mean over it, and only from files with DENSIFY operators, "
        "which the converter from ONNX does not write",
        "TensorFlow, tensorflow/lite/delegates/xnnpack/README.md, section Sparse Inference",
        "2024",
    ),
}
_UNKNOWN = _cause(
    "sparse_kernels", "no document is known that says this runtime skips zeros", "", ""
)
