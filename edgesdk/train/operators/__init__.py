"""ONNX operators on PyTorch tensors; importing this package registers them all."""

from edgesdk.train.operators import (
    activations,
    elementwise,
    indexing,
    layers,
    normalization,
    pooling,
    quantized,
    recurrent,
    reductions,
    resizing,
    shapes,
)
from edgesdk.train.operators.registry import OPERATORS, Call

__all__ = [
    "OPERATORS",
    "Call",
    "activations",
    "elementwise",
    "indexing",
    "layers",
    "normalization",
    "pooling",
    "quantized",
    "recurrent",
    "reductions",
    "resizing",
    "shapes",
]
