"""Where in a graph a scale for each channel can pass from an activation to the weights that read it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.exposing import read_by
from edgesdk.compress.shapes import infer_shapes
from edgesdk.compress.stored import constants_to_initializers

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Weight = NDArray[np.float32]

_HOMOGENEOUS = frozenset(("Identity", "LeakyRelu", "PRelu", "Relu"))
"""f(x / s) = f(x) / s for every s > 0."""
_POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"))
"""The same, where channels are not what is pooled."""
_FLOAT = 1
_LONGEST = 16
"""Nodes between an activation and the weights that make it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A node that multiplies an activation by a stored weight.

    Attributes:
        axis: of the weight, along which the channels of the activation lie.
        depthwise: each output has one channel.
    """

    node: onnx.NodeProto
    axis: int
    depthwise: bool = False


@dataclass(frozen=True, slots=True)
class Fold:
    """A stored operand that takes the division.

    Attributes:
        position: among the inputs of the node.
        axis: of the operand, along which the channels lie.
    """

    node: onnx.NodeProto
    position: int
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An activation and those nodes with weights that read it along the same axis.

    Attributes:
        activation: its name.
        axis: of its channels, negative, from the end.
        channels: how many.
        readers: at least one.
        folds: what must be divided so that the activation is; empty where that cannot be.
    """

    activation: str
    axis: int
    channels: int
    readers: tuple[Reading, ...]
    folds: tuple[Fold, ...]


class Rescaler:
    """A model under rewriting."""

    def __init__(self, proto: onnx.ModelProto, prefix: str) -> None:
        """Take over the model.

        Args:
            proto: with its weights; changed in place.
            prefix: of new names; underscores are put before it until nothing else starts so.
        """
        constants_to_initializers(proto.graph)
        self._proto = proto
        while any(name.startswith(prefix) for node in proto.graph.node for name in node.output):
            prefix = f"_{prefix}"
        self._prefix = prefix
        graph = proto.graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._shapes = _shapes(proto)
        self._reads = Counter(value.name for value in graph.output)
        for node in graph.node:
            self._reads.update(read_by(node))
        self._inserted: dict[str, onnx.NodeProto] = {}

    def links(self) -> list[Link]:
        """Every activation whose channels can be scaled at some node, in the order of the nodes."""
        found: dict[tuple[str, int, int], list[Reading]] = {}
        for node in self._proto.graph.node:
            reading = self._reading(node)
            if reading is not None:
                dims = self._stored[node.input[1]].dims
                axis = 1 - len(dims) if node.op_type == "Conv" else -1
                key = node.input[0], axis, dims[reading.axis]
                found.setdefault(key, []).append(reading)
        return [
            Link(
                activation=name,
                axis=axis,
                channels=channels,
                readers=tuple(readers),
                folds=(
                    self._folds(name, axis, channels) if self._reads[name] == len(readers) else ()
                ),
            )
            for (name, axis, channels), readers in found.items()
        ]

    def weight(self, node: onnx.NodeProto) -> Weight:
        """The stored weight of a reader, as it is by now."""
        from onnx import numpy_helper

        values: Weight = numpy_helper.to_array(self._stored[node.input[1]])
        return values

    def apply(self, link: Link, scale: Floats) -> None:
        """Divide the activation by a scale for each channel, and multiply what it meets."""
        for reader in link.readers:
            self._multiply(reader.node, 1, reader.axis, scale)
        for fold in link.folds:
            self._multiply(fold.node, fold.position, fold.axis, 1 / scale)
        if not link.folds:
            self._insert(link, scale)

    def finished(self) -> onnx.ModelProto:
        """The model."""
        graph = self._proto.graph
        nodes = []
        for node in graph.node:
            put_in = self._inserted.pop(node.input[0], None) if node.input else None
            nodes += [node] if put_in is None else [put_in, node]
        del graph.node[:]
        graph.node.extend(nodes)
        return self._proto

    def _reading(self, node: onnx.NodeProto) -> Reading | None:
        if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            return None
        tensor = self._stored.get(node.input[1])
        if node.input[0] in self._stored or tensor is None or tensor.data_type != _FLOAT:
            return None
        if node.op_type == "Conv":
            return _read_by_conv(node, tensor)
        if len(tensor.dims) != 2 or onnx_io.attribute(node, "transA", 0):
            return None
        return Reading(node, 1 if onnx_io.attribute(node, "transB", 0) else 0)

    def _folds(self, name: str, axis: int, channels: int) -> tuple[Fold, ...]:
        """What makes the activation, walked backwards until weights absorb the division."""
        folds: list[Fold] = []
        for _ in range(_LONGEST):
            node = self._makers.get(name)
            if node is None or node.domain or node.output[0] != name:
                return ()
            if self._dim(name, axis) != channels:
                return ()
            absorbed = self._absorbed(node, axis, channels)
            if absorbed:
                return (*folds, *absorbed)
            passed = self._passed(node, axis, channels)
            if passed is None:
                return ()
            name, *more = passed
            if self._reads[name] != 1:
                return ()
            folds += more
        return ()

    def _absorbed(self, node: onnx.NodeProto, axis: int, channels: int) -> tuple[Fold, ...]:
        """The operands that take all of the division; none where this node cannot."""
        rank = self._rank(node.output[0])
        places: tuple[tuple[int, int], ...] = ()
        match node.op_type:
            case "Conv" if axis == 1 - rank:
                places = ((1, 0), (2, 0))
            case "BatchNormalization" if axis == 1 - rank and len(node.output) == 1:
                places = ((1, 0), (2, 0))
            case "MatMul" if axis == -1 and self._rank(node.input[1]) > 1:
                places = ((1, -1),)
            case "Gemm" if axis == -1:
                places = ((1, 0 if onnx_io.attribute(node, "transB", 0) else 1), (2, -1))
            case "LayerNormalization" if axis == -1 and len(node.output) == 1:
                if onnx_io.attribute(node, "axis", -1) in (-1, rank - 1):
                    places = ((1, -1), (2, -1))
            case "Mul":
                places = ((self._stored_side(node), axis),)
        taken = [Fold(node, p, a) for p, a in places if p < len(node.input) and node.input[p]]
        return tuple(taken) if all(self._fits(fold, channels) for fold in taken) else ()

    def _passed(
        self, node: onnx.NodeProto, axis: int, channels: int
    ) -> tuple[str, *tuple[Fold, ...]] | None:
        """The input that is to be divided instead of the output, and operands to divide with it."""
        if node.op_type in _HOMOGENEOUS:
            return (node.input[0],)
        if node.op_type in _POOLS and axis == 1 - self._rank(node.output[0]):
            return (node.input[0],)
        if node.op_type not in ("Add", "Sub", "Mul", "Div"):
            return None
        side = self._stored_side(node)
        if node.input[side] not in self._stored or node.input[1 - side] in self._stored:
            return None
        if node.op_type in ("Add", "Sub"):
            fold = Fold(node, side, axis)
            return (node.input[1 - side], fold) if self._fits(fold, channels) else None
        dims = self._stored[node.input[side]].dims
        is_one = len(dims) < -axis or dims[axis] == 1
        return (node.input[1 - side],) if is_one and (node.op_type == "Mul" or side) else None

    def _stored_side(self, node: onnx.NodeProto) -> int:
        return 0 if node.input[0] in self._stored else 1

    def _fits(self, fold: Fold, channels: int) -> bool:
        """Whether the operand is a stored float32 tensor with these channels along that axis."""
        tensor = self._stored.get(fold.node.input[fold.position])
        if tensor is None or tensor.data_type != _FLOAT:
            return False
        rank = len(tensor.dims)
        return -rank <= fold.axis < rank and tensor.dims[fold.axis] == channels

    def _rank(self, name: str) -> int:
        return len(self._shapes.get(name, ()))

    def _dim(self, name: str, axis: int) -> int:
        """Length of an axis; 0 where it is not known."""
        shape = self._shapes.get(name, ())
        return shape[axis] if len(shape) >= -axis else 0

    def _multiply(self, node: onnx.NodeProto, position: int, axis: int, factor: Floats) -> None:
        """Scale an operand along an axis; a copy of it where other nodes read it, too."""
        from onnx import numpy_helper

        name = node.input[position]
        values = numpy_helper.to_array(self._stored[name])
        shape = [1] * values.ndim
        shape[axis] = -1
        scaled = (values * factor.reshape(shape)).astype(np.float32)
        if self._reads[name] == 1:
            self._stored[name].CopyFrom(numpy_helper.from_array(scaled, name))
            return
        self._reads[name] -= 1
        node.input[position] = self._store(scaled)

    def _store(self, values: Weight) -> str:
        from onnx import numpy_helper

        tensor = self._proto.graph.initializer.add()
        name = f"{self._prefix}{len(self._proto.graph.initializer)}"
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        self._stored[name] = tensor
        self._reads[name] = 1
        return name

    def _insert(self, link: Link, scale: Floats) -> None:
        from onnx import helper

        factors = self._store((1 / scale).astype(np.float32))
        output = f"{factors}.out"
        self._inserted[output] = helper.make_node(
            "Mul", [link.activation, factors], [output], name=factors
        )
        for reader in link.readers:
            reader.node.input[0] = output


def _read_by_conv(node: onnx.NodeProto, tensor: onnx.TensorProto) -> Reading | None:
    """How a convolution reads its input; None where its groups are neither one nor the channels."""
    group = onnx_io.attribute(node, "group", 1)
    if group == 1:
        return Reading(node, 1)
    outputs, inputs = tensor.dims[:2]
    return Reading(node, 0, depthwise=True) if inputs == 1 and outputs == group else None


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Lengths of the axes of all tensors, stored ones too; 0 for one that is not known."""
    graph = infer_shapes(proto).graph
    made = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return made | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
