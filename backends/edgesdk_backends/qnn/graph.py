"""A QDQ graph seen without its quantizers: who makes a value, who reads it, what it is stored as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Values = NDArray[Any]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CONVERSIONS = frozenset((QUANTIZE, DEQUANTIZE))


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    """The element type of each value that is known, in ONNX's numbering."""
    from onnx import shape_inference

    told = (*shape_inference.infer_shapes(proto).graph.value_info, *proto.graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in (*told, *proto.graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


class Graph:
    """The main graph of a model; built anew after each change of its structure."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto.graph
        self.stored = {tensor.name: tensor for tensor in self.proto.initializer}
        self.maker = {name: node for node in self.proto.node for name in node.output if name}
        self.outputs = {value.name for value in self.proto.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.proto.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes of this graph that read a value."""
        return self._readers.get(name, [])

    def before(self, name: str) -> str:
        """The float value that a value came from, through the conversions before it."""
        while name in self.maker and self.maker[name].op_type in CONVERSIONS:
            name = self.maker[name].input[0]
        return name

    def beyond(self, name: str) -> Iterator[onnx.NodeProto]:
        """Who reads a value, through the conversions after it."""
        for node in self.readers(name):
            if node.op_type in CONVERSIONS:
                yield from self.beyond(node.output[0])
            else:
                yield node

    def constant(self, name: str) -> Values | None:
        """What a stored value holds, dequantized; None for one that is computed."""
        from onnx import numpy_helper

        if name in self.stored:
            return np.asarray(numpy_helper.to_array(self.stored[name]))
        node = self.maker.get(name)
        if node is None:
            return None
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(node.attribute[0].t))
        if node.op_type != DEQUANTIZE:
            return None
        parts = [self.constant(part) for part in node.input]
        values, scale = parts[0], parts[1]
        zero = parts[2] if len(parts) > 2 else None
        if values is None or scale is None or scale.size != 1:
            return None
        shift = 0 if zero is None else int(zero.reshape(-1)[0])
        exact = (values.astype(np.int64) - shift) * scale.reshape(-1)[0]
        return np.asarray(exact.astype(scale.dtype))

    def storage(self, name: str) -> int:
        """ONNX's type of the integers that stand for a float value; 0 where it stays float.

        A value stands in integers where it comes out of a conversion, or goes into conversions only.
        """
        node = self.maker.get(name)
        if node is not None and node.op_type == DEQUANTIZE:
            return self._integer_type(node)
        readers = self.readers(name)
        if name in self.outputs or not readers or any(r.op_type != QUANTIZE for r in readers):
            return 0
        return self._integer_type(readers[0])

    def _integer_type(self, node: onnx.NodeProto) -> int:
        from onnx import TensorProto

        if len(node.input) > 2 and node.input[2] in self.stored:
            return int(self.stored[node.input[2]].data_type)
        if node.op_type == DEQUANTIZE and node.input[0] in self.stored:
            return int(self.stored[node.input[0]].data_type)
        return int(TensorProto.UINT8)
