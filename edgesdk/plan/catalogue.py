"""Which recipes are worth trying on a model, from what it is made of; pure.

Each costs tens of seconds to make and to measure, so the list is short. What it says about quality
was measured with this package on a text encoder (MiniLM), an image classifier (EfficientNet-Lite0),
a text recogniser and a text detector (PP-OCRv4) and a voice detector (silero-vad); what it says
about speed is only a reason to measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgesdk.cause import Cause
from edgesdk.recipe import Recipe

_MEASURED = "measured by edgesdk on its reference models"
_DATE = "2026-11-21"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A recipe and, in a sentence, why it is worth trying."""

    recipe: Recipe
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A recipe that is not worth its time here, and the fact that says so."""

    recipe: Recipe
    cause: Cause


@dataclass(frozen=True, slots=True)
class _Traits:
    """What of a model decides."""

    convolutions: int
    products: int
    recurrent: int
    tables: int
    softmax: int
    matmuls: int
    calibration: bool
    storage: bool

    @property
    def weighted(self) -> bool:
        return bool(self.convolutions or self.products or self.recurrent or self.tables)

    @property
    def transformer(self) -> bool:
        """Mostly products around attention, rather than convolutions with an attention block."""
        attention = self.softmax > 0 and self.matmuls >= 4 * self.softmax
        return attention and self.products > self.convolutions


def recipes_worth_trying(
    *,
    backend: str,
    ops: Mapping[str, int],
    calibration: bool,
    storage: bool = True,
) -> tuple[tuple[Suggestion, ...], tuple[RuledOut, ...]]:
    """Recipes for a model on a backend, best guess first, and those ruled out.

    What the device or the engine cannot run is for the profile and the adapter to say.

    Args:
        backend: `onnxruntime`, `openvino`, `litert`, `ethos-u`, `tensorrt` or `qnn`; any other gets
            what runs as plain ONNX operators.
        ops: how many nodes of each operator the model has, subgraphs included.
        calibration: whether there are real samples to calibrate on.
        storage: whether a smaller file or less memory is worth anything by itself.
    """
    traits = _Traits(
        convolutions=ops.get("Conv", 0) + ops.get("ConvTranspose", 0),
        products=ops.get("MatMul", 0) + ops.get("Gemm", 0),
        recurrent=ops.get("LSTM", 0) + ops.get("GRU", 0) + ops.get("RNN", 0),
        tables=ops.get("Gather", 0),
        softmax=ops.get("Softmax", 0),
        matmuls=ops.get("MatMul", 0),
        calibration=calibration,
        storage=storage,
    )
    lists = {
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
        "litert": _litert,
        "ethos-u": _ethos_u,
        "tensorrt": _tensorrt,
        "qnn": _qnn,
    }
    found = list(lists.get(backend, _anywhere)(traits))
    suggestions = tuple(
        Suggestion(recipe=Recipe.parse(name), why=told)
        for name, told in found
        if isinstance(told, str)
    )
    ruled_out = tuple(
        RuledOut(recipe=Recipe.parse(name), cause=told)
        for name, told in found
        if isinstance(told, Cause)
    )
    return suggestions, ruled_out


_Entry = tuple[str, str | Cause]
"""A name, and why it is worth trying or the cause why not."""


def _onnxruntime(traits: _Traits) -> Iterator[_Entry]:
    dynamic = "int8 products with ranges found at run time, no samples needed"
    if traits.transformer:
        yield "w8a8-dynamic", dynamic
        why = "the same with uneven channels evened out (a third of the loss on a text encoder)"
        yield _sampled(traits, "w8a8-dynamic-smooth", why)
        why = "the same with 7-bit weights, for CPUs whose int8 product saturates"
        yield "w8a8-dynamic-reduce", why
        yield (
            "w8b32-only",
            "int8 weights in blocks, nearly lossless (cosine 0.999 on a text encoder)",
        )
        why = "fixed ranges between the products lose too much (cosine 0.80 on a text encoder)"
        yield "w8a8-static", _of_model("Softmax", traits.softmax, why)
        why = "ranges found at run time lose less (0.992 against 0.986) and need no samples"
        yield "w8a8-static-weighted", _of_model("Softmax", traits.softmax, why)
        if traits.storage:
            yield "w4b32-only", "int4 weights in blocks: an eighth of the file"
    else:
        yield from _calibrated(
            traits,
            ("w8a8-static", "int8 from end to end"),
            ("w8a8-static-weighted", "int8 where the weights are, everything between in float"),
        )
        if traits.products:
            yield "w8a8-dynamic", dynamic
    if traits.convolutions:
        why = "convolutions with ranges found at run time have no fast kernel in onnxruntime"
        yield "w8a8-dynamic-weighted", _of_model("Conv", traits.convolutions, why)
    yield from _anywhere(traits)


def _openvino(traits: _Traits) -> Iterator[_Entry]:
    yield "bf16", "executes in bfloat16 on this device's matrix units"
    if traits.transformer:
        placed = "w8a8-static-nncf-mixed-transformer"
        yield from _calibrated(
            traits,
            (placed, "int8 placed for attention, outliers smoothed into the weights"),
            (f"{placed}-bf16", "the same, the rest in bfloat16"),
        )
    else:
        yield from _calibrated(
            traits,
            ("w8a8-static-nncf-mixed", "int8 with asymmetric activations, for swish-like ones"),
            ("w8a8-static-nncf", "int8 with symmetric activations, the fastest form"),
            ("w8a8-static-nncf-bf16", "the same, the rest in bfloat16"),
        )
    if traits.weighted:
        yield "w8-only", "int8 weights, computed with as they are where the engine can"
        yield "w8-only-bf16", "int8 weights, the rest executed in bfloat16"
        yield from _stored(traits, "fp32-w16", "float weights in 16 bits: half the file")
    if traits.products:
        why = "ranges found at run time, as onnxruntime writes them, run 3 to 10 times slower here"
        slow = Cause(
            kind="catalogue", key="openvino.w8a8-dynamic", why=why, source=_MEASURED, date=_DATE
        )
        yield "w8a8-dynamic", slow


def _litert(traits: _Traits) -> Iterator[_Entry]:
    dynamic = "int8 products with ranges found at run time, no samples needed"
    if traits.transformer:
        yield "w8a8-dynamic", dynamic
        why = "the same with uneven channels evened out"
        yield _sampled(traits, "w8a8-dynamic-smooth", why)
        why = "LiteRT's quantizer fails at fixed ranges around attention (seen on a text encoder)"
        yield "w8a8-static", _of_model("Softmax", traits.softmax, why)
    else:
        yield from _calibrated(traits, ("w8a8-static", "int8 from end to end"))
        if traits.products or traits.convolutions:
            yield "w8a8-dynamic", dynamic
    yield from _anywhere(traits)


def _ethos_u(traits: _Traits) -> Iterator[_Entry]:
    """An NPU for integers with fixed ranges; any other form would run on the CPU beside it."""
    if traits.transformer:
        why = "LiteRT's quantizer fails at fixed ranges around attention (seen on a text encoder)"
        yield "w8a8-static", _of_model("Softmax", traits.softmax, why)
        return
    yield from _calibrated(
        traits,
        ("w8a8-static", "int8 from end to end, as the NPU computes fastest"),
        (
            "w8a16-static",
            "16-bit activations lose less (cosine 0.9999 against 0.9985 on a keyword spotter) and take "
            "1.1 to 2.4 times the cycles, by Vela's estimate",
        ),
    )


def _tensorrt(traits: _Traits) -> Iterator[_Entry]:
    yield "fp16", "float16 on the GPU's tensor cores, half of everything to read"
    placed = "int8 where TensorRT multiplies integers"
    if traits.transformer:
        half = "w8a8-static-weighted-symmetric-fp16"
        yield from _calibrated(traits, (half, f"{placed}, the rest in float16"))
        why = "int4 weights in blocks, restored where they are multiplied: an eighth to read"
        yield "w4b64-only-fp16", why
    else:
        yield from _calibrated(
            traits,
            ("w8a8-static-symmetric-fp16", f"{placed}, the rest in float16"),
            ("w8a8-static-symmetric", f"{placed}, the rest in float32"),
        )


def _qnn(traits: _Traits) -> Iterator[_Entry]:
    """For Qualcomm's HTP; `-fp16` says how it computes what stays float."""
    yield "fp16", "executes in half precision, as the unit does with all that is float"
    wide = ("w8a16-static-fp16", "16-bit activations: nearly lossless, with weights of 8 bits")
    if traits.transformer:
        yield from _calibrated(traits, wide)
        why = "8-bit activations at fixed ranges lose too much (cosine 0.81 on a text encoder)"
        yield "w8a8-static-fp16", _of_model("Softmax", traits.softmax, why)
    else:
        narrow = ("w8a8-static-fp16", "int8 from end to end")
        yield from _calibrated(traits, narrow, wide)
    if traits.products and traits.storage:
        yield "w8b32-only-fp16", "int8 weights in blocks, computed with in half precision"


def _anywhere(traits: _Traits) -> Iterator[_Entry]:
    if traits.weighted:
        yield from _stored(traits, "fp32-w16", "float weights in 16 bits: half the file")
        why = "int8 weights restored when the model loads: a quarter of the file"
        yield from _stored(traits, "w8-only", why)


def _stored(traits: _Traits, name: str, why: str) -> Iterator[_Entry]:
    """A recipe that makes the file smaller and nothing faster."""
    if traits.storage:
        yield name, why
    else:
        against = f"{why}, at the same speed; ask for it by --objective size or a size limit"
        yield name, Cause(kind="budget", key="objective", why=against)


def _calibrated(traits: _Traits, *entries: tuple[str, str]) -> Iterator[_Entry]:
    """Recipes with fixed activation ranges, where there is something to fix them with."""
    for name, why in entries:
        if not (traits.convolutions or traits.products):
            continue
        if traits.recurrent:
            against = "recurrent state does not survive fixed int8 ranges (cosine 0.4 was seen)"
            yield name, _of_model("LSTM, GRU, RNN", traits.recurrent, against)
        else:
            yield _sampled(traits, name, why)


def _sampled(traits: _Traits, name: str, why: str) -> _Entry:
    """A recipe that needs real samples, where there are any."""
    if traits.calibration:
        return name, why
    against = "needs calibration samples; give --samples"
    return name, Cause(kind="samples", key="calibration_rows", value=0, why=against)


def _of_model(op: str, count: int, why: str) -> Cause:
    """A fact of the model: how many nodes of a kind it has, and what was seen to follow from it."""
    return Cause(kind="model", key=f"ops.{op}", value=count, why=why, source=_MEASURED, date=_DATE)
