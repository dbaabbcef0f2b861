"""Which recipes the HTP runs; pure."""

from __future__ import annotations

from edgesdk.recipe import Recipe


def against(recipe: Recipe) -> str | None:
    """Why a recipe gains nothing or does not run on any model, or None."""
    if recipe.mode == "float":
        if recipe.execution == "fp32":
            return "the HTP computes float operations in half precision; take fp16"
        return None
    if recipe.quantizer == "nncf":
        return (
            "the HTP computes in integers where outputs are quantized, too; NNCF quantizes inputs "
            "alone: leave out -nncf"
        )
    if recipe.mode == "dynamic":
        return (
            "the HTP fixes ranges when it compiles; ranges found at run time fall back to half "
            "precision"
        )
    if recipe.mode == "only" and recipe.block is None:
        return (
            "weights stored small are restored when the model is compiled: the program is as large "
            "as in fp16; take blocks of weights, as in w8b32-only-fp16"
        )
    if recipe.weighted_only:
        return (
            "without a quantized output the HTP restores the weights at every run and computes in "
            "half precision; leave out -weighted"
        )
    if recipe.symmetric and recipe.activation_bits == 16:
        return "the HTP lacks operators with signed 16-bit activations; leave out -symmetric"
    if recipe.reduce_range:
        return "the HTP adds 8-bit products in 32 bits, so 7-bit weights gain nothing"
    return None
