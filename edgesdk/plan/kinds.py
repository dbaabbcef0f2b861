"""Which measured kind an ONNX node is, and its sizes; pure. Kinds: `edgesdk.profile_speeds.KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from edgesdk.onnxfile.work import Tensor, Work

Sized = tuple[str, tuple[float, ...]]
"""A kind and its sizes; the kind is empty where the node costs nothing."""

FREE: Sized = ("", ())
_NOTHING = frozenset(
    {"Identity", "Dropout", "Constant", "QuantizeLinear", "DequantizeLinear", "SequenceConstruct"}
)
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "CastLike", "Size", "Shape"})
_CURVES = frozenset(
    {"Sigmoid", "Tanh", "Exp", "Log", "Erf", "Softplus", "Elu", "Selu", "Mish", "Sin", "Cos"}
)
_CHEAP = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Neg", "Abs", "Pow", "Sqrt", "Reciprocal", "Cast", "Not"}
    | {"HardSigmoid", "Floor", "Ceil", "Round", "Sign", "BatchNormalization", "ThresholdedRelu"}
)
_BINARY = frozenset(
    {"Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Where", "Equal", "Greater", "Less"}
    | {"And", "Or", "Mod", "PRelu", "Pow"}
)
_NORMS = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"}
    | {"com.microsoft::SkipLayerNormalization", "SimplifiedLayerNormalization", "LpNormalization"}
)


def elementwise_kind(node: Work) -> str | None:
    """The kind of an element-wise node, None for any other."""
    if node.op in ("Gelu", "com.microsoft::Gelu", "com.microsoft::FastGelu"):
        return "gelu"
    if node.op in ("HardSwish", "Swish", "com.microsoft::QuickGelu"):
        return "swish"
    if node.op in _CURVES:
        return "sigmoid"
    if node.op in _BINARY and len(node.operands) > 1:
        return "add"
    if node.op in _BINARY and node.op not in _CHEAP:
        return "scale"
    return "relu" if node.op in _CHEAP else None


def sized(node: Work) -> Sized:
    """The kind and sizes of a node that stands for itself.

    An operator that nobody measured counts as a copy of its outputs; one of unknown shape as free.
    """
    if node.op in _NOTHING or not node.outputs:
        return FREE
    kind = elementwise_kind(node)
    out = node.outputs[0]
    if kind is not None:
        return kind, (float(max(out.elements, 1)),)
    plain = node.op.rpartition("::")[2]
    found = _SIZES.get(plain)
    result = found(node) if found else None
    if result is not None:
        return result
    if node.op in _VIEWS:
        return "reshape", (float(max(out.elements, 1)),)
    if node.op in _NORMS:
        return "norm", rows_of(out)
    if node.op.startswith("Reduce") or node.op.startswith("Global") or node.op == "ArgMax":
        return "reduce", (float(max(_first(node).elements, 1)),)
    return "copy", (float(max(sum(tensor.elements for tensor in node.outputs), 1)),)


def rows_of(tensor: Tensor) -> tuple[float, float]:
    """A tensor as rows of its last axis."""
    width = tensor.shape[-1] if tensor.shape else 1
    return float(max(tensor.elements // max(width, 1), 1)), float(max(width, 1))


def _first(node: Work) -> Tensor:
    return node.operands[0] if node.operands else Tensor(name="")


def _conv(node: Work) -> Sized | None:
    """Conv: W is [M, C/group, k...]."""
    x, w = _first(node), _weight(node)
    out = node.outputs[0]
    if x.shape is None or w is None or w.shape is None or not out.elements or len(x.shape) < 3:
        return None
    outputs, inputs, taps = w.shape[0], w.shape[1], prod(w.shape[2:])
    groups = max(x.shape[1] // max(inputs, 1), 1)
    pixels = out.elements / outputs
    if groups > 1 and inputs == 1:
        return "depthwise", (pixels, float(outputs), float(taps))
    return "conv", (pixels * groups, float(inputs), max(outputs / groups, 1.0), float(taps))


def _conv_transpose(node: Work) -> Sized | None:
    """ConvTranspose: W is [C, M/group, k...]; its products run over the pixels that go in."""
    x, w = _first(node), _weight(node)
    if x.shape is None or w is None or w.shape is None or not x.elements:
        return None
    pixels = x.elements / x.shape[1]
    return "conv", (pixels, float(w.shape[0]), float(w.shape[1]), float(prod(w.shape[2:])))


def _weight(node: Work) -> Tensor | None:
    """The second input; a weight may be computed or restored from another stored one."""
    return node.inputs[1] if len(node.inputs) > 1 else None


def _matmul(node: Work) -> Sized | None:
    a, b = (*node.inputs, None, None)[:2]
    out = node.outputs[0]
    if not (a and b and a.shape and b.shape and out.shape and out.elements and node.macs):
        return None
    inner = node.macs / out.elements
    columns = float(out.shape[-1])
    rows = out.elements / columns
    if b.stored or a.stored:
        return "product", (rows, inner, columns)
    batch = prod(out.shape[:-2]) if len(out.shape) > 2 else 1
    return "batched", (float(max(batch, 1)), rows / max(batch, 1), inner, columns)


def _recurrent(node: Work) -> Sized | None:
    """X is [T, B, I]; W [D, gates*H, I], R [D, gates*H, H]."""
    x, w, r = (*node.inputs, None, None, None)[:3]
    if not (x and w and r and x.shape and w.shape and r.shape):
        return None
    steps = x.shape[0] * x.shape[1] * w.shape[0]
    return "lstm", (float(steps), float(w.shape[-1]), float(r.shape[-1]))


def _softmax(node: Work) -> Sized | None:
    return "softmax", rows_of(node.outputs[0])


def _gather(node: Work) -> Sized | None:
    return ("gather", rows_of(node.outputs[0])) if node.inputs[0] in node.weights else None


def _pool(node: Work) -> Sized | None:
    """The window is at least as large as its step, which the shapes tell; of the whole it is a mean."""
    x, out = _first(node), node.outputs[0]
    if not out.elements:
        return None
    if out.shape and prod(out.shape[2:]) == 1:
        return "reduce", (float(x.elements),)
    return "pool", (float(out.elements), max(4.0, x.elements / out.elements))


def _transpose(node: Work) -> Sized | None:
    """One axis longer than 1 moves nothing."""
    shape = node.outputs[0].shape or ()
    kind = "transpose" if sum(dim > 1 for dim in shape) > 1 else "reshape"
    return kind, (float(max(node.outputs[0].elements, 1)),)


_SIZES: dict[str, Callable[[Work], Sized | None]] = {
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _matmul,
    "FusedMatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Gather": _gather,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Transpose": _transpose,
}
