"""Precisions that single nodes can have, as names that decode.

    precision := "bf16" | "fp16" | integer
    integer   := weights [activations] ["-symmetric"] ["-tensor"]
    weights     := ("w8" | "w4") ["b" block]  int8 or int4, a scale an output channel, or a block
    activations := "a8" | "a16"             integer inputs; without it they stay float
    "-symmetric"                            signed inputs with zero point 0 (else asymmetric)
    "-tensor"                               one weight scale (else one an output channel)

The heads and options mean what they mean in the names of recipes (`edgesdk/recipe.py`). Whether
the ranges of activations are fixed or found at run time is not part of the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgesdk.errors import RecipeError
from edgesdk.recipe import Recipe

_INTEGER = re.compile(
    r"w(?P<bits>[48])(?:b(?P<block>[1-9]\d*))?(?:a(?P<act>8|16))?"
    r"(?P<symmetric>-symmetric)?(?P<tensor>-tensor)?"
)
_FLOATS = ("bf16", "fp16")
_EXAMPLES = "w8a8, w8a8-symmetric, w8a16, w8, w4b32, bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How one node computes.

    Attributes:
        name: as at the top of this module; `Precision.parse(p.name) == p`.
        cast: `bf16` or `fp16` where inputs and output are rounded to that type; else None, and the
            fields below count.
        weight_bits: 8 or 4; None with `cast`.
        activation_bits: 8, 16, or None where inputs stay float.
        block: weights that share a scale along the reduced axis; None for a channel or tensor.
        symmetric: activations have zero point 0.
        per_tensor: one weight scale in all.
    """

    name: str
    cast: str | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    block: int | None = None
    symmetric: bool = False
    per_tensor: bool = False

    @classmethod
    def of(cls, recipe: Recipe) -> Precision:
        """What a recipe makes of the nodes that it quantizes.

        Raises:
            RecipeError: it quantizes none.
        """
        if recipe.mode == "float":
            raise RecipeError(f"recipe {recipe.name!r} quantizes no node")
        symmetric = recipe.symmetric or (recipe.quantizer == "nncf" and not recipe.mixed)
        integer = recipe.activation_bits != 32
        return cls.parse(
            f"w{recipe.weight_bits}"
            + (f"b{recipe.block}" if recipe.block else "")
            + (f"a{recipe.activation_bits}" if integer else "")
            + ("-symmetric" if integer and symmetric else "")
            + ("-tensor" if recipe.granularity == "tensor" else "")
        )

    @property
    def spared(self) -> Precision | None:
        """What `Recipe.spared` makes of the nodes that are spared; None for float."""
        return Precision.parse("w8") if self.weight_bits == 4 else None

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str) -> Precision:
        """The precision that a name stands for.

        Raises:
            RecipeError: the name does not follow the grammar at the top of this module.
        """
        if name in _FLOATS:
            return cls(name=name, cast=name)
        match = _INTEGER.fullmatch(name)
        if not match:
            raise RecipeError(f"no precision {name!r}; a name looks like: {_EXAMPLES}")
        if match["symmetric"] and not match["act"]:
            raise RecipeError(
                f"precision {name!r}: 'symmetric' is about activations; add a8 or a16"
            )
        if match["tensor"] and match["block"]:
            raise RecipeError(f"precision {name!r}: a block has a scale of its own, not a tensor")
        return cls(
            name=name,
            weight_bits=int(match["bits"]),
            activation_bits=int(match["act"]) if match["act"] else None,
            block=int(match["block"]) if match["block"] else None,
            symmetric=bool(match["symmetric"]),
            per_tensor=bool(match["tensor"]),
        )
