"""In which types the HTP computes the nodes of a QDQ graph; pure.

A node computes in integers where all float values that it reads and writes stand in integers; the HTP
takes the conversions around it as the types of its tensors. Every other float node is computed in half
precision: the unit has no float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgesdk_backends.qnn.graph import CONVERSIONS, Graph, types_of

if TYPE_CHECKING:
    import onnx

HALF = "fp16"
_FLOATS = frozenset((1, 10, 11, 16))
"""float, float16, double and bfloat16 in ONNX's numbering."""
_INTEGERS = {2: "int8", 3: "int8", 4: "int16", 5: "int16"}
"""uint8, int8, uint16 and int16."""


def precisions(proto: onnx.ModelProto) -> dict[str, str]:
    """`int8`, `int16` or `fp16` of each node by name; empty for one that sees no float value.

    Conversions are left out, and so is what has only constants to compute with.
    """
    graph = Graph(proto)
    types = types_of(proto)
    fixed = set(graph.stored)
    found = {}
    for node in proto.graph.node:
        if all(name in fixed or not name for name in node.input):
            fixed.update(node.output)
        elif node.op_type not in CONVERSIONS:
            found[node.name] = _precision(graph, node, types, fixed)
    return found


def _precision(graph: Graph, node: onnx.NodeProto, types: dict[str, int], fixed: set[str]) -> str:
    seen = [name for name in (*node.output, *node.input) if name and name not in fixed]
    # What inference does not know is taken for float: that is the careful reading.
    floats = [name for name in seen if types.get(name, 1) in _FLOATS]
    if not floats:
        return ""
    kinds = [graph.storage(name) for name in floats]
    return _INTEGERS.get(kinds[0], HALF) if all(kinds) else HALF
