"""A recipe applied to a model: one function a technique, chosen here and nowhere else."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io
from edgesdk.compress.blocks import quantize_blocks
from edgesdk.compress.dynamic import quantize_dynamic
from edgesdk.compress.floats import to_float16
from edgesdk.compress.nncf_weights import compress_weights
from edgesdk.compress.ranges import Observed, observe, read_ranges
from edgesdk.compress.restoring import restore
from edgesdk.compress.smoothing import smooth
from edgesdk.compress.static_nncf import quantize_nncf
from edgesdk.compress.static_ort import quantize_static
from edgesdk.compress.stored import store_half, store_int8
from edgesdk.compress.weights import count_weighted
from edgesdk.errors import RecipeError, SamplesError, StepFailed

if TYPE_CHECKING:
    import onnx

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.recipe import Recipe

_WORKING_COPIES = {"stored": 2.5, "quantizer": 5.0}
"""Peak memory over the size of the model: for rewriting weights one at a time, and for the
libraries' quantizers, which keep several copies (4.4 was measured on a model of 2.2 GB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What came out.

    Attributes:
        path: the model, `out/model.onnx`.
        notes: what the user should know.
        quantized_nodes: nodes whose weights are integers now.
        quantizable_nodes: nodes that carry weights.
        weights_bytes: the model file with its external data.
    """

    path: Path
    notes: tuple[str, ...]
    quantized_nodes: int
    quantizable_nodes: int
    weights_bytes: int


def compress(
    model: Path,
    recipe: Recipe,
    out: Path,
    *,
    calibration: SampleSet | None,
    kept: frozenset[str] = frozenset(),
    ranges: Path | None = None,
    whole: Path | None = None,
    memory_bytes: int | None = None,
) -> Compressed:
    """Apply `recipe` to the prepared model and write the result into the folder `out`.

    Args:
        model: what `prepare` wrote.
        recipe: `bf16`, and the execution type of a quantized recipe, leave the graph alone: they
            tell the engine how to run it. With `-smooth`, `smoothing.smooth` comes first; who has
            done that gives the smoothed model and the recipe without it.
        out: where `model.onnx` goes; need not exist.
        calibration: real samples, for recipes that need them.
        kept: names of nodes that get `recipe.spared` instead; a static recipe quantizes
            them, too, and restores them afterwards.
        ranges: what `ranges.observe` wrote for this model and these samples; without it, recipes
            that need ranges observe them now, as do those with `-smooth` in any case.
        memory_bytes: what this process may use; None for no limit.

    Raises:
        SamplesError: the recipe needs calibration samples and there are none.
        RecipeError: it would change nothing in this model, or `kept` names a node that is not there.
        StepFailed: the model does not fit the memory, or the library failed.
    """
    if recipe.needs_calibration and not calibration:
        raise SamplesError(f"{recipe} needs calibration samples; give --samples")
    _check_memory(model, recipe, memory_bytes)
    out.mkdir(parents=True, exist_ok=True)
    target = out / "model.onnx"
    for stale in out.glob("model.onnx*"):
        stale.unlink()  # onnx appends to a data file that is there
    structure = onnx_io.read_structure(model)
    _check_kept(structure, recipe, kept)
    total, before = count_weighted(structure)
    if _unchanged(recipe):
        onnx_io.copy_data_files(structure, model, target)
        shutil.copyfile(model, target)
        _forget_shapes(target)
        return _described(target, total, before)
    if recipe.smooth:
        assert calibration is not None
        notes = _smoothed(model, recipe, target, calibration, kept)
    else:
        notes = _applied(model, recipe, target, calibration, kept, ranges, whole)
    _forget_shapes(target)
    result = _described(target, total, count_weighted(onnx_io.read_structure(target))[1], notes)
    _check_effect(model, recipe, result, before)
    return result


def _forget_shapes(model: Path) -> None:
    """Drop the noted shapes of inner tensors: engines infer what they need.

    With them onnxruntime fuses more additions into SkipLayerNormalization, and a text encoder took
    7 % (float) to 28 % (dynamic int8) more processor time; image models took the same.
    """
    import onnx

    proto = onnx_io.read_structure(model)
    if proto.graph.value_info:
        del proto.graph.value_info[:]
        onnx.save(proto, model)


def _unchanged(recipe: Recipe) -> bool:
    return recipe.mode == "float" and recipe.weight_bits == 32 and recipe.execution != "fp16"


def _smoothed(
    model: Path, recipe: Recipe, target: Path, calibration: SampleSet, kept: frozenset[str]
) -> tuple[str, ...]:
    """The rest of the recipe on the model with its scales migrated, whose ranges are others."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smooth.") as folder:
        even = Path(folder) / "model.onnx"
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        done = smooth(model, recipe, even, calibration, scratch)
        rest = replace(recipe, smooth=False)
        return (done.note, *_applied(even, rest, target, calibration, kept, None, None))


def _applied(
    model: Path,
    recipe: Recipe,
    target: Path,
    calibration: SampleSet | None,
    kept: frozenset[str],
    ranges: Path | None,
    whole: Path | None,
) -> tuple[str, ...]:
    """The recipe on this model; a static one is applied to all nodes before some are restored."""
    if not kept or recipe.mode != "static":
        return _apply(model, recipe, target, calibration, kept, ranges)
    notes: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".whole.") as folder:
        if whole is None:
            whole = Path(folder) / "model.onnx"
            notes = _apply(model, recipe, whole, calibration, frozenset(), ranges)
        restore(model, whole, kept, target)
    return notes


def _apply(
    model: Path,
    recipe: Recipe,
    target: Path,
    calibration: SampleSet | None,
    kept: frozenset[str],
    ranges: Path | None,
) -> tuple[str, ...]:
    try:
        with _quietly():
            if recipe.needs_ranges:
                observed = _observed(model, target, calibration, ranges)
                return quantize_static(model, recipe, target, observed)
            _dispatch(model, recipe, target, calibration, kept)
    except Exception as exc:  # libraries raise anything; this is the border where it gets a name
        kind = "memory" if isinstance(exc, MemoryError) else "error"
        raise StepFailed(f"{recipe}: {type(exc).__name__}: {str(exc)[:500]}", kind=kind) from exc
    return ()


def _observed(
    model: Path, target: Path, calibration: SampleSet | None, ranges: Path | None
) -> Observed:
    if ranges is not None:
        return read_ranges(ranges)
    assert calibration is not None
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ranges.") as folder:
        return observe(model, calibration, Path(folder) / "ranges.npz")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the advice and progress of the libraries, which log a line a node."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _dispatch(
    model: Path,
    recipe: Recipe,
    target: Path,
    calibration: SampleSet | None,
    kept: frozenset[str],
) -> None:
    match recipe.mode:
        case "float" if recipe.execution == "fp16":
            to_float16(model, target, kept)
        case "float":
            store_half(model, target)
        case "dynamic":
            quantize_dynamic(model, recipe, target, kept)
        case "only" if recipe.quantizer == "nncf":
            compress_weights(model, recipe, target, kept)
        case "only" if recipe.block is None:
            store_int8(model, recipe, target, kept)
        case "only":
            quantize_blocks(model, recipe, target, kept)
        case "static":
            assert calibration is not None
            quantize_nncf(model, recipe, target, calibration)


def _check_kept(structure: onnx.ModelProto, recipe: Recipe, kept: frozenset[str]) -> None:
    there = {node.name for graph in onnx_io.graphs(structure.graph) for node in graph.node}
    unknown = sorted(kept - there)
    if unknown:
        raise RecipeError(f"{recipe}: no node named {', '.join(unknown[:5])} to keep in float")
    if kept and _keeps_nothing(recipe):
        raise RecipeError(f"{recipe} changes no single node, so none can be kept in float")


def _keeps_nothing(recipe: Recipe) -> bool:
    return recipe.mode == "float" and recipe.execution != "fp16"


def _described(target: Path, total: int, quantized: int, notes: tuple[str, ...] = ()) -> Compressed:
    left = total - quantized
    if quantized and left > 0:
        notes = (f"{left} of {total} nodes with weights stay float", *notes)
    return Compressed(
        path=target,
        notes=notes,
        quantized_nodes=quantized,
        quantizable_nodes=total,
        weights_bytes=onnx_io.model_bytes(target),
    )


def _check_memory(model: Path, recipe: Recipe, memory_bytes: int | None) -> None:
    if memory_bytes is None or _unchanged(recipe):
        return
    one_at_a_time = (
        recipe.block is None
        and recipe.quantizer == "ort"
        and (recipe.mode == "only" or (recipe.mode == "float" and recipe.execution != "fp16"))
    )
    copies = _WORKING_COPIES["stored" if one_at_a_time else "quantizer"]
    needed = int(copies * onnx_io.model_bytes(model))
    if needed > memory_bytes:
        raise StepFailed(
            f"{recipe} needs about {needed >> 20} MiB for this model and may use "
            f"{memory_bytes >> 20} MiB",
            kind="memory",
        )


def _check_effect(model: Path, recipe: Recipe, result: Compressed, before: int) -> None:
    """Refuse what looks applied but is not."""
    if recipe.mode == "float":
        changed = result.weights_bytes < onnx_io.model_bytes(model)
        lacking = "no large float32 weights"
    else:
        changed = result.quantized_nodes > before
        lacking = "no weights that it quantizes (in the operators that it covers)"
    if not changed:
        raise RecipeError(f"{recipe} would change nothing in this model: it has {lacking}")
