"""Integer weights, float activations, placed by NNCF: what OpenVINO computes with directly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io
from edgesdk.compress.blocks import split_gemms, with_products
from edgesdk.compress.static_nncf import load_nncf
from edgesdk.compress.weights import elements

if TYPE_CHECKING:
    import onnx

    from edgesdk.recipe import Recipe

_OPSET_OF_INT4 = 21


def compress_weights(model: Path, recipe: Recipe, target: Path, kept: frozenset[str]) -> None:
    """Write the model with DequantizeLinear behind each integer weight.

    Those of `kept` stay float; where the others take 4 bits, they take 8.
    """
    from onnx import version_converter

    nncf = load_nncf()
    proto = onnx_io.read_whole(model)
    modes = nncf.CompressWeightsMode
    # Of a transposed Gemm it writes blocks along the wrong axis, which do not load.
    split_gemms(proto)
    ignored = nncf.IgnoredScope(names=with_products(kept), validate=False)
    if recipe.weight_bits == 8:
        compressed = nncf.compress_weights(proto, mode=modes.INT8_ASYM, ignored_scope=ignored)
    else:
        if onnx_io.opset_of(proto) < _OPSET_OF_INT4:
            proto = version_converter.convert_version(proto, _OPSET_OF_INT4)
            proto.ir_version = max(proto.ir_version, 10)
        compressed = nncf.compress_weights(
            proto,
            mode=modes.INT4_SYM,
            group_size=recipe.block,
            ratio=1.0,
            ignored_scope=ignored,
        )
        if kept:
            compressed = nncf.compress_weights(compressed, mode=modes.INT8_ASYM)
    _flatten_scales(compressed)
    onnx_io.write(compressed, target)


def _flatten_scales(proto: onnx.ModelProto) -> None:
    """Make vectors of per-channel scales, as the operator wants; NNCF writes [C, 1, 1] for Conv."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or onnx_io.attribute(node, "block_size", 0):
            continue
        for tensor in (stored[name] for name in node.input[1:] if name in stored):
            if len(tensor.dims) > 1:
                length = elements(tensor)
                del tensor.dims[:]
                tensor.dims.append(length)
