"""Nodes that the converter handles badly, written with others that mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnx import helper, numpy_helper

if TYPE_CHECKING:
    import onnx

_IMAGE = 4
"""Rank of images with channels."""


def pool_means(graph: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
    """Write each mean that leaves a vector of an image as a global average pool.

    Before a mean the converter moves channels back to where ONNX has them: what is ahead of it is no
    longer fused, and an NPU without that layout leaves it to the CPU.

    Args:
        graph: changed in place; nodes keep their names and tensors theirs.
        ranks: of the tensors whose rank is known.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += (
            _pooled(node, stored) if ranks.get(next(iter(node.input), "")) == _IMAGE else [node]
        )
    del graph.node[:]
    graph.node.extend(nodes)


def _pooled(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    if node.op_type != "ReduceMean":
        return [node]
    said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    axes = said.get("axes")
    if len(node.input) > 1 and node.input[1] in stored:
        axes = numpy_helper.to_array(stored[node.input[1]]).tolist()
    if axes is None or sorted(axis % _IMAGE for axis in axes) != [2, 3] or said.get("keepdims", 1):
        return [node]
    (image, (output,)) = node.input[0], node.output
    pooled = f"{output}_pooled"
    return [
        helper.make_node("GlobalAveragePool", [image], [pooled], name=node.name),
        helper.make_node("Flatten", [pooled], [output], name=f"{node.name}_flat", axis=1),
    ]
