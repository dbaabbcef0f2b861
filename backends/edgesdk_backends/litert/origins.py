"""Which nodes of the model are behind what an operation of the file computes, by the names of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgesdk_backends.litert.engine import Engine

if TYPE_CHECKING:
    import onnx


def find_origins(graph: onnx.GraphProto, engine: Engine) -> dict[str, tuple[str, ...]]:
    """The ONNX nodes behind every tensor that an operation of the file writes.

    Where the converter fused nodes, the tensors between them are gone: a tensor stands for the nodes
    from it back to the next ones that are still there.
    """
    maker = {name: node for node in graph.node for name in node.output if name}
    names = engine.tensor_names()
    moved = _moved_names(graph)
    written: dict[str, str] = {}
    for operation in engine.nodes():
        for name in (names[int(index)] for index in operation["outputs"] if int(index) in names):
            # What is written again later is only moved.
            written.setdefault(name if name in maker else moved.get(name, name), name)
    origins = {}
    for name in sorted(written.keys() & maker.keys()):
        nodes: dict[str, None] = {}
        open_names = [name]
        while open_names:
            node = maker.get(open_names.pop())
            if node is None or (node.name or node.op_type) in nodes:
                continue
            nodes[node.name or node.op_type] = None
            open_names += [read for read in node.input if read not in written]
        origins[written[name]] = tuple(reversed(nodes))
    return origins


def _moved_names(graph: onnx.GraphProto) -> dict[str, str]:
    """What the converter calls a tensor whose channels it moved last, by a node beside it: its own name."""
    found = {}
    for node in graph.node:
        if node.name and node.output:
            found[f"{node.name}_output_nhwc"] = node.output[0]
        if node.name and node.input:
            found[f"{node.name}_input_nhwc"] = node.input[0]
    return found
