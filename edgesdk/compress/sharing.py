"""Weights that several nodes read, as the embedding that is also a language model's last product."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io

if TYPE_CHECKING:
    import onnx


def own_transposed(proto: onnx.ModelProto) -> bool:
    """Give every Gemm that reads a shared weight transposed a copy of its own; True if there was one.

    Where onnxruntime turns Gemm into MatMul it transposes the stored weight itself and takes it that no
    other node reads it: the others then compute nonsense, unseen where the weight is square.
    """
    graphs = list(onnx_io.graphs(proto.graph))
    nodes = [node for graph in graphs for node in graph.node]
    readers = Counter(name for node in nodes for name in node.input)
    stored = {tensor.name: (graph, tensor) for graph in graphs for tensor in graph.initializer}
    found = False
    for node in nodes:
        if node.op_type != "Gemm" or not onnx_io.attribute(node, "transB", 0):
            continue
        name = node.input[1]
        if name not in stored or readers[name] < 2:
            continue
        graph, tensor = stored[name]
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = f"{name}_of_{node.output[0]}"
        node.input[1] = copy.name
        readers[name] -= 1
        found = True
    return found
