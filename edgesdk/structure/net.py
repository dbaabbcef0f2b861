"""A graph as layers, whose weights can be read and written whatever the operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.exposing import read_by
from edgesdk.compress.sites import check_names
from edgesdk.compress.weights import elements
from edgesdk.structure.layers import Layer, lift_constants

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_FLOAT = 1
_OPERATORS = frozenset(("BatchNormalization", "Conv", "Gemm", "MatMul"))


class Net:
    """A model with its layers, which can be read and written.

    Attributes:
        proto: the model; it is changed in place.
        layers: by node name, in the order of the nodes.
        left: names of other weighted nodes, each with the reason why it is left alone.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Find the layers of the main graph; branches and loops are left alone.

        Constants become stored tensors, so that weights are found wherever an exporter keeps them.

        Args:
            proto: with its weights; taken over.

        Raises:
            ModelError: nodes cannot be told apart by name.
        """
        lift_constants(proto)
        check_names(proto)
        self.proto = proto
        graph = proto.graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = {node.name: node for node in graph.node}
        self.reads: Counter[str] = Counter(value.name for value in graph.output)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in read_by(node):
                self.reads[name] += list(node.input).count(name) or 1
                self._readers.setdefault(name, []).append(node)
        self.layers: dict[str, Layer] = {}
        self.left: dict[str, str] = {}
        for node in graph.node:
            found = self._layer(node)
            if isinstance(found, Layer):
                self.layers[node.name] = found
            elif found:
                self.left[node.name] = found

    def matrix(self, layer: Layer) -> Floats:
        """W, float64[groups, features, outputs / groups]."""
        values = self._values(layer.weight)
        match layer.op:
            case "BatchNormalization":
                return (values / self._deviation(layer)).reshape(-1, 1, 1)
            case "Conv":
                split = values.reshape(layer.groups, -1, layer.features)
                return np.ascontiguousarray(split.transpose(0, 2, 1))
        return np.ascontiguousarray(values.T if layer.transposed else values)[None]

    def vector(self, layer: Layer) -> Floats:
        """b, float64[outputs]; zeros where there is no bias."""
        if not layer.bias:
            return np.zeros(layer.outputs)
        values = self._values(layer.bias).reshape(-1)
        if layer.op == "BatchNormalization":
            mean = self._values(self.nodes[layer.node].input[3])
            values = values - mean * self.matrix(layer).reshape(-1)
        return values

    def write(self, layer: Layer, matrix: Floats, vector: Floats | None = None) -> None:
        """Give a layer another W and, where `layer.takes_bias`, another b; in the shapes of the old."""
        if vector is None and layer.op == "BatchNormalization":
            vector = self.vector(layer)
        tensor = self.stored[layer.weight]
        dims = tuple(tensor.dims)
        match layer.op:
            case "BatchNormalization":
                deviation = self._deviation(layer)
                mean = self._values(self.nodes[layer.node].input[3])
                vector = np.asarray(vector) + mean * matrix.reshape(-1)
                values = matrix.reshape(-1) * deviation
            case "Conv":
                values = matrix.transpose(0, 2, 1).reshape(dims)
            case _:
                values = matrix[0].T if layer.transposed else matrix[0]
        self.store(layer.weight, values)
        if vector is None:
            return
        if layer.bias:
            self._write_bias(layer, vector)
        elif layer.takes_bias and vector.any():
            node = self.nodes[layer.node]
            del node.input[2:]
            node.input.append(self.store(self.fresh(f"{layer.node}.bias"), vector))

    def store(self, name: str, values: Floats) -> str:
        """Store values as float32 under a name, old or new; returns the name."""
        from onnx import numpy_helper

        if name not in self.stored:
            self.stored[name] = self.proto.graph.initializer.add()
            self.reads[name] = 1
        tensor = numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name)
        self.stored[name].CopyFrom(tensor)
        return name

    def fresh(self, name: str) -> str:
        """The name, or one like it that no tensor and no node has."""
        taken = self.stored.keys() | self.reads.keys() | self.nodes.keys()
        taken |= {output for node in self.proto.graph.node for output in node.output}
        while name in taken:
            name += "_"
        return name

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, in order."""
        return self._readers.get(name, [])

    def _values(self, name: str) -> Floats:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.stored[name]), np.float64)

    def _deviation(self, layer: Layer) -> Floats:
        node = self.nodes[layer.node]
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        return np.sqrt(self._values(node.input[4]) + epsilon)

    def _write_bias(self, layer: Layer, vector: Floats) -> None:
        """Change the bias, or give the node one of its own where others read it."""
        values = vector.reshape(tuple(self.stored[layer.bias].dims))
        if self.reads[layer.bias] == 1:
            self.store(layer.bias, values)
            return
        holder = self.nodes[layer.adder or layer.node]
        name = self.store(self.fresh(f"{layer.node}.bias"), values)
        self.reads[layer.bias] -= 1
        for place, read in enumerate(holder.input):
            if read == layer.bias and (place == 2 or layer.adder):
                holder.input[place] = name

    def _layer(self, node: onnx.NodeProto) -> Layer | str | None:
        """The layer, or why it is left alone; None where there is no weight."""
        if node.domain not in ("", "ai.onnx") or node.op_type not in _OPERATORS:
            return None
        tensor = self.stored.get(node.input[1])
        if node.input[0] in self.stored or tensor is None:
            first = node.op_type == "MatMul" and node.input[0] in self.stored
            return "its weight is the first factor" if first else None
        if tensor.data_type != _FLOAT:
            return "its weight is not float32"
        if self.reads[tensor.name] > 1:
            others = [n.name for n in self.readers(tensor.name) if n.name != node.name]
            return f"its weight is shared with {', '.join(others) or 'an output of the model'}"
        match node.op_type:
            case "Conv":
                return self._convolution(node, tuple(tensor.dims))
            case "BatchNormalization":
                return self._normalization(node, tensor.dims[0])
        return self._product(node, tuple(tensor.dims))

    def _convolution(self, node: onnx.NodeProto, dims: tuple[int, ...]) -> Layer | str:
        from onnx import helper

        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kernel = dims[2:]
        auto = given.get("auto_pad", b"NOTSET").decode()
        pads = tuple(given.get("pads", ())) or (0,) * (2 * len(kernel))
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and not self._is_float(bias, dims[0]):
            return "its bias is not stored as float32"
        return Layer(
            node=node.name,
            op="Conv",
            source=node.input[0],
            output=node.output[0],
            biased=node.output[0],
            weight=node.input[1],
            bias=bias,
            groups=given.get("group", 1),
            features=prod(dims[1:]),
            outputs=dims[0],
            kernel=kernel,
            strides=tuple(given.get("strides", ())) or (1,) * len(kernel),
            dilations=tuple(given.get("dilations", ())) or (1,) * len(kernel),
            pads=auto if auto.startswith("SAME") else (0,) * len(pads) if auto == "VALID" else pads,
        )

    def _normalization(self, node: onnx.NodeProto, channels: int) -> Layer | str:
        several = len([name for name in node.output if name]) > 1
        if several or onnx_io.attribute(node, "training_mode", 0):
            return "it trains"
        if not all(self._is_float(name, channels) for name in node.input[2:]):
            return "its bias, mean or variance is not stored as float32"
        return Layer(
            node=node.name,
            op=node.op_type,
            source=node.input[0],
            output=node.output[0],
            biased=node.output[0],
            weight=node.input[1],
            bias=node.input[2],
            groups=channels,
            features=1,
            outputs=channels,
        )

    def _product(self, node: onnx.NodeProto, dims: tuple[int, ...]) -> Layer | str:
        if len(dims) != 2:
            return f"its weight has {len(dims)} axes"
        transposed = False
        bias = adder = ""
        if node.op_type == "Gemm":
            factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
            if onnx_io.attribute(node, "transA", 0) or any(f != 1 for f in factors.values()):
                return "it transposes its input or scales its product"
            transposed = bool(onnx_io.attribute(node, "transB", 0))
            bias = node.input[2] if len(node.input) > 2 else ""
            if bias and not self._is_float(bias, dims[0 if transposed else 1]):
                return "its bias is not stored as one float32 an output"
        else:
            bias, adder = self._added(node, dims[1])
        return Layer(
            node=node.name,
            op=node.op_type,
            source=node.input[0],
            output=node.output[0],
            biased=self.nodes[adder].output[0] if adder else node.output[0],
            weight=node.input[1],
            bias=bias,
            adder=adder,
            groups=1,
            features=dims[1 if transposed else 0],
            outputs=dims[0 if transposed else 1],
            transposed=transposed,
        )

    def _added(self, node: onnx.NodeProto, outputs: int) -> tuple[str, str]:
        """The bias that a following Add holds, and the name of that Add; empty where there is none."""
        readers = self.readers(node.output[0])
        if self.reads[node.output[0]] != 1 or len(readers) != 1 or readers[0].op_type != "Add":
            return "", ""
        (other,) = [name for name in readers[0].input if name != node.output[0]]
        return (other, readers[0].name) if self._is_float(other, outputs) else ("", "")

    def _is_float(self, name: str, count: int) -> bool:
        tensor = self.stored.get(name)
        if tensor is None or tensor.data_type != _FLOAT:
            return False
        return elements(tensor) == count and (tensor.dims[-1:] == [count] or count == 1)


def depths(net: Net) -> Mapping[str, int]:
    """For each layer, how many layers at most lie between it and the inputs; 0 for the first."""
    reached: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in net.proto.graph.node:
        depth = max((reached.get(name, 0) for name in read_by(node)), default=0)
        if node.name in net.layers:
            found[node.name] = depth
            depth += 1
        for name in node.output:
            reached[name] = depth
    return found
