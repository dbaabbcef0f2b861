"""Which recipes TensorRT can run at all. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesdk.recipe import Recipe


def against(recipe: Recipe) -> str | None:
    """Why no model runs with a recipe, or None.

    TensorRT documentation, "Working with Quantized Types": int8 for weights together with activations,
    int4 for weights alone, both symmetric and with fixed scales.
    """
    if recipe.mode == "float":
        return None
    if recipe.mode == "dynamic":
        return "TensorRT wants activation ranges that are fixed; use w8a8-static-symmetric"
    if recipe.mode == "only":
        if recipe.weight_bits == 4:
            return None
        return (
            "TensorRT restores 8-bit weights when it builds the engine, which is none the smaller"
        )
    if recipe.activation_bits != 8 or recipe.weight_bits != 8:
        return "TensorRT quantizes weights and activations together to 8 bits only"
    if recipe.quantizer == "nncf":
        return "NNCF quantizes to uint8 where values are positive, and TensorRT knows int8 only"
    if not recipe.symmetric:
        return "TensorRT takes int8 with zero point 0 only; use '-symmetric'"
    return None
