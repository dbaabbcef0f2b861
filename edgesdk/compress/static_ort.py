"""Calibrated integer weights and activations, placed by onnxruntime's quantizer (QDQ format)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.compress import onnx_io
from edgesdk.compress.calibration import Feeds

if TYPE_CHECKING:
    from edgesdk.compress.calibration import SampleSet
    from edgesdk.recipe import Recipe

_ROWS = {"minmax": 100, "percentile": 40, "entropy": 24}
"""Calibration rows at most: ranges settle within tens of rows; histograms cost far more a row."""
_FLOAT_OUTPUTS = ["MatMul", "Gemm"]
"""A product may leave as float, and does when weighted operators alone are quantized: quantizing it
ahead of its bias left a text encoder at cosine 0.92."""

_WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip")
"""With the activations that a quantizer absorbs: otherwise ranges are taken before clipping, and an
image classifier lost 4 points of top-1."""


def quantize_static(
    model: Path, recipe: Recipe, target: Path, samples: SampleSet, kept: frozenset[str]
) -> None:
    """Write the model with QuantizeLinear/DequantizeLinear pairs at fixed ranges, except at `kept`."""
    from onnxruntime import quantization

    methods = quantization.CalibrationMethod
    feeds: Any = Feeds(samples, _ROWS[recipe.ranges])
    quantization.quantize_static(
        model,
        target,
        feeds,
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(_WEIGHTED_OPS) if recipe.weighted_only else None,
        nodes_to_exclude=sorted(kept),
        per_channel=recipe.granularity == "channel",
        reduce_range=recipe.reduce_range,
        activation_type=_activation_type(recipe),
        weight_type=quantization.QuantType.QInt8,
        calibrate_method={
            "minmax": methods.MinMax,
            "percentile": methods.Percentile,
            "entropy": methods.Entropy,
        }[recipe.ranges],
        use_external_data_format=onnx_io.is_large(model),
        extra_options={
            "ActivationSymmetric": recipe.symmetric,
            "MatMulConstBOnly": recipe.weighted_only,
            "OpTypesToExcludeOutputQuantization": _FLOAT_OUTPUTS if recipe.weighted_only else [],
            # One row at a time: its histograms otherwise hold the activations of all rows at once,
            # and fail where lengths differ from row to row.
            "CalibStridedMinMax": 1,
        },
    )


def _activation_type(recipe: Recipe) -> Any:
    from onnxruntime.quantization import QuantType

    if recipe.activation_bits == 16:
        return QuantType.QInt16 if recipe.symmetric else QuantType.QUInt16
    return QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8
