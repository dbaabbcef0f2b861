"""One ONNX graph with its quantizers, looked up by the names of tensors. Changes it in place."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]

_UINT8 = 2


class Graph:
    """The main graph of a model."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self._makers: dict[str, onnx.NodeProto] = {
            name: node for node in proto.node for name in node.output if name
        }
        self._stored: dict[str, onnx.TensorProto] = {t.name: t for t in proto.initializer}

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that writes a tensor; None for inputs and stored tensors."""
        return self._makers.get(name)

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that writes a tensor, if one does."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """A stored tensor, or that of a Constant."""
        if name in self._stored:
            return self._stored[name]
        node = self._makers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        values: list[onnx.TensorProto] = [a.t for a in node.attribute if a.name == "value"]
        return values[0] if values else None

    def constant(self, name: str) -> Array | None:
        """Its values, or None where the tensor is computed."""
        from onnx import numpy_helper

        tensor = self.tensor(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def constant_input(self, node: onnx.NodeProto | None) -> onnx.TensorProto | None:
        """The stored tensor that is a node's first input, if it is one."""
        return None if node is None else self.tensor(node.input[0])

    def quantized_type(self, node: onnx.NodeProto) -> int:
        """Element type on the integer side of a quantizer; ONNX's default is uint8."""
        if node.op_type == "DequantizeLinear":
            stored = self.tensor(node.input[0])
            if stored is not None:
                return int(stored.data_type)
            quantizer = self.maker(node.input[0])
            if quantizer is not None and quantizer.op_type == "QuantizeLinear":
                return self.quantized_type(quantizer)
        if len(node.input) > 2 and node.input[2]:
            zero = self.tensor(node.input[2])
            if zero is not None:
                return int(zero.data_type)
        stated = attribute(node, "output_dtype", 0)
        return stated or _UINT8

    def dequantized(self, node: onnx.NodeProto) -> Array:
        """What a DequantizeLinear makes of a stored tensor, zero point 0; as the operator computes it.

        https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
        """
        values, scale = self.constant(node.input[0]), self.constant(node.input[1])
        assert values is not None
        assert scale is not None
        axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
        if block:
            scale = np.repeat(scale, block, axis)
            scale = np.take(scale, np.arange(values.shape[axis]), axis)
        else:
            shape = [1] * values.ndim
            if scale.size > 1:
                shape[axis] = scale.size
            scale = scale.reshape(shape)
        found: Array = values.astype(scale.dtype) * scale
        return found

    def store(self, name: str, values: Array) -> str:
        """Keep values under a name, once."""
        from onnx import numpy_helper

        if name not in self._stored:
            self.proto.initializer.append(numpy_helper.from_array(values, name))
            self._stored[name] = self.proto.initializer[-1]
        return name

    def give_output(self, output: str, source: str) -> None:
        """Let an output of the graph hold what `source` does, instead of what writes it now."""
        from onnx import helper

        old, maker = self._makers[output], self._makers.get(source)
        _rename(old.output, output, f"{output}.replaced")
        for node in self.proto.node:
            _rename(node.input, output, source)
        ends = {value.name for value in (*self.proto.input, *self.proto.output)}
        has_branches = any(_read_inside(node) for node in self.proto.node)
        if maker is None or source in ends or has_branches:
            made = helper.make_node("Identity", [source], [output], name=f"{output}.identity")
            self.proto.node.append(made)
            return
        for node in self.proto.node:
            _rename(node.input, source, output)
        _rename(maker.output, source, output)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take out nodes and stored tensors that no output depends on."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            wanted.update(_read_inside(node))
    kept.reverse()
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    names[:] = [new if name == old else name for name in names]


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((a.i for a in node.attribute if a.name == name), default)


def _read_inside(node: onnx.NodeProto) -> set[str]:
    """Names that the branches and bodies of a node read."""
    from edgesdk.compress.onnx_io import graphs, subgraphs

    return {
        name
        for inner in subgraphs(node)
        for graph in graphs(inner)
        for name in (
            *(read for child in graph.node for read in child.input),
            *(value.name for value in graph.output),
        )
    }
