"""Recipes as ai-edge-quantizer applies them to a float TFLite file.

LiteRT's kernels want integers where its own quantizer puts them: weights symmetric and per channel,
activations quantized at run time behind them (`dynamic`), or fixed at every operation (`static`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.errors import SamplesError, StepFailed
from edgesdk_backends.litert.engine import operations
from edgesdk_backends.litert.interface import Interface, Port

if TYPE_CHECKING:
    from edgesdk.backend import Array
    from edgesdk.compress.calibration import SampleSet
    from edgesdk.recipe import Recipe

ROWS = 64
"""Calibration rows at most; the quantizer looks at every tensor of each in Python."""

_EVERYTHING = "*"
_WEIGHTED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "BATCH_MATMUL")
_MIN_MAX, _TO_FLOAT = "min_max_uniform_quantize", "float_casting"
_ENDS = ("INPUT", "OUTPUT")
_NO_DYNAMIC_KERNEL = ("DEPTHWISE_CONV_2D",)
"""XNNPACK has none that finds ranges at run time: with LiteRT's own an image classifier took 5.7 times
its float time, without it half of it."""
_SIGNATURE = "serving_default"


def against(recipe: Recipe) -> str | None:
    """Why a recipe cannot be applied to any model, or None. Pure."""
    if recipe.mode == "float":
        return None
    if recipe.quantizer == "nncf":
        return "litert quantizes its own format, which NNCF does not write; leave out -nncf"
    if recipe.block is not None:
        return "litert has no kernel for blocks of weights beside float activations"
    if recipe.reduce_range:
        return (
            "XNNPACK adds 8-bit products in 32 bits, so there is nothing to gain from 7-bit weights"
        )
    if recipe.ranges != "minmax":
        return f"litert's quantizer takes the observed range, not {recipe.ranges}"
    return None


def quantize(
    float_file: Path,
    target: Path,
    recipe: Recipe,
    interface: Interface,
    calibration: SampleSet | None,
    *,
    integer_ends: bool = False,
) -> None:
    """Write the quantized form of a TFLite file.

    Args:
        float_file: as the converter made it.
        target: a new file.
        recipe: one that `against` has nothing against.
        interface: between the model, whose rows are given, and the file.
        calibration: real samples, for static recipes.
        integer_ends: of a static recipe, the file takes and gives integers; else the model's types.

    Raises:
        SamplesError: the recipe needs samples and there are none.
        StepFailed: there is nothing that it quantizes, or the quantizer failed.
    """
    if recipe.needs_calibration and not calibration:
        raise SamplesError(f"{recipe} needs calibration samples; give --samples")
    from ai_edge_quantizer.quantizer import Quantizer

    with _quietly():
        try:
            quantizer = Quantizer(str(float_file), entries(recipe, integer_ends=integer_ends))
            ranges = None
            if quantizer.need_calibration:
                assert calibration is not None
                ranges = _ranges(float_file, quantizer, interface, calibration)
            made = bytes(
                quantizer.quantize(ranges, enable_progress_report=False).quantized_model or b""
            )
        except Exception as exc:  # the library raises anything; this is the border
            raise StepFailed(f"{recipe}: ai-edge-quantizer: {type(exc).__name__}: {exc}") from exc
    target.write_bytes(made)
    if not made or _computes(target) == _computes(float_file):
        target.unlink()
        raise StepFailed(f"{recipe} would change nothing in this model: no operation takes it")


def _computes(file: Path) -> Counter[tuple[str, tuple[str, ...]]]:
    """How often each operation stands in a file, on which types. Small models get no smaller files."""
    return Counter((item.name, item.kinds) for item in operations(file))


def entries(recipe: Recipe, *, integer_ends: bool = False) -> list[dict[str, Any]]:
    """The recipe in the words of ai-edge-quantizer; later entries count before earlier ones."""
    weights = {
        "num_bits": 16 if recipe.mode == "float" else recipe.weight_bits,
        "symmetric": True,
        "granularity": "TENSORWISE" if recipe.granularity == "tensor" else "CHANNELWISE",
        "dtype": "FLOAT" if recipe.mode == "float" else "INT",
    }
    is_integer = recipe.mode in ("static", "dynamic")
    config: dict[str, Any] = {
        "weight_tensor_config": weights,
        "compute_precision": "INTEGER" if is_integer else "FLOAT",
        "explicit_dequantize": not is_integer,
        "skip_checks": False,
        "min_weight_elements": 0,
    }
    if recipe.mode == "static":
        config["activation_tensor_config"] = {
            "num_bits": recipe.activation_bits,
            # The kernels for 16-bit activations know no zero point.
            "symmetric": recipe.symmetric or recipe.activation_bits == 16,
            "granularity": "TENSORWISE",
            "dtype": "INT",
        }
    algorithm = _TO_FLOAT if recipe.mode == "float" else _MIN_MAX
    operations = _WEIGHTED if recipe.weighted_only else (_EVERYTHING,)
    found = [
        {"regex": ".*", "operation": name, "algorithm_key": algorithm, "op_config": config}
        for name in operations
    ]
    left_out: tuple[str, ...] = ()
    if recipe.mode == "dynamic":
        left_out = _NO_DYNAMIC_KERNEL
    elif recipe.mode == "static" and not integer_ends:
        left_out = _ENDS
    return found + [
        {"regex": ".*", "operation": name, "algorithm_key": "no_quantize", "op_config": {}}
        for name in left_out
    ]


class _Feeds:
    """Rows as the file takes them, read one at a time; any number of passes."""

    def __init__(self, rows: SampleSet, ports: tuple[Port, ...]) -> None:
        count = min(len(rows), ROWS)
        self._chosen = tuple(number * len(rows) // count for number in range(count))
        self._rows, self._ports = rows, ports

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for number in self._chosen:
            inputs = self._rows[number].inputs
            yield {p.tensor: p.to_file(inputs[p.info.name]) for p in self._ports if p.tensor}


def _ranges(
    float_file: Path, quantizer: Any, interface: Interface, calibration: SampleSet
) -> dict[str, Any]:
    """The smallest and largest value of every activation.

    Not by `Quantizer.calibrate`, whose ranges are moving averages that forget the extremes.
    """
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    manager = RecipeManager()
    manager.load_quantization_recipe(quantizer.get_quantization_recipe())
    calibrator = Calibrator(str(float_file), num_threads=1, qsv_update_func=min_max_update)
    calibrator.calibrate({_SIGNATURE: _Feeds(calibration, interface.inputs)}, manager)
    found: dict[str, Any] = calibrator.get_model_qsvs()
    return found


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's advice, a line an operation, and a warning of the interpreter's."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
