"""Weights stored small and restored when the engine loads them: half the file, or a quarter.

The restoring nodes have constant inputs only, so engines fold them at load (or keep the small form
where they compute with it) and run as fast as with float weights. DequantizeLinear would not do:
onnxruntime leaves it to be run again and again, because its fusions look for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.weights import SMALL, elements, float_weights

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from edgesdk.compress.weights import Weight
    from edgesdk.recipe import Recipe

    Floats = NDArray[np.float32]
    Restored = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]
    """What is stored, and the nodes that make the weight of it."""

_LARGEST_HALF = 65504.0
"""Largest finite float16."""
_FLOAT = 1
_WEIGHTED_OPS = frozenset(("Conv", "Gemm", "MatMul"))


def store_half(model: Path, target: Path) -> None:
    """Write the model with its float32 weights stored as float16; computed in float32."""
    _rewrite(model, target, _half, lambda graph: None)


def store_int8(model: Path, recipe: Recipe, target: Path, kept: frozenset[str]) -> None:
    """Write the model with int8 weights and a float32 scale a channel (or a tensor), except at `kept`."""

    def weights_of(graph: onnx.GraphProto) -> dict[str, Weight]:
        found = float_weights(graph)
        ops = _WEIGHTED_OPS if recipe.weighted_only else {w.op for w in found.values()}
        nodes = (node for part in onnx_io.graphs(graph) for node in part.node)
        spared = {name for node in nodes if node.name in kept for name in node.input}
        return {n: weight for n, weight in found.items() if weight.op in ops and n not in spared}

    one_scale = recipe.granularity == "tensor"
    _rewrite(
        model, target, lambda t, w: _int8(t, None if one_scale or w is None else w.axis), weights_of
    )


def _rewrite(
    model: Path,
    target: Path,
    shrink: Callable[[onnx.TensorProto, Weight | None], Restored | None],
    choose: Callable[[onnx.GraphProto], dict[str, Weight] | None],
) -> None:
    """Replace chosen weights (all float32 ones when `choose` gives None) in every graph."""
    proto = onnx_io.read_structure(model)
    # Inner graphs first: giving a graph new nodes makes copies of the graphs inside them.
    for graph in reversed(list(onnx_io.graphs(proto.graph))):
        constants_to_initializers(graph)
        chosen = choose(graph)
        restoring: list[onnx.NodeProto] = []
        for tensor in list(graph.initializer):
            if tensor.data_type != _FLOAT or elements(tensor) < SMALL:
                continue
            if chosen is not None and tensor.name not in chosen:
                continue
            restored = shrink(
                _alone(tensor, model), chosen[tensor.name] if chosen is not None else None
            )
            if restored is not None:
                graph.initializer.remove(tensor)
                graph.initializer.extend(restored[0])
                restoring.extend(restored[1])
        nodes = [*restoring, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    for tensor in onnx_io.tensors(proto.graph):
        onnx_io.load_content(tensor, model)
    onnx_io.write(proto, target)


def _alone(tensor: onnx.TensorProto, model: Path) -> onnx.TensorProto:
    """The tensor with its content, outside the model, whose memory is only given back whole."""
    import onnx

    alone = onnx.TensorProto()
    alone.CopyFrom(tensor)
    onnx_io.load_content(alone, model)
    return alone


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn the Constant nodes of this graph that hold weights into initializers, in place."""
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        if node.op_type != "Constant" or node.output[0] in outputs:
            continue
        tensor = node.attribute[0].t
        if tensor.data_type == _FLOAT and elements(tensor) >= SMALL:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def _half(tensor: onnx.TensorProto, _: Weight | None) -> Restored | None:
    from onnx import TensorProto, helper, numpy_helper

    values = numpy_helper.to_array(tensor)
    if not np.isfinite(values).all() or np.abs(values).max() > _LARGEST_HALF:
        return None
    name = f"{tensor.name}.half"
    stored = numpy_helper.from_array(values.astype(np.float16), name)
    cast = helper.make_node(
        "Cast", [name], [tensor.name], name=f"{name}.cast", to=TensorProto.FLOAT
    )
    return [stored], [cast]


def _int8(tensor: onnx.TensorProto, axis: int | None) -> Restored | None:
    from onnx import TensorProto, helper, numpy_helper

    values: Floats = numpy_helper.to_array(tensor)
    if not np.isfinite(values).all():
        return None
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
    name = tensor.name
    stored = numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8")
    scales = numpy_helper.from_array(scale, f"{name}.scale")
    wide = f"{name}.wide"
    return [stored, scales], [
        helper.make_node("Cast", [stored.name], [wide], name=f"{name}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scales.name], [name], name=f"{name}.mul"),
    ]
