"""Integer weights, activations quantized at run time: onnxruntime's dynamic quantization."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io
from edgesdk.compress.blocks import with_products
from edgesdk.compress.sharing import own_transposed

if TYPE_CHECKING:
    from edgesdk.recipe import Recipe

_DEFAULT_OPS = ("MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
"""Without Conv: onnxruntime's ConvInteger has no fast kernel, and a detector ran slower with it."""
_WEIGHTED_OPS = ("Conv", "Gemm", "MatMul")


def quantize_dynamic(model: Path, recipe: Recipe, target: Path, kept: frozenset[str]) -> None:
    """Write the model with int8 weights whose activations are quantized as they come, except at `kept`."""
    from onnxruntime import quantization

    proto = onnx_io.read_whole(model)
    branches = any(True for node in proto.graph.node for _ in onnx_io.subgraphs(node))
    with TemporaryDirectory(dir=target.parent) as scratch:
        source = model
        if own_transposed(proto):
            source = onnx_io.write(proto, Path(scratch) / model.name)
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(_WEIGHTED_OPS if recipe.weighted_only else _DEFAULT_OPS),
            nodes_to_exclude=with_products(kept),
            per_channel=recipe.granularity == "channel",
            reduce_range=recipe.reduce_range,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=onnx_io.is_large(source),
            extra_options={"MatMulConstBOnly": True, "EnableSubgraph": branches},
        )
