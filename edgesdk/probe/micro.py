"""Micro-graphs: each repeats one kind of operation at one size, made so that nothing is optimised away.

Kinds and sizes are those of `edgesdk.profile_speeds.KINDS`. An operation that engines fuse with its
own kind stands between Softmax nodes, which fuse with nothing; what these take is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.profile_speeds import ELEMENTWISE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 17
IR_VERSION = 8
BARRIER_WIDTH = 64
"""Columns of the tensors that element-wise kinds are measured on, and of the Softmax between."""
BASES = {"conv": (64, 1), "product": (256, 0)}
"""Channels of the convolution (taps: 1) and of the product that tails are measured behind."""
_HEAD = 32
_STEM_INPUTS = 4
_GATES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """A graph to time.

    Attributes:
        model: its inputs have fixed shapes.
        units: how many operations of the kind it runs.
        moved_bytes: of its inputs and output.
        extra: what else it runs, as kind, sizes and count; to be subtracted.
    """

    model: ModelProto
    units: int
    moved_bytes: int
    extra: tuple[tuple[str, tuple[float, ...], int], ...] = ()


def build(kind: str, sizes: Sequence[float], precision: str, *, units: int) -> Micro:
    """The graph of one experiment.

    Args:
        kind: one of `KINDS`; of a tail such as `conv>add` the graph with the tail.
        sizes: as the kind names them.
        precision: `fp32` for every float type (the engine is told), `w8a8` or `w8-dynamic`.
        units: how many operations to chain, about.
    """
    graph = _Graph(precision)
    anchor, _, tail = kind.rpartition(">")
    counts = [int(size) for size in sizes]
    if anchor:
        return graph.finish(_after(graph, anchor, tail, counts[0], units))
    return graph.finish(_BUILDERS[kind](graph, counts, units))


def build_base(anchor: str, sizes: Sequence[float], precision: str, *, units: int) -> Micro:
    """What `build` makes for a tail, without the tail."""
    graph = _Graph(precision)
    return graph.finish(_after(graph, anchor, "", int(sizes[0]), units))


@dataclass(frozen=True, slots=True)
class _Made:
    """What a builder made: operations of the kind, elements that come out, and `Micro.extra`."""

    units: int
    out: int
    extra: tuple[tuple[str, tuple[float, ...], int], ...] = ()


@dataclass(slots=True)
class _Graph:
    """A graph under construction."""

    precision: str
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    inputs: list[tuple[str, int, tuple[int, ...]]] = field(default_factory=list)
    last: str = ""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def input(self, *shape: int, integers: bool = False) -> str:
        """A float32 (or int64) input."""
        from onnx import TensorProto

        name = f"x{len(self.inputs)}"
        kind = TensorProto.INT64 if integers else TensorProto.FLOAT
        self.inputs.append((name, kind, shape))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """A stored tensor."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, *shape: int, fan_in: int) -> NDArray[np.float32]:
        """Values that keep the size of activations."""
        values = self.rng.standard_normal(shape, np.float32)
        return values / np.float32(math.sqrt(fan_in))

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """A node; returns its first output, the others are that name with a number."""
        from onnx import helper

        name = f"n{len(self.nodes)}"
        names = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        self.last = name
        return name

    def weight(self, values: NDArray[np.float32], axis: int) -> str:
        """A weight, in w8a8 as int8 with a scale for each output channel on `axis`."""
        if self.precision != "w8a8":
            return self.constant(values)
        moved = np.moveaxis(np.abs(values), axis, 0).reshape(values.shape[axis], -1)
        scales = (moved.max(axis=1) / 127 + 1e-6).astype(np.float32)
        spread = scales.reshape([-1 if d == axis else 1 for d in range(values.ndim)])
        stored = self.constant(np.round(values / spread).astype(np.int8))
        zeros = self.constant(np.zeros(len(scales), np.int8))
        return self.add("DequantizeLinear", [stored, self.constant(scales), zeros], axis=axis)

    def activation(self, name: str) -> str:
        """A tensor, in w8a8 through a QuantizeLinear and DequantizeLinear."""
        return self.border(name) if self.precision == "w8a8" else name

    def border(self, name: str) -> str:
        """Float to uint8 and back."""
        scale = self.constant(np.array(0.05, np.float32))
        zero = self.constant(np.array(128, np.uint8))
        stored = self.add("QuantizeLinear", [name, scale, zero])
        return self.add("DequantizeLinear", [stored, scale, zero])

    def barrier(self, name: str) -> str:
        """A Softmax over the last axis."""
        return self.add("Softmax", [name], axis=-1)

    def linear(self, x: str, inner: int, columns: int) -> str:
        """A product with a weight, and a bias."""
        values = self.normal(inner, columns, fan_in=inner)
        bias = self.constant(self.normal(columns, fan_in=1))
        if self.precision == "w8-dynamic":
            product = self._dynamic(x, values)
        else:
            product = self.add("MatMul", [self.activation(x), self.weight(values, 1)])
        return self.add("Add", [product, bias])

    def _dynamic(self, x: str, values: NDArray[np.float32]) -> str:
        """As onnxruntime's dynamic quantization writes it."""
        from onnx import TensorProto

        scales = (np.abs(values).max(axis=0) / 127 + 1e-6).astype(np.float32)
        stored = self.constant(np.round(values / scales).astype(np.int8))
        zeros = self.constant(np.zeros(len(scales), np.int8))
        found = self.add("DynamicQuantizeLinear", [x], outputs=3)
        product = self.add("MatMulInteger", [found, stored, f"{found}.2", zeros])
        floats = self.add("Cast", [product], to=TensorProto.FLOAT)
        scale = self.add("Mul", [f"{found}.1", self.constant(scales)])
        return self.add("Mul", [floats, scale])

    def conv(self, x: str, inputs: int, outputs: int, side: int, **more: int) -> str:
        """A convolution of side x side taps that keeps the size (over the stride)."""
        groups, stride = more.get("groups", 1), more.get("stride", 1)
        fan_in = inputs // groups * side * side
        weight = self.weight(self.normal(outputs, inputs // groups, side, side, fan_in=fan_in), 0)
        bias = self.constant(self.normal(outputs, fan_in=1))
        return self.add(
            "Conv",
            [self.activation(x), weight, bias],
            group=groups,
            kernel_shape=[side, side],
            pads=[side // 2] * 4,
            strides=[stride, stride],
        )

    def clamped(self, x: str) -> str:
        """What a convolution makes, through the Relu that nearly every one has and no engine feels.

        An engine may take other kernels where nothing follows. Without it OpenVINO's tails in
        bfloat16 came out up to four times dearer than in models; that this is the cause was not
        shown. In w8a8 a QuantizeLinear follows instead.
        """
        return x if self.precision == "w8a8" else self.add("Relu", [x])

    def finish(self, made: _Made) -> Micro:
        """The model; what the last node makes comes out of it."""
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self.nodes,
            "micro",
            [helper.make_tensor_value_info(*entry) for entry in self.inputs],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            self.weights,
        )
        imports = [helper.make_opsetid("", OPSET)]
        taken = sum(
            math.prod(shape) * (4 if kind == TensorProto.FLOAT else 8)
            for _, kind, shape in self.inputs
        )
        return Micro(
            model=helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION),
            units=made.units,
            moved_bytes=taken + 4 * made.out,
            extra=made.extra,
        )


def _run(graph: _Graph, sizes: list[int], units: int) -> _Made:
    """One cheap node: what is left is the call itself, with its bytes in and out."""
    del units
    elements = max(sizes[0] // 8, 1)
    graph.add("Relu", [graph.input(1, elements)])
    return _Made(1, elements)


def _product(graph: _Graph, sizes: list[int], units: int) -> _Made:
    """There and back between two widths: two products with as many multiply-accumulates."""
    rows, inner, columns = sizes
    x = graph.input(rows, inner)
    pairs = max(1, units // 2)
    for _ in range(pairs):
        x = graph.linear(graph.linear(x, inner, columns), columns, inner)
    return _Made(2 * pairs, rows * inner)


def _batched(graph: _Graph, sizes: list[int], units: int) -> _Made:
    """Scores and their mix, as in attention: [B, M, K] x [B, K, N], then [B, M, N] x [B, N, K]."""
    batch, rows, inner, columns = sizes
    x, keys = graph.input(batch, rows, inner), graph.input(batch, inner, columns)
    values = graph.input(batch, columns, inner)
    pairs = max(1, units // 2)
    for _ in range(pairs):
        scores = graph.add("MatMul", [graph.activation(x), graph.activation(keys)])
        x = graph.add("MatMul", [graph.activation(scores), graph.activation(values)])
    return _Made(2 * pairs, batch * rows * inner)


def _conv(graph: _Graph, sizes: list[int], units: int) -> _Made:
    pixels, inputs, outputs, taps = sizes
    side, kernel = math.isqrt(pixels), math.isqrt(taps)
    if inputs <= _STEM_INPUTS:
        return _stem(graph, inputs, outputs, side, kernel)
    x = graph.input(1, inputs, side, side)
    pairs = max(1, units // 2)
    for _ in range(pairs):
        x = graph.clamped(graph.conv(x, inputs, outputs, kernel))
        x = graph.clamped(graph.conv(x, outputs, inputs, kernel))
    graph.activation(x)  # an integer convolution needs an integer behind it
    return _Made(2 * pairs, inputs * side * side)


def _stem(graph: _Graph, inputs: int, outputs: int, side: int, kernel: int) -> _Made:
    """First layers cannot be chained: two beside each other, their means added."""
    x = graph.input(1, inputs, 2 * side, 2 * side)
    halves = [
        graph.add(
            "GlobalAveragePool",
            [graph.activation(graph.clamped(graph.conv(x, inputs, outputs, kernel, stride=2)))],
        )
        for _ in range(2)
    ]
    graph.add("Add", halves)
    return _Made(2, outputs, (("reduce", (float(outputs * side * side),), 2),))


def _depthwise(graph: _Graph, sizes: list[int], units: int) -> _Made:
    pixels, channels, taps = sizes
    side, kernel = math.isqrt(pixels), math.isqrt(taps)
    x = graph.input(1, channels, side, side)
    for _ in range(units):
        x = graph.clamped(graph.conv(x, channels, channels, kernel, groups=channels))
    graph.activation(x)
    return _Made(units, channels * side * side)


def _lstm(graph: _Graph, sizes: list[int], units: int) -> _Made:
    del units
    steps, inputs, hidden = sizes
    x = graph.input(steps, 1, inputs)
    gates = _GATES * hidden
    names = [graph.constant(graph.normal(1, gates, n, fan_in=n)) for n in (inputs, hidden)]
    graph.add("LSTM", [x, *names], hidden_size=hidden)
    return _Made(1, steps * hidden)


def _softmax(graph: _Graph, sizes: list[int], units: int) -> _Made:
    x = graph.input(*sizes)
    for _ in range(units):
        x = graph.barrier(x)
    return _Made(units, math.prod(sizes))


def _norm(graph: _Graph, sizes: list[int], units: int) -> _Made:
    rows, width = sizes
    x = graph.input(1, rows, width)
    for _ in range(units):
        scale, bias = (graph.constant(graph.normal(width, fan_in=1)) for _ in range(2))
        x = graph.add("LayerNormalization", [x, scale, bias], axis=-1)
    return _Made(units, rows * width)


def _gather(graph: _Graph, sizes: list[int], units: int) -> _Made:
    rows, width = sizes
    ids = graph.input(rows, integers=True)
    pieces = [
        graph.add("Gather", [graph.constant(graph.normal(1000, width, fan_in=1)), ids])
        for _ in range(max(units, 2))
    ]
    graph.add("Concat", pieces, axis=0)
    out = rows * width * len(pieces)
    return _Made(len(pieces), out, (("copy", (float(out),), 1),))


def _pool(graph: _Graph, sizes: list[int], units: int) -> _Made:
    elements, taps = sizes
    side = max(math.isqrt(elements // _HEAD), 1)
    x = graph.input(1, _HEAD, side, side)
    kernel = math.isqrt(taps)
    for _ in range(units):
        x = graph.add("MaxPool", [x], kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4)
    return _Made(units, _HEAD * side * side)


def _reduce(graph: _Graph, sizes: list[int], units: int) -> _Made:
    """Means that go back into what they were taken of, as in squeeze and excitation."""
    side = max(math.isqrt(sizes[0] // _HEAD), 1)
    x = graph.input(1, _HEAD, side, side)
    for _ in range(units):
        x = graph.add("Add", [x, graph.add("GlobalAveragePool", [x])])
    out = _HEAD * side * side
    return _Made(units, out, (("add", (float(out),), units),))


def _between_barriers(
    operation: Callable[[_Graph, str, str], str], *, operands: int = 1
) -> Callable[[_Graph, list[int], int], _Made]:
    """A builder for an operation that keeps the shape [rows, BARRIER_WIDTH]."""

    def build(graph: _Graph, sizes: list[int], units: int) -> _Made:
        rows = max(sizes[0] // BARRIER_WIDTH, 1)
        x = graph.input(rows, BARRIER_WIDTH)
        other = graph.input(rows, BARRIER_WIDTH) if operands == 2 else ""
        for _ in range(units):
            x = graph.barrier(operation(graph, x, other))
        softmax = ("softmax", (float(rows), float(BARRIER_WIDTH)), units)
        return _Made(units, rows * BARRIER_WIDTH, (softmax,))

    return build


def _transpose(graph: _Graph, sizes: list[int], units: int) -> _Made:
    """The heads of attention: [1, a, b, 32] to [1, b, a, 32]."""
    side = max(math.isqrt(sizes[0] // _HEAD), 1)
    x = graph.input(1, side, side, _HEAD)
    for _ in range(units):
        x = graph.barrier(graph.add("Transpose", [x], perm=[0, 2, 1, 3]))
    softmax = ("softmax", (float(side * side), float(_HEAD)), units)
    return _Made(units, _HEAD * side * side, (softmax,))


def _swapped(graph: _Graph, x: str, _: str) -> str:
    """Both halves of the columns taken apart and put together the other way round."""
    half = BARRIER_WIDTH // 2
    first = graph.add("Split", [x, graph.constant(np.array([half, half]))], outputs=2, axis=-1)
    return graph.add("Concat", [f"{first}.1", first], axis=-1)


def _copy(graph: _Graph, sizes: list[int], units: int) -> _Made:
    made = _between_barriers(_swapped)(graph, sizes, units)
    return replace(made, units=2 * made.units)


def _reshaped(graph: _Graph, x: str, _: str) -> str:
    shape = graph.constant(np.array([-1, BARRIER_WIDTH, 1]))
    back = graph.constant(np.array([-1, BARRIER_WIDTH]))
    return graph.add("Reshape", [graph.add("Reshape", [x, shape]), back])


def _reshape(graph: _Graph, sizes: list[int], units: int) -> _Made:
    made = _between_barriers(_reshaped)(graph, sizes, units)
    return replace(made, units=2 * made.units)


def apply_elementwise(graph: _Graph, kind: str, x: str, other: str) -> str:
    """An element-wise kind as exporters write it."""
    if kind == "add":
        return graph.add("Add", [x, other])
    if kind == "relu":
        return graph.add("Relu", [x])
    if kind == "sigmoid":
        return graph.add("Sigmoid", [x])
    if kind == "swish":
        return graph.add("Mul", [x, graph.add("Sigmoid", [x])])
    if kind == "scale":
        return graph.add("Mul", [x, graph.constant(np.array([1.01], np.float32))])
    if kind == "hardswish":
        three, zero, six = (graph.constant(np.array(v, np.float32)) for v in (3.0, 0.0, 6.0))
        gate = graph.add("Clip", [graph.add("Add", [x, three]), zero, six])
        return graph.add("Div", [graph.add("Mul", [x, gate]), six])
    root, one, half = (graph.constant(np.array(v, np.float32)) for v in (2**0.5, 1.0, 0.5))
    erf = graph.add("Erf", [graph.add("Div", [x, root])])
    return graph.add("Mul", [graph.add("Mul", [x, graph.add("Add", [erf, one])]), half])


def _elementwise(kind: str) -> Callable[[_Graph, list[int], int], _Made]:
    return _between_barriers(
        lambda graph, x, other: apply_elementwise(graph, kind, x, other),
        operands=2 if kind == "add" else 1,
    )


def _after(graph: _Graph, anchor: str, tail: str, elements: int, units: int) -> _Made:
    """Convolutions of one tap, or products, each with the tail behind it."""
    width = BASES[anchor][0]
    rows = max(elements // width, 1)
    side = math.isqrt(rows)
    shape = (1, width, side, side) if anchor == "conv" else (rows, width)
    x = graph.input(*shape)
    other = graph.input(*shape) if tail == "add" else ""
    for _ in range(units):
        made = graph.conv(x, width, width, 1) if anchor == "conv" else graph.linear(x, width, width)
        if tail == "scale":  # right behind the anchor it would be folded into the weights
            made = graph.add("Relu", [made])
        if tail == "add" and graph.precision == "w8a8":
            made = graph.add("Add", [graph.border(made), graph.border(other)])
        elif tail:
            made = apply_elementwise(graph, tail, made, other)
        elif anchor == "conv":
            made = graph.clamped(made)
        x = made
    graph.activation(x)
    return _Made(units, math.prod(shape))


_BUILDERS: dict[str, Callable[[_Graph, list[int], int], _Made]] = {
    "run": _run,
    "product": _product,
    "batched": _batched,
    "conv": _conv,
    "depthwise": _depthwise,
    "lstm": _lstm,
    "softmax": _softmax,
    "norm": _norm,
    "gather": _gather,
    "pool": _pool,
    "reduce": _reduce,
    "transpose": _transpose,
    "copy": _copy,
    "reshape": _reshape,
    "border": _between_barriers(lambda graph, x, _: graph.border(x)),
    **{kind: _elementwise(kind) for kind in ELEMENTWISE},
}
