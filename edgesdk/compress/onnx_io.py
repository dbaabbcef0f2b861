"""Reading and writing ONNX files of any size inside `compress`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

HEAVY_BYTES = 1_500_000_000
"""Weights above this stay in their external file: a protobuf message ends at 2 GiB, and a second
copy in memory is what such a model cannot afford."""

_EXTERNAL_ABOVE = 1_900_000_000
_INLINE_BYTES = 1024


def external_files(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the data files beside the model, in order of first use; looks into subgraphs."""
    names = {
        entry.value: None
        for tensor in tensors(proto.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(names)


def external_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all tensors that live outside the model file."""
    return sum(
        int(entry.value)
        for tensor in tensors(proto.graph)
        for entry in tensor.external_data
        if entry.key == "length"
    )


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All stored tensors: initializers and constants, here and in every subgraph."""
    for part in graphs(graph):
        yield from part.initializer
        for node in part.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """This graph and every graph inside the branches and loops of its nodes."""
    yield graph
    for node in graph.node:
        for subgraph in subgraphs(node):
            yield from graphs(subgraph)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((a.i for a in node.attribute if a.name == name), default)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs inside the branches or the body of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def read_structure(model: Path) -> onnx.ModelProto:
    """The graph without the content of external data."""
    import onnx

    return onnx.load(model, load_external_data=False)


def read_whole(model: Path) -> onnx.ModelProto:
    """The graph with all its weights in memory."""
    import onnx

    return onnx.load(model)


def load_content(tensor: onnx.TensorProto, model: Path) -> None:
    """Bring the external data of one tensor into memory."""
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    if uses_external_data(tensor):
        load_external_data_for_tensor(tensor, str(model.parent))
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]


def write(proto: onnx.ModelProto, path: Path) -> Path:
    """Save a model whose weights are in memory; in a data file beside it when they are too many."""
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    # Not ByteSize: protobuf refuses to measure what it could not serialize.
    if sum(len(tensor.raw_data) for tensor in tensors(proto.graph)) < _EXTERNAL_ABOVE:
        onnx.save(proto, path)
        return path
    onnx.save(
        proto,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
        size_threshold=_INLINE_BYTES,
    )
    return path


def copy_data_files(proto: onnx.ModelProto, source: Path, target: Path) -> None:
    """Bring the external data files of the model at `source` beside the one at `target`."""
    for name in external_files(proto):
        place = target.parent / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, place)


def model_bytes(model: Path) -> int:
    """Size of a model file together with its external data."""
    names = external_files(read_structure(model))
    return model.stat().st_size + sum((model.parent / name).stat().st_size for name in names)


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the standard operator set that the model imports; 0 when it imports none."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def is_large(model: Path) -> bool:
    """True when the model, with its weights inside, would not fit one protobuf message."""
    return model_bytes(model) >= _EXTERNAL_ABOVE
