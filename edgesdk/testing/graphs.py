"""Small ONNX graphs, each of one kind, that every backend must run as the standard says.

All weights and inputs come from fixed seeds. Opset 17 (19 for quantization, where the reference
evaluator begins to know it) is old enough for any engine of the last years.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Array = NDArray[Any]
Feed = dict[str, Array]
Value = tuple[str, int, Sequence[int | str]]

_OPSET = 17
_EXTERNAL_ABOVE = 128
"""Bytes; shapes and axes, which engines want inside the file, are smaller."""
_IR_VERSIONS = {17: 8, 19: 9}
"""The IR that came with an opset, by the ONNX project's document "Versioning"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A graph and the inputs to run it on.

    Attributes:
        name: what kind of graph it is.
        model: the graph.
        feeds: two or more sets of inputs; where axes are dynamic their lengths differ.
    """

    name: str
    model: onnx.ModelProto
    feeds: tuple[Feed, ...]

    def write(self, folder: Path, *, external: bool = False) -> Path:
        """Save the model in a folder, its weights in a file beside it if `external`."""
        path = folder / f"{self.name}.onnx"
        model = onnx.ModelProto()
        model.CopyFrom(self.model)  # saving with external data moves the weights out of the model
        if external:
            location = f"{self.name}.weights"
            onnx.save(
                model,
                path,
                save_as_external_data=True,
                location=location,
                size_threshold=_EXTERNAL_ABOVE,
            )
        else:
            onnx.save(model, path)
        return path

    def fixed(self) -> Case:
        """The same with the shapes of its first feed, and feeds of those shapes only."""
        first = self.feeds[0]
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        lengths: dict[str, int] = {}
        for value in model.graph.input:
            for dim, length in zip(
                value.type.tensor_type.shape.dim, first[value.name].shape, strict=True
            ):
                lengths |= {dim.dim_param: length} if dim.dim_param else {}
                dim.dim_value = length
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in lengths:
                    dim.dim_value = lengths[dim.dim_param]
        shapes = {name: array.shape for name, array in first.items()}
        feeds = [f for f in self.feeds if shapes == {name: a.shape for name, a in f.items()}]
        if len(feeds) == 1:
            feeds.append({name: np.flip(array).copy() for name, array in first.items()})
        return Case(name=self.name, model=model, feeds=tuple(feeds))

    def expected(self, feed: Feed) -> Feed:
        """The outputs by ONNX's reference evaluator."""
        from onnx.reference import ReferenceEvaluator

        names = [value.name for value in self.model.graph.output]
        results = ReferenceEvaluator(self.model).run(names, feed)
        return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}


def build(name: str) -> Case:
    """The case of that name; see `CASES`."""
    return CASES[name]()


class _Graph:
    """Collects nodes and seeded weights."""

    def __init__(self, seed: int, opset: int = _OPSET) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def normal(self, *shape: int) -> Array:
        return self.rng.normal(size=shape).astype(np.float32)

    def weight(self, *shape: int) -> str:
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        return self.constant(self.normal(*shape) / np.float32(np.sqrt(fan_in)))

    def constant(self, value: Array | np.generic) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def bias(self, length: int) -> str:
        return self.constant(self.normal(length))

    def add(
        self, op: str, inputs: Sequence[str], *outputs: str, name: str = "", **attributes: Any
    ) -> None:
        label = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=label, **attributes))

    def case(
        self, name: str, inputs: Sequence[Value], outputs: Sequence[Value], feeds: Sequence[Feed]
    ) -> Case:
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = _IR_VERSIONS[self.opset]
        onnx.checker.check_model(model, full_check=True)
        return Case(name=name, model=model, feeds=tuple(feeds))


def _convolution() -> Case:
    g = _Graph(1)
    g.add("Conv", ["image", g.weight(8, 3, 3, 3), g.bias(8)], "a", name="conv_in", pads=[1] * 4)
    g.add("Relu", ["a"], "b")
    g.add("MaxPool", ["b"], "c", kernel_shape=[2, 2], strides=[2, 2])
    g.add("Conv", ["c", g.weight(8, 1, 3, 3)], "d", name="conv_depthwise", group=8)
    g.add("GlobalAveragePool", ["d"], "e")
    g.add("Flatten", ["e"], "f")
    g.add("Gemm", ["f", g.weight(8, 5), g.bias(5)], "logits", name="gemm_out")
    return g.case(
        "convolution",
        [("image", T.FLOAT, ["batch", 3, 16, 16])],
        [("logits", T.FLOAT, ["batch", 5])],
        [{"image": g.normal(n, 3, 16, 16)} for n in (1, 3, 1)],
    )


def _attention() -> Case:
    """Embedding of int64 ids, a bool mask, one attention head; batch and length are dynamic."""
    g = _Graph(2)
    g.add("Gather", [g.weight(50, 16), "ids"], "x")
    for letter in "qkv":
        g.add("MatMul", ["x", g.weight(16, 16)], letter, name=f"project_{letter}")
    g.add("Transpose", ["k"], "kt", perm=[0, 2, 1])
    g.add("MatMul", ["q", "kt"], "scores", name="scores")
    g.add("Unsqueeze", ["mask", g.constant(np.array([1]))], "mask_row")
    g.add("Where", ["mask_row", "scores", g.constant(np.float32(-1e4))], "masked")
    g.add("Softmax", ["masked"], "weights", axis=-1)
    g.add("MatMul", ["weights", "v"], "mixed", name="mix")
    g.add("Add", ["x", "mixed"], "sum")
    g.add("LayerNormalization", ["sum", g.bias(16), g.bias(16)], "states", axis=-1)
    g.add("ReduceMean", ["states"], "pooled", axes=[1], keepdims=0)
    feeds = [
        {"ids": g.rng.integers(0, 50, shape), "mask": np.ones(shape, bool)}
        for shape in ((1, 4), (2, 7))
    ]
    feeds[1]["mask"][1, 3:] = False
    return g.case(
        "attention",
        [("ids", T.INT64, ["batch", "length"]), ("mask", T.BOOL, ["batch", "length"])],
        [("states", T.FLOAT, ["batch", "length", 16]), ("pooled", T.FLOAT, ["batch", 16])],
        feeds,
    )


def _recurrent() -> Case:
    """An LSTM whose state goes in and out; its first output has no name."""
    g = _Graph(3)
    weights = [g.constant(g.normal(1, 32, width) * np.float32(0.3)) for width in (4, 8)]
    g.add("LSTM", ["x", *weights, "", "", "h", "c"], "", "h_out", "c_out", name="lstm",
          hidden_size=8)  # fmt: skip
    state = (1, "batch", 8)
    return g.case(
        "recurrent",
        [("x", T.FLOAT, ["time", "batch", 4]), ("h", T.FLOAT, state), ("c", T.FLOAT, state)],
        [("h_out", T.FLOAT, state), ("c_out", T.FLOAT, state)],
        [{"x": g.normal(5, n, 4), "h": g.normal(1, n, 8), "c": g.normal(1, n, 8)} for n in (1, 2)],
    )


def _branch() -> Case:
    """An If on a scalar bool; both branches use values from outside and weights of their own."""
    g = _Graph(4)
    branches = {}
    for word, op in (("then", "Add"), ("else", "Mul")):
        own = numpy_helper.from_array(g.normal(6), f"{word}_weight")
        node = helper.make_node(op, ["doubled", own.name], [f"{word}_out"], name=f"{word}_{op}")
        out = helper.make_tensor_value_info(f"{word}_out", T.FLOAT, ["batch", 6])
        branches[f"{word}_branch"] = helper.make_graph([node], word, [], [out], [own])
    g.add("Add", ["x", "x"], "doubled")
    g.add("If", ["flag"], "y", name="choice", **branches)
    return g.case(
        "branch",
        [("x", T.FLOAT, ["batch", 6]), ("flag", T.BOOL, [])],
        [("y", T.FLOAT, ["batch", 6])],
        [{"x": g.normal(2, 6), "flag": np.array(flag)} for flag in (True, False)],
    )


def _integers() -> Case:
    """Integer and bool values in and out, small enough for engines that narrow int64 to int32."""
    g = _Graph(5)
    g.add("Add", ["long", g.constant(np.array([7, -9, 2**20]))], "shifted")
    g.add("Greater", ["shifted", g.constant(np.array(0))], "positive")
    g.add("Cast", ["int"], "widened", to=T.INT64)
    g.add("Mul", ["shifted", "widened"], "product")
    g.add("Not", ["positive"], "negative")
    g.add("Cast", ["byte"], "as_float", to=T.FLOAT)
    g.add("Mul", ["as_float", g.constant(np.float32(1 / 255))], "scaled")
    return g.case(
        "integers",
        [("long", T.INT64, ["n", 3]), ("int", T.INT32, ["n", 3]), ("byte", T.UINT8, ["n", 3])],
        [
            ("product", T.INT64, ["n", 3]),
            ("negative", T.BOOL, ["n", 3]),
            ("scaled", T.FLOAT, ["n", 3]),
        ],
        [
            {
                "long": g.rng.integers(-20, 20, (n, 3)),
                "int": g.rng.integers(-100, 100, (n, 3)).astype(np.int32),
                "byte": g.rng.integers(0, 256, (n, 3)).astype(np.uint8),
            }
            for n in (1, 4)
        ],
    )


def _scalars() -> Case:
    """Scalars in and out, one of them a weight that no input changes."""
    g = _Graph(6)
    g.add("Mul", ["x", "gain"], "scaled")
    g.add("Cast", ["steps"], "steps_f", to=T.FLOAT)
    g.add("Add", ["scaled", "steps_f"], "y")
    g.add("ReduceSum", ["y"], "total", keepdims=0)
    g.add("Identity", [g.constant(np.float32(0.5))], "constant")
    return g.case(
        "scalars",
        [("x", T.FLOAT, [4]), ("gain", T.FLOAT, []), ("steps", T.INT64, [])],
        [("y", T.FLOAT, [4]), ("total", T.FLOAT, []), ("constant", T.FLOAT, [])],
        [
            {"x": g.normal(4), "gain": np.array(gain, np.float32), "steps": np.array(steps)}
            for gain, steps in ((2.0, 3), (-1.5, 0))
        ],
    )


def _passing_through() -> Case:
    """Outputs that an engine is tempted to alias: an input, a view of it, a value used again.

    Names are as exporters write them, and inputs and outputs are not in alphabetical order.
    """
    g = _Graph(7)
    g.add("Identity", ["z/input:0"], "same")
    g.add("Transpose", ["z/input:0"], "view", perm=[1, 0])
    g.add("Relu", ["z/input:0"], "b.relu")
    g.add("Identity", ["b.relu"], "again")
    g.add("Sub", ["b.relu", "a_input"], "a//Sub;out")
    return g.case(
        "passing_through",
        [("z/input:0", T.FLOAT, ["rows", 3]), ("a_input", T.FLOAT, [1])],
        [
            ("same", T.FLOAT, ["rows", 3]),
            ("view", T.FLOAT, [3, "rows"]),
            ("b.relu", T.FLOAT, ["rows", 3]),
            ("again", T.FLOAT, ["rows", 3]),
            ("a//Sub;out", T.FLOAT, ["rows", 3]),
        ],
        [{"z/input:0": g.normal(n, 3), "a_input": g.normal(1)} for n in (2, 5)],
    )


def _shapes() -> Case:
    """Moving data about: Pad, Resize, Concat, Slice, and an output as long as the data says."""
    g = _Graph(8)
    pads = g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    g.add("Pad", ["x", pads], "padded")
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    g.add("Resize", ["padded", "", scales], "large", mode="nearest",
          coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    begin, end, axes = (g.constant(np.array(v)) for v in ([1, 1], [9, 9], [2, 3]))
    g.add("Slice", ["large", begin, end, axes], "part")
    g.add("Concat", ["part", "part"], "both", axis=1)
    g.add("Reshape", ["both", g.constant(np.array([0, -1]))], "flat")
    g.add("ArgMax", ["flat"], "best", axis=1, keepdims=0)
    g.add("Greater", ["flat", g.constant(np.float32(1))], "large_ones")
    g.add("NonZero", ["large_ones"], "where")
    return g.case(
        "shapes",
        [("x", T.FLOAT, ["batch", 2, 4, 4])],
        [
            ("flat", T.FLOAT, ["batch", 256]),
            ("best", T.INT64, ["batch"]),
            ("where", T.INT64, [2, "found"]),
        ],
        [{"x": g.normal(n, 2, 4, 4)} for n in (1, 2)],
    )


def _quantized() -> Case:
    """A MatMul between QuantizeLinear and DequantizeLinear: int8 as every quantizer writes it.

    Weights keep to 7 bits, so that CPUs whose u8*s8 product saturates agree with the others.
    """
    g = _Graph(9, opset=19)
    scale, zero = g.constant(np.float32(0.03)), g.constant(np.uint8(128))
    weight = g.constant(g.rng.integers(-63, 64, (16, 8)).astype(np.int8))
    per_channel = g.constant(g.rng.uniform(0.005, 0.02, 8).astype(np.float32))
    g.add("QuantizeLinear", ["x", scale, zero], "x_q")
    g.add("DequantizeLinear", ["x_q", scale, zero], "x_dq")
    zeros = g.constant(np.zeros(8, np.int8))
    g.add("DequantizeLinear", [weight, per_channel, zeros], "w_dq", axis=1)
    g.add("MatMul", ["x_dq", "w_dq"], "y", name="matmul_q")
    return g.case(
        "quantized",
        [("x", T.FLOAT, ["batch", 16])],
        [("y", T.FLOAT, ["batch", 8])],
        [{"x": g.normal(n, 16)} for n in (1, 5)],
    )


def _wide() -> Case:
    """One MatMul large enough to tell float types and thread counts apart."""
    g = _Graph(10)
    g.add("MatMul", ["x", g.weight(512, 512)], "y", name="matmul")
    return g.case(
        "wide",
        [("x", T.FLOAT, ["rows", 512])],
        [("y", T.FLOAT, ["rows", 512])],
        [{"x": g.normal(n, 512)} for n in (64, 256)],
    )


CASES: dict[str, Callable[[], Case]] = {
    "convolution": _convolution,
    "attention": _attention,
    "recurrent": _recurrent,
    "branch": _branch,
    "integers": _integers,
    "scalars": _scalars,
    "passing_through": _passing_through,
    "shapes": _shapes,
    "quantized": _quantized,
    "wide": _wide,
}
