"""Random small networks of the blocks that real ones are made of, for property tests of pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 4
"""Height and width of the input image."""


class Network:
    """A graph under construction whose last tensor is an image [1, channels, side, side]."""

    def __init__(self, seed: int, opset: int = 17, batch: int | str = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = 3
        self.side = SIDE
        self.last = "image"

    def new(self) -> str:
        return f"t{len(self.nodes)}"

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        stem = self.new()
        names = [stem, *(f"{stem}_{number}" for number in range(1, outputs))]
        self.nodes.append(
            helper.make_node(
                op, inputs, names, name=f"{op.lower()}_{len(self.nodes)}", **attributes
            )
        )
        return stem

    def store(self, value: NDArray[Any] | np.generic) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(self, *shape: int) -> str:
        scale = np.sqrt(max(1, int(np.prod(shape[1:]))))
        return self.store((self.rng.normal(size=shape) / scale).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.store(np.array(values, np.int64))

    def conv(self, source: str, inner: int, outer: int, kernel: int = 1, group: int = 1) -> str:
        return self.add(
            "Conv",
            [source, self.normal(outer, inner // group, kernel, kernel), self.normal(outer)],
            group=group,
            pads=[kernel // 2] * 4,
            kernel_shape=[kernel, kernel],
        )

    def norm(self, source: str, channels: int) -> str:
        positive = self.store(self.rng.uniform(0.5, 2, channels).astype(np.float32))
        parts = [self.normal(channels) for _ in range(3)]
        return self.add("BatchNormalization", [source, *parts, positive])

    def model(self, shape: Sequence[int] | None = None) -> onnx.ModelProto:
        """The network; the shape of its output where onnx cannot infer it."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [
                helper.make_tensor_value_info(
                    "image", TensorProto.FLOAT, [self.batch, 3, SIDE, SIDE]
                )
            ],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, shape)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8 if self.opset < 21 else 10
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred

    def feed(self) -> dict[str, NDArray[Any]]:
        rows = self.batch if isinstance(self.batch, int) else 2
        return {"image": self.rng.normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32)}


def plain(n: Network) -> None:
    width = int(n.rng.integers(4, 13))
    n.last = n.add("Relu", [n.norm(n.conv(n.last, n.channels, width, 3), width)])
    n.channels = width


def bottleneck(n: Network) -> None:
    """A residual block with a middle of any kind, added to its input."""
    width = int(n.rng.integers(2, 5)) * 4
    x = n.add("Relu", [n.norm(n.conv(n.last, n.channels, width), width)])
    group = int(n.rng.choice([1, 2, 4, width // 2, width]))
    x = n.add("HardSwish", [n.conv(x, width, width, 3, group)])
    x = n.conv(x, width, n.channels)
    n.last = n.add("Relu", [n.add("Add", [x, n.last])])


def downsampling(n: Network) -> None:
    """A residual block whose shortcut is a convolution."""
    width = int(n.rng.integers(4, 10))
    long = n.conv(n.add("Relu", [n.conv(n.last, n.channels, width, 3)]), width, width, 3)
    short = n.norm(n.conv(n.last, n.channels, width), width)
    n.last, n.channels = n.add("Add", [long, short]), width


def joined(n: Network) -> None:
    """Two branches and the input, joined, as in a densely connected network."""
    widths = [int(w) for w in n.rng.integers(2, 7, 2)]
    branches = [n.add("Sigmoid", [n.conv(n.last, n.channels, w)]) for w in widths]
    n.last = n.add("Concat", [branches[0], n.last, branches[1]], axis=1)
    n.channels += sum(widths)


def multiplied(n: Network) -> None:
    """A depthwise convolution that makes two channels of each."""
    n.last = n.add("Tanh", [n.conv(n.last, n.channels, 2 * n.channels, 3, n.channels)])
    n.channels *= 2


def excited(n: Network) -> None:
    """Squeeze and excite: a gate for every channel."""
    narrow = max(2, n.channels // 2)
    pooled = n.add("GlobalAveragePool", [n.last])
    x = n.add("Relu", [n.conv(pooled, n.channels, narrow)])
    gate = n.add("HardSigmoid", [n.conv(x, narrow, n.channels)])
    n.last = n.add("Mul", [n.last, gate])


def halves(n: Network) -> None:
    """Split in two, work on one half, join them the other way round."""
    if n.channels % 2:
        plain_width = n.channels + 1
        n.last, n.channels = n.conv(n.last, n.channels, plain_width), plain_width
    half = n.channels // 2
    sizes = {"split": [half, half]} if n.opset < 13 else {}
    parts = [n.last] if n.opset < 13 else [n.last, n.ints(half, half)]
    one = n.add("Split", parts, 2, axis=1, **sizes)
    n.last = n.add("Concat", [f"{one}_1", n.conv(one, half, half, 3)], axis=1)


def sliced(n: Network) -> None:
    """The first channels alone, and all of them, read apart and added."""
    first = max(2, n.channels // 2)
    part = n.add("Slice", [n.last, n.ints(0), n.ints(first), n.ints(1)])
    width = int(n.rng.integers(3, 8))
    n.last = n.add("Add", [n.conv(part, first, width), n.conv(n.last, n.channels, width)])
    n.channels = width


def shuffled(n: Network) -> None:
    """Channels of two groups dealt out in turn."""
    if n.channels % 2:
        n.last, n.channels = n.conv(n.last, n.channels, n.channels + 1), n.channels + 1
    x = n.add("Reshape", [n.last, n.ints(0, 2, n.channels // 2, n.side, n.side)])
    x = n.add("Transpose", [x], perm=[0, 2, 1, 3, 4])
    n.last = n.add("Reshape", [x, n.ints(0, -1, n.side, n.side)])


def gated(n: Network) -> None:
    """PRelu and constants that are broadcast along channels, between sums."""
    x = n.add("PRelu", [n.last, n.store(n.rng.uniform(size=(n.channels, 1, 1)).astype(np.float32))])
    x = n.add("Mul", [x, n.store(n.rng.uniform(0.5, 2, (1, n.channels, 1, 1)).astype(np.float32))])
    n.last = n.add("Clip", [x, n.store(np.float32(-2)), n.store(np.float32(2))])


def normalised(n: Network) -> None:
    """Each channel by its own mean and variance."""
    n.last = n.add("InstanceNormalization", [n.last, n.normal(n.channels), n.normal(n.channels)])


def shrunk(n: Network) -> None:
    """Padded, pooled and enlarged again."""
    pads = n.ints(0, 0, 1, 1, 0, 0, 1, 1)
    x = n.add("Pad", [n.last, pads])
    x = n.add("AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1])
    scales = n.store(np.array([1, 1, 2, 2], np.float32))
    x = n.add("Resize", [x, "", scales], mode="nearest")
    n.last = n.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])


def enlarged(n: Network) -> None:
    """A transposed convolution and a strided one back."""
    width = int(n.rng.integers(3, 7))
    w = n.normal(n.channels, width, 2, 2)
    x = n.add("ConvTranspose", [n.last, w, n.normal(width)], strides=[2, 2], kernel_shape=[2, 2])
    back = n.normal(n.channels, width, 2, 2)
    n.last = n.add("Conv", [x, back], strides=[2, 2], kernel_shape=[2, 2])


def grouped_norm(n: Network) -> None:
    """Groups of channels by their own mean and variance, as exporters spell it."""
    groups = 4
    width = groups * int(n.rng.integers(2, 4))
    x = n.conv(n.last, n.channels, width)
    n.channels = width
    x = n.add("Reshape", [x, n.ints(0, groups, -1)])
    x = n.add("InstanceNormalization", [x, n.normal(groups), n.normal(groups)])
    n.last = n.add("Reshape", [x, n.ints(0, width, n.side, n.side)])


def pixels(n: Network) -> None:
    """Channels to pixels and back, in both orders."""
    width = 4 * int(n.rng.integers(2, 4))
    mode = str(n.rng.choice(["CRD", "DCR"]))
    x = n.add("DepthToSpace", [n.conv(n.last, n.channels, width)], blocksize=2, mode=mode)
    n.last, n.channels = n.add("SpaceToDepth", [n.conv(x, width // 4, 5)], blocksize=2), 20


def picked(n: Network) -> None:
    """Channels taken by number, one of them twice."""
    numbers = [int(i) for i in n.rng.permutation(n.channels)[: max(2, n.channels // 2)]]
    numbers.append(numbers[0] - n.channels)
    n.last = n.add("Gather", [n.last, n.ints(*numbers)], axis=1)
    n.channels = len(numbers)


def repeated(n: Network) -> None:
    """Constants repeated to the shape of the channels, once by numbers, once by that shape."""
    half = numpy_helper.from_array(np.array([0.5], np.float32))
    x = n.add("ConstantOfShape", [n.ints(1, n.channels, 1, 1)], value=half)
    y = n.add("Expand", [n.store(np.full((1, 1, 1, 1), 0.1, np.float32)), n.add("Shape", [n.last])])
    n.last = n.add("Add", [n.add("Mul", [n.last, x]), y])


def sized(n: Network) -> None:
    """Enlarged to a size that names the channels, and tiled along nothing."""
    rows = n.batch if isinstance(n.batch, int) else 2
    sizes = n.ints(rows, n.channels, 2 * n.side, 2 * n.side)
    x = n.add("Resize", [n.last, "", "", sizes], mode="nearest")
    x = n.add("Tile", [x, n.ints(1, 1, 1, 1)])
    n.last = n.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])


def enlarged_in_groups(n: Network) -> None:
    """A grouped transposed convolution that makes three channels of two."""
    groups = int(n.rng.integers(2, 5))
    x = n.conv(n.last, n.channels, 2 * groups)
    w = n.normal(2 * groups, 3, 1, 1)
    x = n.add("ConvTranspose", [x, w, n.normal(3 * groups)], group=groups)
    n.last, n.channels = x, 3 * groups


BLOCKS: dict[str, Callable[[Network], None]] = {
    block.__name__: block
    for block in (
        plain,
        bottleneck,
        downsampling,
        joined,
        multiplied,
        excited,
        halves,
        sliced,
        shuffled,
        gated,
        normalised,
        shrunk,
        enlarged,
        grouped_norm,
        pixels,
        picked,
        repeated,
        sized,
        enlarged_in_groups,
    )
}


def pooled_head(n: Network) -> None:
    x = n.add("Flatten", [n.add("GlobalAveragePool", [n.last])], axis=1)
    n.last = n.add("Gemm", [x, n.normal(n.channels, 5), n.normal(5)])


def flat_head(n: Network) -> None:
    """Every channel owns a row for each pixel."""
    flat = n.channels * n.side * n.side
    how = ("Flatten", [n.last]) if n.rng.integers(2) else ("Reshape", [n.last, n.ints(0, -1)])
    x = n.add(*how)
    x = n.add("Relu", [n.add("Gemm", [x, n.normal(7, flat), n.normal(7)], transB=1)])
    n.last = n.add("MatMul", [x, n.normal(7, 4)])


def tokens(n: Network) -> str:
    """The pixels as a sequence: [batch, pixels, channels]."""
    x = n.add("Reshape", [n.last, n.ints(0, 0, -1)])
    return n.add("Transpose", [x], perm=[0, 2, 1])


def attention_head(n: Network) -> None:
    """One layer of a transformer: heads, a residual stream under LayerNormalization, an MLP."""
    heads, deep, model = int(n.rng.integers(2, 6)), int(n.rng.integers(2, 5)), 8
    x = n.add("MatMul", [tokens(n), n.normal(n.channels, model)])
    width = heads * deep
    split: list[str] = []
    for _ in "qkv":
        y = n.add("Add", [n.add("MatMul", [x, n.normal(model, width)]), n.normal(width)])
        split.append(n.add("Reshape", [y, n.ints(0, -1, heads, deep)]))
    q, k, v = (
        n.add("Transpose", [part], perm=perm)
        for part, perm in zip(split, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scores = n.add("Softmax", [n.add("MatMul", [q, k])], axis=-1)
    mixed = n.add("Transpose", [n.add("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    target = n.ints(0, -1, width) if n.rng.integers(2) else n.ints(0, SIDE * SIDE, -1)
    mixed = n.add("Reshape", [mixed, target])
    x = n.add("Add", [x, n.add("MatMul", [mixed, n.normal(width, model)])])
    x = n.add("LayerNormalization", [x, n.normal(model), n.normal(model)], axis=-1)
    y = n.add("Erf", [n.add("MatMul", [x, n.normal(model, 12)])])
    x = n.add("Add", [x, n.add("MatMul", [y, n.normal(12, model)])])
    if n.opset >= 18:
        n.last = n.add("ReduceMean", [x, n.ints(1)], keepdims=0)
    else:
        n.last = n.add("ReduceMean", [x], axes=[1], keepdims=0)


def summed_head(n: Network) -> None:
    """Products written as sums over letters, with a bilinear gate."""
    x = n.add("Einsum", [tokens(n), n.normal(n.channels, 6)], equation="btc,cd->btd")
    y = n.add("Einsum", [x, x], equation="btd,btd->btd")
    n.last = n.add("Einsum", [n.normal(4, 6), y], equation="ed,btd->bte")


def fused_attention_head(n: Network) -> None:
    """Q, K and V made by one product and told apart by a reshape, as in vision transformers."""
    heads, deep = int(n.rng.integers(4, 7)), 3
    width = heads * deep
    y = n.add("MatMul", [tokens(n), n.normal(n.channels, 3 * width)])
    y = n.add("Reshape", [y, n.ints(0, SIDE * SIDE, 3, heads, deep)])
    y = n.add("Transpose", [y], perm=[2, 0, 3, 1, 4])
    q, k, v = (n.add("Gather", [y, n.store(np.int64(at))], axis=0) for at in range(3))
    k = n.add("Transpose", [k], perm=[0, 1, 3, 2])
    scores = n.add("Softmax", [n.add("MatMul", [q, k])], axis=-1)
    mixed = n.add("Transpose", [n.add("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    mixed = n.add("Reshape", [mixed, n.ints(0, SIDE * SIDE, width)])
    n.last = n.add("MatMul", [mixed, n.normal(width, 4)])


def recurrent_head(n: Network) -> None:
    """The pixels one after the other, through a recurrent cell of one or two directions."""
    op, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][int(n.rng.integers(3))]
    ways, hidden = int(n.rng.integers(1, 3)), int(n.rng.integers(3, 8))
    x = n.add("Transpose", [tokens(n)], perm=[1, 0, 2])
    parts = [
        n.normal(ways, gates * hidden, n.channels),
        n.normal(ways, gates * hidden, hidden),
        n.normal(ways, 2 * gates * hidden),
    ]
    if op == "LSTM" and n.rng.integers(2):
        parts += ["", "", "", n.normal(ways, 3 * hidden)]
    y = n.add(op, [x, *parts], hidden_size=hidden,
              direction="forward" if ways == 1 else "bidirectional")  # fmt: skip
    y = n.add("Transpose", [y], perm=[0, 2, 1, 3])
    y = n.add("Reshape", [y, n.ints(0, 0, ways * hidden)])
    n.last = n.add("MatMul", [y, n.normal(ways * hidden, 4)])


HEADS: dict[str, Callable[[Network], None]] = {
    head.__name__: head
    for head in (
        pooled_head,
        flat_head,
        attention_head,
        fused_attention_head,
        recurrent_head,
        summed_head,
    )
}


def build(
    blocks: Sequence[str], head: str, seed: int, opset: int = 17, batch: int | str = 1
) -> Network:
    """A network of a plain convolution, these blocks and this head."""
    network = Network(seed, opset, batch)
    plain(network)
    for name in blocks:
        BLOCKS[name](network)
    HEADS[head](network)
    return network
