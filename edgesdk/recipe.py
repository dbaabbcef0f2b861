"""Recipes: the compression settings of one component, as frozen data whose name decodes.

    recipe    := float | quantized
    float     := ("fp32" | "bf16" | "fp16") ["-w16"]
    quantized := weights [activations] "-" mode option*
    weights     := ("w8" | "w4") ["b" block]  int8 or int4 weights, a scale for `block` values
    activations := "a8" | "a16"             integer activations
    mode        := "static"                 activation ranges fixed by calibration
                 | "dynamic"                activation ranges found at run time
                 | "only"                   activations stay float; without blocks, weights are
                                            stored small and restored when the engine loads
    option, in this order:
        "-nncf"                             who places the quantizers (else onnxruntime's tools)
        "-tensor"                           one weight scale per tensor (else per channel)
        "-percentile" | "-entropy" | "-mse" how ranges are chosen (else the observed min and max)
        "-weighted"                         only Conv, Gemm and MatMul (else every op that can)
        "-mixed"                            asymmetric activations, symmetric weights (NNCF)
        "-transformer"                      NNCF's placement for attention blocks
        "-symmetric"                        int8 (s8s8) activations (else uint8)
        "-reduce"                           7-bit weights, for CPUs whose u8s8 product saturates
        "-smooth"                           uneven channels of activations evened out beforehand, by
                                            scales that the weights take over
        "-qat"                              then trained through its quantizers (edgesdk[train])
        "-bf16" | "-fp16"                   what stays float is executed in this type

`fp32` is the cleaned original; `bf16` and `fp16` execute in that type; `-w16` stores float weights
in 16 bits. So `w8a8-static-nncf-transformer-bf16` is: int8 weights per channel and int8 activations
with calibrated ranges, placed by NNCF's transformer rules, the rest executed in bfloat16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from edgesdk.errors import RecipeError

Mode = Literal["float", "static", "dynamic", "only"]
Quantizer = Literal["ort", "nncf"]
Granularity = Literal["channel", "tensor"]
Ranges = Literal["minmax", "percentile", "entropy", "mse"]
Execution = Literal["fp32", "bf16", "fp16"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)

_OPTIONS = (
    ("nncf",),
    ("tensor",),
    ("percentile", "entropy", "mse"),
    ("weighted",),
    ("mixed",),
    ("transformer",),
    ("symmetric",),
    ("reduce",),
    ("smooth",),
    ("qat",),
    ("bf16", "fp16"),
)
_HEAD = re.compile(r"w(?P<bits>[48])(?:b(?P<block>[1-9]\d*))?(?:a(?P<act>8|16))?")
_BLOCKS = (16, 32, 64, 128, 256)
"""Powers of two, as kernels for blocks of weights require."""
_EXAMPLES = "fp32, bf16, fp32-w16, w8a8-dynamic, w8a8-static-percentile, w4b32-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of one component. Build by name (`Recipe.parse`) or by field; `name` is canonical.

    Attributes:
        mode: `float`, or how activations are treated when weights are integers.
        weight_bits: bits a weight takes in the artifact: 32, 16, 8 or 4.
        activation_bits: 32 for float activations, else 8 or 16.
        block: weights that share one scale along the reduced axis; None for a channel or tensor.
        quantizer: whose rules place the quantizers.
        granularity: one weight scale per output channel or per tensor.
        ranges: how calibrated ranges are chosen.
        weighted_only: quantize Conv, Gemm and MatMul alone.
        mixed: NNCF's mixed preset.
        transformer: NNCF's transformer model type.
        symmetric: signed activations with zero point 0.
        reduce_range: weights use 7 of their 8 bits.
        smooth: scales migrate from activations to weights first.
        qat: quantization-aware training: the weights are trained through the quantizers of the finished
            graph to answer as the float original does.
        execution: the type in which float operations run.
    """

    mode: Mode = "float"
    weight_bits: int = 32
    activation_bits: int = 32
    block: int | None = None
    quantizer: Quantizer = "ort"
    granularity: Granularity = "channel"
    ranges: Ranges = "minmax"
    weighted_only: bool = False
    mixed: bool = False
    transformer: bool = False
    symmetric: bool = False
    reduce_range: bool = False
    smooth: bool = False
    qat: bool = False
    execution: Execution = "fp32"

    def __post_init__(self) -> None:
        """Refuse a combination that means nothing.

        Raises:
            RecipeError: names the fields that contradict each other.
        """
        problem = self._contradiction()
        if problem:
            raise RecipeError(f"recipe {self._spell()!r}: {problem}")

    def _contradiction(self) -> str | None:
        if self.mode == "float":
            if self.weight_bits not in (16, 32) or self.activation_bits != 32:
                return "a float recipe has 32- or 16-bit weights and float activations"
            plain = ("mode", "weight_bits", "activation_bits", "execution")
            if any(getattr(self, f.name) != f.default for f in fields(self) if f.name not in plain):
                return "a float recipe takes no quantization option"
            return None
        if self.weight_bits not in (4, 8):
            return f"weights of {self.weight_bits} bits; legal: 8, 4"
        wanted = {"static": (8, 16), "dynamic": (8,), "only": (32,)}[self.mode]
        if self.activation_bits not in wanted:
            return f"{self.mode} takes activations of {' or '.join(map(str, wanted))} bits"
        placed = self.ranges != "minmax" or self.mixed or self.transformer or self.symmetric
        if self.mode != "static" and placed:
            return f"range and placement options need mode 'static', not {self.mode!r}"
        if self.mode == "only" and self.reduce_range:
            return "7-bit weights are for integer products, which mode 'only' does not make"
        return (
            self._smooth_problem()
            or self._block_problem()
            or self._nncf_problem()
            or self._qat_problem()
        )

    def _smooth_problem(self) -> str | None:
        if not self.smooth:
            return None
        if self.mode == "only":
            return "'smooth' evens out quantized activations, and mode 'only' has none"
        if self.quantizer == "nncf":
            return "NNCF smooths by itself, with 'transformer'"
        return "'smooth' needs a weight scale per channel" if self.granularity == "tensor" else None

    def _qat_problem(self) -> str | None:
        if self.qat and self._untrainable:
            return f"'qat' trains through fixed quantizers: {self._untrainable}"
        return None

    @property
    def _untrainable(self) -> str:
        """Why no gradient passes what it writes; empty where one does."""
        if self.mode == "float":
            return "a float recipe has none"
        if self.mode == "dynamic":
            return "mode 'dynamic' has none, but integer operators"
        blocks = self.mode == "only" and self.block is not None and self.quantizer == "ort"
        return "blocks of weights have them with 'nncf' only" if blocks else ""

    @property
    def can_be_trained(self) -> bool:
        """Whether `-qat` is legal with it."""
        return not self._untrainable

    def _block_problem(self) -> str | None:
        if self.block is None:
            return "4-bit weights need a block, as in w4b32-only" if self.weight_bits == 4 else None
        if self.mode != "only":
            return "blocks of weights need mode 'only'"
        if self.block not in _BLOCKS:
            return f"blocks of {self.block} weights; legal: {', '.join(map(str, _BLOCKS))}"
        return (
            "a block has a scale of its own, not a tensor" if self.granularity == "tensor" else None
        )

    def _nncf_problem(self) -> str | None:
        if self.quantizer != "nncf":
            return (
                "'mixed' and 'transformer' need 'nncf'" if self.mixed or self.transformer else None
            )
        if self.mode == "dynamic":
            return "NNCF has no dynamic quantization"
        if self.activation_bits == 16:
            return "NNCF quantizes activations to 8 bits"
        foreign = self.weighted_only or self.symmetric or self.granularity == "tensor"
        if foreign or self.ranges in ("entropy", "mse"):
            return "NNCF takes no 'weighted', 'symmetric', 'tensor', 'entropy' or 'mse'"
        if self.mode == "only" and self.weight_bits == 8 and self.block is not None:
            return "NNCF has no blocks of 8-bit weights"
        return None

    @property
    def name(self) -> str:
        """The canonical name; `Recipe.parse(recipe.name) == recipe`."""
        return self._spell()

    def _spell(self) -> str:
        if self.mode == "float":
            return self.execution + ("-w16" if self.weight_bits == 16 else "")
        head = f"w{self.weight_bits}" + (f"b{self.block}" if self.block else "")
        if self.activation_bits != 32:
            head += f"a{self.activation_bits}"
        options = (
            "nncf" if self.quantizer == "nncf" else "",
            "tensor" if self.granularity == "tensor" else "",
            self.ranges if self.ranges != "minmax" else "",
            "weighted" if self.weighted_only else "",
            "mixed" if self.mixed else "",
            "transformer" if self.transformer else "",
            "symmetric" if self.symmetric else "",
            "reduce" if self.reduce_range else "",
            "smooth" if self.smooth else "",
            "qat" if self.qat else "",
            self.execution if self.execution != "fp32" else "",
        )
        return "-".join((head, self.mode, *(option for option in options if option)))

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str) -> Recipe:
        """The recipe that a name stands for.

        Raises:
            RecipeError: the name does not follow the grammar at the top of this module.
        """
        head, *rest = name.split("-")
        if head in get_args(Execution):
            if rest not in ([], ["w16"]):
                raise RecipeError(f"recipe {name!r}: after {head!r} only '-w16' is legal")
            return cls(execution=head, weight_bits=16 if rest else 32)  # type: ignore[arg-type]
        match = _HEAD.fullmatch(head)
        if not match or not rest or rest[0] not in ("static", "dynamic", "only"):
            raise RecipeError(f"no recipe {name!r}; a name looks like: {_EXAMPLES}")
        found = _read_options(name, rest[1:])
        return cls(
            mode=rest[0],  # type: ignore[arg-type]
            weight_bits=int(match["bits"]),
            activation_bits=int(match["act"] or 32),
            block=int(match["block"]) if match["block"] else None,
            quantizer="nncf" if "nncf" in found else "ort",
            granularity="tensor" if "tensor" in found else "channel",
            ranges=next((r for r in ("percentile", "entropy", "mse") if r in found), "minmax"),
            weighted_only="weighted" in found,
            mixed="mixed" in found,
            transformer="transformer" in found,
            symmetric="symmetric" in found,
            reduce_range="reduce" in found,
            smooth="smooth" in found,
            qat="qat" in found,
            execution=next((e for e in ("bf16", "fp16") if e in found), "fp32"),
        )

    @property
    def needs_calibration(self) -> bool:
        """True when real samples are needed to apply it."""
        return self.mode == "static" or self.smooth or self.qat

    @property
    def needs_ranges(self) -> bool:
        """True when it starts from ranges that we observe; NNCF observes for itself."""
        return self.mode == "static" and self.quantizer == "ort"

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be there to apply it, in words."""
        wants = ["calibration samples"] if self.needs_calibration else []
        if self.mode != "float":
            wants.append("nncf" if self.quantizer == "nncf" else "onnxruntime")
        if self.qat:
            wants.append("edgesdk[train]")
        return tuple(wants)

    @property
    def spared(self) -> Recipe:
        """What single nodes get that are spared: 8-bit weights under a 4-bit recipe, else float."""
        if self.weight_bits == 4:
            block = None if self.quantizer == "nncf" else self.block
            return replace(self, weight_bits=8, block=block, qat=False)
        return Recipe(execution=self.execution)

    @property
    def untrained(self) -> Recipe:
        """The same without training."""
        return replace(self, qat=False)

    @property
    def stored(self) -> Recipe:
        """What is done to the graph: equal `stored` means equal compressed ONNX.

        A float16 graph is one; every other execution type only tells the engine how to run.
        """
        if self.mode == "float" and self.execution == "fp16":
            return replace(self, weight_bits=16)
        return replace(self, execution="fp32")


def _read_options(name: str, options: list[str]) -> set[str]:
    """The options of a name, refusing unknown, repeated and misplaced ones."""
    left = list(options)
    for group in _OPTIONS:
        if left and left[0] in group:
            left.pop(0)
    if left:
        legal = ", ".join("|".join(group) for group in _OPTIONS)
        raise RecipeError(
            f"recipe {name!r}: option {left[0]!r} is unknown, repeated or out of order; "
            f"legal, in this order: {legal}"
        )
    return set(options)
