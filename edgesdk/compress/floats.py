"""Float types: a float16 graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io

if TYPE_CHECKING:
    import onnx


def to_float16(model: Path, target: Path, kept: frozenset[str]) -> None:
    """Write the model computing in float16, except at `kept`; its inputs and outputs still float32.

    Operators without a float16 form keep float32 between casts, as onnxruntime's converter lists
    them. Uses that converter because the one of onnxconverter-common wrote files that do not load
    for every attention and control-flow model tried.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(
        onnx_io.read_whole(model), keep_io_types=True, node_block_list=sorted(kept)
    )
    _sort_nodes(half.graph)
    onnx_io.write(half, target)


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Put every node behind those that it reads, as the standard wants; the converter puts casts last."""
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output}
    reads = [[makers[name] for name in _read_names(node) if name in makers] for node in graph.node]
    order: dict[int, None] = {}
    for start in range(len(reads)):
        waiting = [start]
        while waiting:
            missing = [number for number in reads[waiting[-1]] if number not in order]
            if missing and waiting[-1] not in order:
                waiting += missing
            else:
                order[waiting.pop()] = None
    nodes = [graph.node[number] for number in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _read_names(node: onnx.NodeProto) -> list[str]:
    """What a node reads, and what the graphs inside it do."""
    inner = [part for graph in onnx_io.subgraphs(node) for part in onnx_io.graphs(graph)]
    inside = [name for part in inner for child in part.node for name in child.input]
    return [*node.input, *inside, *(value.name for part in inner for value in part.output)]
