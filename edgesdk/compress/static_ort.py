"""Calibrated integer weights and activations, placed by onnxruntime's quantizer (QDQ format)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.clipping import choose_range
from edgesdk.compress.histogram import is_masked

if TYPE_CHECKING:
    import onnx

    from edgesdk.compress.ranges import Observed
    from edgesdk.recipe import Recipe

_FLOAT_OUTPUTS = ["MatMul", "Gemm"]
"""A product may leave as float, and does when weighted operators alone are quantized: quantizing it
ahead of its bias left a text encoder at cosine 0.92."""

_WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip")
"""With the activations that a quantizer absorbs: otherwise ranges are taken before clipping, and an
image classifier lost 4 points of top-1."""

_COSTLY = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
"""Operators that int8 is for; they are quantized in any case."""


def quantize_static(
    model: Path, recipe: Recipe, target: Path, observed: Observed
) -> tuple[str, ...]:
    """Write the model with QuantizeLinear/DequantizeLinear pairs at fixed ranges.

    What adds, scales or normalises values of which some mean "not there" (attention masks) stays
    in float: no scale holds both them and what they are added to. Returns what it remarked.
    """
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".static.") as folder:
        scratch = Path(folder)
        source, masked = _around_masks(model, observed, scratch)
        quantization.quantize_static(
            source,
            target,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_WEIGHTED_OPS) if recipe.weighted_only else None,
            nodes_to_exclude=sorted(masked),
            per_channel=recipe.granularity == "channel",
            reduce_range=recipe.reduce_range,
            activation_type=_activation_type(recipe),
            weight_type=quantization.QuantType.QInt8,
            # Its own calibrators hold the activations of all rows at once; it takes their result
            # from a file instead when one is there.
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=_written(observed, recipe, scratch / "ranges.json"),
            use_external_data_format=onnx_io.is_large(model),
            extra_options={
                "ActivationSymmetric": recipe.symmetric,
                "MatMulConstBOnly": recipe.weighted_only,
                "OpTypesToExcludeOutputQuantization": (
                    _FLOAT_OUTPUTS if recipe.weighted_only else []
                ),
            },
        )
    around = f"{len(masked)} nodes around masked values stay float"
    return (*observed.notes, *((around,) if masked else ()))


def _written(observed: Observed, recipe: Recipe, path: Path) -> Path:
    """The ranges as onnxruntime keeps those that it has found."""
    from onnxruntime.quantization import calibrate

    chosen = {
        id(histogram): choose_range(
            histogram, recipe.ranges, bits=recipe.activation_bits, symmetric=recipe.symmetric
        )
        for histogram in {id(h): h for h in observed.histograms.values()}.values()
    }
    data = {}
    for name, histogram in observed.histograms.items():
        low, high = map(np.float32, chosen[id(histogram)])
        data[name] = calibrate.TensorData(lowest=low, highest=high)
    ranges = calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data)
    calibrate.save_tensors_data(ranges, path)
    return path


def _around_masks(model: Path, observed: Observed, scratch: Path) -> tuple[Path, list[str]]:
    """The model with names for all nodes that touch masked values, and these names."""
    proto = onnx_io.read_structure(model)
    masked = {name for name, histogram in observed.histograms.items() if is_masked(histogram)}
    nodes = [
        node
        for node in proto.graph.node
        if node.op_type not in _COSTLY and masked.intersection((*node.input, *node.output))
    ]
    if all(node.name for node in nodes):
        return model, [node.name for node in nodes]
    return _named(proto, model, nodes, scratch), [node.name for node in nodes]


def _named(
    proto: onnx.ModelProto, model: Path, nodes: Sequence[onnx.NodeProto], scratch: Path
) -> Path:
    """A copy of the model in which each of these nodes has a name; quantizers know them by that."""
    import onnx

    for number, node in enumerate(nodes):
        node.name = node.name or f"masked_{number}"
    copy = scratch / "model.onnx"
    onnx_io.copy_data_files(proto, model, copy)
    onnx.save(proto, copy)
    return copy


def _activation_type(recipe: Recipe) -> Any:
    from onnxruntime.quantization import QuantType

    if recipe.activation_bits == 16:
        return QuantType.QInt16 if recipe.symmetric else QuantType.QUInt16
    return QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8
