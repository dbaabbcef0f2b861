"""A node as it would compute at a lower precision, written in plain float operators.

Values are rounded to what the integer or short float type can hold and go on as float32, so any
engine computes the same. Sums, biases and outputs stay float, as in integer kernels with wide
accumulators; with `bf16` and `fp16` the output is rounded, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.compress.sites import Site
    from edgesdk.precision import Precision

    Floats = NDArray[np.float32]
    Ranges = Mapping[str, tuple[float, float]]

_CASTS = {"fp16": 10, "bf16": 16}
_FLOAT = 1
_LARGEST = 3e38
"""Ranges found at run time end here, so that a mask of infinities leaves a finite scale."""
_TINY = 1e-30
"""The smallest scale; that of a tensor of zeros."""


class Tape:
    """Nodes and constants under construction, under names that nothing else has."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._prefix = prefix

    def name(self) -> str:
        """A new name."""
        return f"{self._prefix}{len(self.nodes)}_{len(self.tensors)}"

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; returns the name of that."""
        from onnx import helper

        output = self.name()
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        """A stored array; returns its name."""
        from onnx import numpy_helper

        name = f"{self.name()}c"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name


class StoredWeights:
    """Integer forms of a graph's weights, kept once however many nodes and branches read them."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._floats = {tensor.name: tensor for tensor in graph.initializer}
        self._known: dict[tuple[Any, ...], tuple[str, str, tuple[int, ...]] | None] = {}
        self._prefix = prefix

    def restore(self, site: Site, precision: Precision, tape: Tape) -> str:
        """The site's weight after rounding, made on the tape from the stored integers."""
        assert site.weight is not None
        assert precision.weight_bits is not None
        weight = site.inputs[site.weight]
        along = site.reduced if precision.block else None if precision.per_tensor else site.axis
        key = (weight, precision.weight_bits, precision.block, along)
        if key not in self._known:
            self._known[key] = self._store(weight, precision, along)
        stored = self._known[key]
        if stored is None:
            return weight
        integers, scale, shape = stored
        value = tape.add("Mul", tape.add("Cast", integers, to=_FLOAT), scale)
        if precision.block is None:
            return value
        assert along is not None
        padded = list(shape)
        padded[along] = -1
        value = tape.add("Reshape", value, tape.constant(np.array(padded, np.int64)))
        ends = [tape.constant(np.array([n], np.int64)) for n in (0, shape[along], along)]
        return tape.add("Slice", value, *ends)

    def _store(
        self, weight: str, precision: Precision, along: int | None
    ) -> tuple[str, str, tuple[int, ...]] | None:
        from onnx import numpy_helper

        values: Floats = numpy_helper.to_array(self._floats[weight])
        if not np.isfinite(values).all():
            return None
        assert precision.weight_bits is not None
        if precision.block:
            assert along is not None
            integers, scale = in_blocks(values, precision.weight_bits, precision.block, along)
        else:
            integers, scale = in_channels(values, precision.weight_bits, along)
        name = f"{self._prefix}{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(integers, f"{name}.int8"))
        self.tensors.append(numpy_helper.from_array(scale, f"{name}.scale"))
        return f"{name}.int8", f"{name}.scale", values.shape


def in_channels(values: Floats, bits: int, axis: int | None) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric integers and their scale, which spans the largest value of each channel.

    Args:
        values: the weight, finite.
        bits: 8 or 4; integers from -(2^(bits-1) - 1) to 2^(bits-1) - 1.
        axis: of the channels, or None for one scale in all.
    """
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    top = 2 ** (bits - 1) - 1
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.maximum(largest / top, _TINY).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def in_blocks(values: Floats, bits: int, block: int, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Integers in blocks along `axis`, as onnxruntime's MatMulNBits holds them.

    The value of largest magnitude in a block becomes -2^(bits-1), whatever its sign, so that all
    integers are in use (onnxruntime's `MlasBlockwiseQuantizer`, symmetric).

    Returns:
        integers with `axis` split into [blocks, block], the last filled up with zeros, and scales
        with 1 in place of `block`.
    """
    half = 2 ** (bits - 1)
    length = values.shape[axis]
    padding = [(0, 0)] * values.ndim
    padding[axis] = (0, -length % block)
    padded = np.pad(values, padding)
    shape = (*padded.shape[:axis], -1, block, *padded.shape[axis + 1 :])
    split = padded.reshape(shape)
    places = np.abs(split).argmax(axis=axis + 1, keepdims=True)
    scale = (np.take_along_axis(split, places, axis=axis + 1) / -half).astype(np.float32)
    scale[np.abs(scale) < _TINY] = 1.0
    return np.clip(np.rint(split / scale), -half, half - 1).astype(np.int8), scale


def simulate(
    node: onnx.NodeProto,
    site: Site,
    precision: Precision,
    tape: Tape,
    weights: StoredWeights,
    ranges: Ranges,
) -> str:
    """Write the node at that precision on the tape; returns the name of its output.

    Args:
        node: the site's node; stays as it is.
        ranges: lowest and highest value of activations by name, as calibration saw them. The
            others are ranged anew in each run, as DynamicQuantizeLinear does.
    """
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    for position in site.activations:
        copy.input[position] = _activation(site.inputs[position], precision, tape, ranges)
    if site.weight is not None:
        name = site.inputs[site.weight]
        copy.input[site.weight] = (
            _rounded(name, precision.cast, tape)
            if precision.cast
            else weights.restore(site, precision, tape)
        )
    output = tape.name()
    copy.name = copy.output[0] = output
    tape.nodes.append(copy)
    return _rounded(output, precision.cast, tape) if precision.cast else output


def _activation(name: str, precision: Precision, tape: Tape, ranges: Ranges) -> str:
    if precision.cast:
        return _rounded(name, precision.cast, tape)
    if precision.activation_bits is None:
        return name
    steps = 2**precision.activation_bits - 1
    if name in ranges:
        grid = _fixed_grid(*ranges[name], steps, symmetric=precision.symmetric)
        scale, lowest, highest = (tape.constant(np.float32(value)) for value in grid)
    else:
        scale, lowest, highest = _found_grid(name, steps, tape, symmetric=precision.symmetric)
    integers = tape.add("Round", tape.add("Div", name, scale))
    return tape.add("Mul", tape.add("Clip", integers, lowest, highest), scale)


def _rounded(name: str, kind: str, tape: Tape) -> str:
    return tape.add("Cast", tape.add("Cast", name, to=_CASTS[kind]), to=_FLOAT)


def _fixed_grid(
    low: float, high: float, steps: int, *, symmetric: bool
) -> tuple[float, float, float]:
    """Scale, lowest and highest integer (less the zero point) for a range that includes 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        top = steps // 2
        return max(-low, high) / top or 1.0, -top, top
    scale = (high - low) / steps or 1.0
    zero = min(max(round(-low / scale), 0), steps)
    return scale, -zero, steps - zero


def _found_grid(name: str, steps: int, tape: Tape, *, symmetric: bool) -> tuple[str, str, str]:
    """The same, as tensors, for the range of the values in this run."""
    zero, tiny = tape.constant(np.float32(0)), tape.constant(np.float32(_TINY))
    ends = (tape.constant(np.float32(value)) for value in (-_LARGEST, _LARGEST))
    low = tape.add(
        "Max", tape.add("Min", tape.add("ReduceMin", name, keepdims=0), zero), next(ends)
    )
    high = tape.add(
        "Min", tape.add("Max", tape.add("ReduceMax", name, keepdims=0), zero), next(ends)
    )
    if symmetric:
        top = tape.constant(np.float32(steps // 2))
        scale = tape.add(
            "Max", tape.add("Div", tape.add("Max", tape.add("Neg", low), high), top), tiny
        )
        return scale, tape.add("Neg", top), top
    top = tape.constant(np.float32(steps))
    span = tape.add("Sub", tape.add("Div", high, top), tape.add("Div", low, top))
    scale = tape.add("Max", span, tiny)
    lowest = tape.add(
        "Clip", tape.add("Round", tape.add("Div", low, scale)), tape.add("Neg", top), zero
    )
    return scale, lowest, tape.add("Add", lowest, top)
