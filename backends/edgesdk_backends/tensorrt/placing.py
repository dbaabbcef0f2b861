"""Quantizers where TensorRT computes in integers, and nowhere else. Pure: a graph in, a graph out.

TensorRT takes a graph at its word: a QuantizeLinear that nothing computes behind costs a pass over the
tensor, a quantized constant must stand before a product, a bias must be float. So (TensorRT
documentation, "Explicit Quantization", "Q/DQ Placement Recommendations"; each was seen to be enforced,
or not, by the builder of TensorRT-RTX 1.7):

- int8 with zero point 0, a scale a tensor for activations, a scale a channel or tensor for weights;
- at the inputs of convolutions and products, both or none;
- at the residual input of an addition behind a convolution, which is then computed along with it;
- at no other operator: between them a pair commutes to where it is needed, or rounds for nothing;
- biases in float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.errors import StepFailed
from edgesdk_backends.tensorrt.graph import Graph, drop_unread

if TYPE_CHECKING:
    import onnx

_INT8, _INT32, _INT4 = 3, 6, 22
_NAMES = {2: "uint8", 4: "uint16", 5: "int16", 17: "float8", 21: "uint4"}
CONVOLUTIONS = frozenset(("Conv", "ConvTranspose"))
PRODUCTS = CONVOLUTIONS | {"Gemm", "MatMul"}
_TOLD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """How many quantizers a graph had, and what became of them.

    Attributes:
        kept: inputs of nodes that are still quantized.
        dropped: inputs of nodes that are float now.
    """

    kept: int
    dropped: int


def place_quantizers(proto: onnx.ModelProto) -> Placed:
    """Rewrite the graph in place by the rules at the top of this module; idempotent.

    Inputs, outputs and the names of all other nodes stay as they are.

    Raises:
        StepFailed: a quantizer that no TensorRT takes: unsigned, of 16 bits, or with a zero point. The
            message names the first nodes.
    """
    graph = Graph(proto.graph)
    _check(graph)
    kept = dropped = 0
    for node in list(proto.graph.node):
        wanted = _quantized_inputs(graph, node)
        for place, name in enumerate(node.input):
            dequantizer = graph.dequantizer(name)
            if dequantizer is None or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                continue
            if place in wanted:
                kept += 1
                continue
            source = _float_source(graph, dequantizer)
            if source is not None:
                node.input[place] = source
                dropped += 1
    for output in proto.graph.output:
        dequantizer = graph.dequantizer(output.name)
        source = None if dequantizer is None else _float_source(graph, dequantizer)
        if source is not None:
            graph.give_output(output.name, source)
            dropped += 1
    drop_unread(proto.graph)
    return Placed(kept=kept, dropped=dropped)


def quantized_products(proto: onnx.ModelProto) -> frozenset[str]:
    """Names of the nodes that multiply integers."""
    graph = Graph(proto.graph)
    return frozenset(
        node.name
        for node in proto.graph.node
        if node.op_type in PRODUCTS and graph.dequantizer(node.input[0]) is not None
    )


def _check(graph: Graph) -> None:
    problems = list(_problems(graph))
    if problems:
        more = f" and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        raise StepFailed(
            f"TensorRT takes int8 with zero point 0 only, and {'; '.join(problems[:_TOLD])}{more}; "
            "use a recipe with '-symmetric'"
        )


def _problems(graph: Graph) -> Iterator[str]:
    for node in graph.proto.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        kind = graph.quantized_type(node)
        is_bias = kind == _INT32 and node.op_type == "DequantizeLinear"
        if kind not in (_INT8, _INT4) and not is_bias:
            yield f"{node.name} is {_NAMES.get(kind, f'of type {kind}')}"
        elif len(node.input) > 2 and node.input[2]:
            zero = graph.constant(node.input[2])
            if zero is None or np.any(zero.astype(np.int32)):
                yield f"{node.name} has another zero point"


def _quantized_inputs(graph: Graph, node: onnx.NodeProto) -> frozenset[int]:
    """Which inputs of a node stay quantized."""
    pairs = [graph.dequantizer(name) for name in node.input]
    if node.op_type in PRODUCTS and len(pairs) >= 2:
        if pairs[0] is not None and pairs[1] is not None:
            return frozenset((0, 1))
        if pairs[1] is not None and graph.quantized_type(pairs[1]) == _INT4:
            return frozenset((1,))
    if node.op_type == "Add":
        for one, other in ((0, 1), (1, 0)):
            residual = pairs[other]
            is_pair = residual is not None and _activation(graph, residual) is not None
            if is_pair and _is_behind_convolution(graph, node.input[one]):
                return frozenset((other,))
    return frozenset()


def _is_behind_convolution(graph: Graph, name: str) -> bool:
    """Whether a convolution writes a tensor, or what a pair makes of it."""
    dequantizer = graph.dequantizer(name)
    source = name if dequantizer is None else _activation(graph, dequantizer)
    maker = graph.maker(source) if source else None
    return maker is not None and maker.op_type in CONVOLUTIONS


def _activation(graph: Graph, dequantizer: onnx.NodeProto) -> str | None:
    """The float tensor before a pair."""
    quantizer = graph.maker(dequantizer.input[0])
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return None
    return str(quantizer.input[0])


def _float_source(graph: Graph, dequantizer: onnx.NodeProto) -> str | None:
    """What to read instead of a dequantized tensor; None where it is quantized by itself."""
    activation = _activation(graph, dequantizer)
    if activation is not None:
        return activation
    if graph.constant_input(dequantizer) is None:
        return None
    return graph.store(f"{dequantizer.output[0]}.float", graph.dequantized(dequantizer))
