"""Blocks of int4 or int8 weights that stay small in memory: onnxruntime's MatMulNBits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io
from edgesdk.compress.sharing import own_transposed

if TYPE_CHECKING:
    import onnx

    from edgesdk.recipe import Recipe

_INT8_PRODUCT = 4
"""The operator's accuracy level at which products of blocks are summed as int8: its fast path on
CPUs. Cosine on a text encoder was the same with and without it (0.9973)."""


def quantize_blocks(model: Path, recipe: Recipe, target: Path, kept: frozenset[str]) -> None:
    """Write the model with its MatMul (and Gemm) weights in blocks with one scale each.

    Those of `kept` stay float; where the others take 4 bits, they take 8.
    """
    proto = onnx_io.read_whole(model)
    split_gemms(proto)
    proto = _in_blocks(proto, recipe, with_products(kept))
    if kept and recipe.weight_bits == 4:
        proto = _in_blocks(proto, recipe.spared, [])
    onnx_io.write(proto, target)


def _in_blocks(proto: onnx.ModelProto, recipe: Recipe, kept: list[str]) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        proto,
        bits=recipe.weight_bits,
        block_size=recipe.block,
        is_symmetric=True,
        accuracy_level=_INT8_PRODUCT,
        nodes_to_exclude=kept,
    )
    quantizer.process()
    found: onnx.ModelProto = quantizer.model.model
    return found


def split_gemms(proto: onnx.ModelProto) -> None:
    """Turn Gemm into MatMul and Add where it is no more than that: the quantizer skips Gemm."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    own_transposed(proto)
    ONNXModel(proto).replace_gemm_with_matmul()


def with_products(names: frozenset[str]) -> list[str]:
    """Node names, with those that onnxruntime gives to the products it makes of Gemm."""
    return sorted(names | {f"{name}_MatMul" for name in names})
