"""Which recipes are worth trying on a model, from what it is made of; pure.

Each costs tens of seconds to make and to measure, so the list is short. What it says about quality
was measured with this package on a text encoder (MiniLM), an image classifier (EfficientNet-Lite0),
a text recogniser and a text detector (PP-OCRv4) and a voice detector (silero-vad); what it says
about speed is only a reason to measure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from edgesdk.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A recipe and, in a sentence, why it is worth trying."""

    recipe: Recipe
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A recipe's name and, in a sentence, why it is not worth its time here."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Traits:
    """What of a model decides."""

    convolutions: int
    products: int
    recurrent: int
    tables: int
    attention: bool
    calibration: bool
    storage: bool
    bf16: bool

    @property
    def weighted(self) -> bool:
        return bool(self.convolutions or self.products or self.recurrent or self.tables)

    @property
    def transformer(self) -> bool:
        """Mostly products around attention, rather than convolutions with an attention block."""
        return self.attention and self.products > self.convolutions


def recipes_worth_trying(
    *,
    backend: str,
    ops: Mapping[str, int],
    calibration: bool,
    storage: bool = True,
    executions: Collection[str] = ("fp32",),
) -> tuple[tuple[Suggestion, ...], tuple[RuledOut, ...]]:
    """Recipes for a model on a backend, best guess first, and those ruled out.

    Args:
        backend: `onnxruntime` or `openvino`; any other gets what runs as plain ONNX operators.
        ops: how many nodes of each operator the model has, subgraphs included.
        calibration: whether there are real samples to calibrate on.
        storage: whether a smaller file or less memory is worth anything by itself.
        executions: float types in which the backend executes natively on the device.
    """
    traits = _Traits(
        convolutions=ops.get("Conv", 0) + ops.get("ConvTranspose", 0),
        products=ops.get("MatMul", 0) + ops.get("Gemm", 0),
        recurrent=ops.get("LSTM", 0) + ops.get("GRU", 0) + ops.get("RNN", 0),
        tables=ops.get("Gather", 0),
        attention=ops.get("Softmax", 0) > 0 and ops.get("MatMul", 0) >= 4 * ops.get("Softmax", 0),
        calibration=calibration,
        storage=storage,
        bf16="bf16" in executions,
    )
    lists = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    found = list(lists.get(backend, _anywhere)(traits))
    suggestions = tuple(
        Suggestion(recipe=Recipe.parse(name), why=why) for name, why, fits in found if fits
    )
    ruled_out = tuple(RuledOut(name=name, reason=why) for name, why, fits in found if not fits)
    return suggestions, ruled_out


_Entry = tuple[str, str, bool]
"""A name, why it is in or why it is out, and whether it is in."""


def _onnxruntime(traits: _Traits) -> Iterator[_Entry]:
    if traits.products:
        why = "int8 products with ranges found at run time, no samples needed"
        yield "w8a8-dynamic", why, True
    if traits.transformer:
        why = "the same with 7-bit weights, for CPUs whose int8 product saturates"
        yield "w8a8-dynamic-reduce", why, True
        why = "int8 weights in blocks, nearly lossless (cosine 0.999 on a text encoder)"
        yield "w8b32-only", why, True
        why = "attention masks ruin fixed ranges (cosine 0.34 on a text encoder)"
        yield "w8a8-static", why, False
        why = "ranges found at run time lose less (0.992 against 0.986) and need no samples"
        yield "w8a8-static-weighted", why, False
        if traits.storage:
            why = "int4 weights in blocks: an eighth of the file"
            yield "w4b32-only", why, True
    else:
        yield from _calibrated(
            traits,
            ("w8a8-static", "int8 from end to end"),
            ("w8a8-static-weighted", "int8 where the weights are, everything between in float"),
        )
    if traits.convolutions:
        why = "convolutions with ranges found at run time have no fast kernel in onnxruntime"
        yield "w8a8-dynamic-weighted", why, False
    yield from _anywhere(traits)


def _openvino(traits: _Traits) -> Iterator[_Entry]:
    if traits.bf16:
        yield "bf16", "executes in bfloat16 on this device's matrix units", True
    if traits.transformer:
        placed = "w8a8-static-nncf-mixed-transformer"
        yield from _calibrated(
            traits,
            (placed, "int8 placed for attention, outliers smoothed into the weights"),
            *(((f"{placed}-bf16", "the same, the rest in bfloat16"),) if traits.bf16 else ()),
        )
    else:
        yield from _calibrated(
            traits,
            ("w8a8-static-nncf-mixed", "int8 with asymmetric activations, for swish-like ones"),
            ("w8a8-static-nncf", "int8 with symmetric activations, the fastest form"),
            *(
                (("w8a8-static-nncf-bf16", "the same, the rest in bfloat16"),)
                if traits.bf16
                else ()
            ),
        )
    if traits.weighted:
        why = "int8 weights, computed with as they are where the engine can"
        yield "w8-only", why, True
        if traits.bf16:
            yield "w8-only-bf16", "int8 weights, the rest executed in bfloat16", True
        yield from _stored(traits, "fp32-w16", "float weights in 16 bits: half the file")
    if traits.products:
        why = "ranges found at run time, as onnxruntime writes them, run 3 to 10 times slower here"
        yield "w8a8-dynamic", why, False


def _anywhere(traits: _Traits) -> Iterator[_Entry]:
    if traits.weighted:
        yield from _stored(traits, "fp32-w16", "float weights in 16 bits: half the file")
        why = "int8 weights restored when the model loads: a quarter of the file"
        yield from _stored(traits, "w8-only", why)


def _stored(traits: _Traits, name: str, why: str) -> Iterator[_Entry]:
    """A recipe that makes the file smaller and nothing faster."""
    if traits.storage:
        yield name, why, True
    else:
        reason = f"{why}, at the same speed; ask for it by --objective size or a size limit"
        yield name, reason, False


def _calibrated(traits: _Traits, *entries: tuple[str, str]) -> Iterator[_Entry]:
    """Recipes with fixed activation ranges, where there is something to fix them with."""
    for name, why in entries:
        if not (traits.convolutions or traits.products):
            continue
        if traits.recurrent:
            why = "recurrent state does not survive fixed int8 ranges (cosine 0.4 was seen)"
            yield name, why, False
        elif not traits.calibration:
            yield name, "needs calibration samples; give --samples", False
        else:
            yield name, why, True
