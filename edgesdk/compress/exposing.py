"""A model cut so that its inner tensors come out, a few at a time.

Every tensor that a run returns must stay in memory until the run ends, so all at once would cost
many times an inference. Here they come out in groups of bounded size; for each group there is a
graph of what leads to it and no more, and all of them share one file of weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io
from edgesdk.compress.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx

_FLOATS = {1: 4, 10: 2}
"""Bytes of a value of the data types that quantizers take: float and float16."""
_REARRANGING = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators whose output holds the values of their first input, each as often."""

_WEIGHTS = "weights.bin"
_INLINE_BYTES = 1024
"""Smaller tensors stay in the graph: shape inference reads them."""
_ALIGNMENT = 64
_SHAPE_OF = "shape of "


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """The float activations of a graph; those inside branches and loops are not among them.

    Attributes:
        inputs: names of those that are fed.
        made: names of those that nodes make, in the order of the nodes, with the bytes of a value.
        same: by name, tensors that are another one rearranged, and the name of that other.
    """

    inputs: tuple[str, ...]
    made: Mapping[str, int]
    same: Mapping[str, str]


class Exposed:
    """A model whose inner tensors can be asked for; its files lie in a scratch folder."""

    def __init__(self, model: Path, scratch: Path) -> None:
        """Separate the weights of `model` from its graph, and find its tensors.

        Args:
            model: an ONNX file; external data lies beside it.
            scratch: an empty folder on the same file system where possible: data files are linked.
        """
        self._proto = _without_weights(model, scratch)
        self._scratch = scratch
        self.tensors = find_tensors(self._proto)

    def shapes_model(self) -> Path:
        """A graph that returns the shape of every tensor of `tensors.made`, in that order."""
        import onnx

        shapes = [
            onnx.helper.make_node("Shape", [name], [_SHAPE_OF + name]) for name in self.tensors.made
        ]
        return self._write("shapes.onnx", [*self._proto.graph.node, *shapes])

    def model_of(self, names: Sequence[str]) -> Path:
        """A graph that returns these of `tensors.made`, in this order."""
        wanted = set(names)
        kept = []
        for node in reversed(self._proto.graph.node):
            if wanted.intersection(node.output):
                wanted.update(read_by(node))
                kept.append(node)
        return self._write("group.onnx", kept[::-1], names)

    def _write(
        self, file: str, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] | None = None
    ) -> Path:
        import onnx

        if outputs is None:
            outputs = [_SHAPE_OF + name for name in self.tensors.made]
        used = {name for node in nodes for name in read_by(node)} | set(outputs)
        part = onnx.ModelProto()
        part.CopyFrom(self._proto)
        graph = part.graph
        for field, kept in (
            (graph.node, nodes),
            (graph.initializer, [item for item in graph.initializer if item.name in used]),
            (graph.input, [item for item in graph.input if item.name in used]),
            (graph.output, [onnx.ValueInfoProto(name=name) for name in outputs]),
            (graph.value_info, []),
        ):
            copies = [type(item).FromString(item.SerializeToString()) for item in kept]
            del field[:]
            field.extend(copies)
        path = self._scratch / file
        onnx.save(part, path)
        return path


def find_tensors(proto: onnx.ModelProto) -> Tensors:
    """The float activations of a graph whose types are inferred."""
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    sizes = {
        value.name: _FLOATS[value.type.tensor_type.elem_type]
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type in _FLOATS
    }
    inputs = tuple(v.name for v in graph.input if v.name in sizes and v.name not in stored)
    made: dict[str, int] = {}
    same: dict[str, str] = {}
    for node in graph.node:
        source = node.input[0] if node.input else ""
        known = source in sizes and source not in stored and node.output[0] in sizes
        if node.op_type in _REARRANGING and known:
            same[node.output[0]] = same.get(source, source)
        else:
            made.update((name, sizes[name]) for name in node.output if name in sizes)
    return Tensors(inputs=inputs, made=made, same=same)


def grouped(sizes: Mapping[str, int], most: int) -> Iterator[tuple[str, ...]]:
    """Names in order, in groups of at most `most` bytes together; one that is larger is alone."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > most:
            yield tuple(group)
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield tuple(group)


def read_by(node: onnx.NodeProto) -> set[str]:
    """Names that a node takes, those that its branches take from around them included."""
    names = set(node.input)
    for subgraph in onnx_io.subgraphs(node):
        names.update(value.name for value in subgraph.output)
        for inner in subgraph.node:
            names |= read_by(inner)
    return names


def _without_weights(model: Path, scratch: Path) -> onnx.ModelProto:
    """The typed graph of a model whose large weights lie in the scratch folder."""
    proto = onnx_io.read_structure(model)
    files = onnx_io.external_files(proto)
    for name in files:
        place = scratch / name
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(model.parent / name, place)
    if not files:
        with (scratch / _WEIGHTS).open("wb") as stream:
            for tensor in proto.graph.initializer:
                content = tensor.raw_data
                if len(content) < _INLINE_BYTES:
                    continue
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                tensor.data_location = tensor.EXTERNAL
                for key, value in (
                    ("location", _WEIGHTS),
                    ("offset", stream.tell()),
                    ("length", len(content)),
                ):
                    tensor.external_data.add(key=key, value=str(value))
                stream.write(content)
                tensor.ClearField("raw_data")
    return infer_shapes(proto)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)
