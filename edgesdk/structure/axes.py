"""Which indices of which axes of a graph belong together, traced from its first node to its last.

A graph is walked once, node by node. Every axis of a stored tensor begins with atoms of its own (`ties.py`);
each operator's rule says where they go on to, which are tied, and which must stay. The rules uphold this:

    If the indices of a set of tied atoms are deleted from every tensor, then every tensor of the graph is
    what it was with these indices deleted, provided that at every sum over such an axis the deleted indices
    were multiplied by zero.

Element-wise operators, pooling, concatenation and moves uphold it by themselves, whatever lies between: it
does not matter what a unit holds once nobody hears it. A sum with stored weights (convolution, product,
recurrence) upholds it where these weights are zero. Everything else, a normalisation over the axis, a
product of two activations, an operator that is not known, fixes its atoms.

Where a reshape splits an axis (channels into heads) or merges some, only one of the factors can lose indices.
Which one, a first walk finds out: it traces every factor as if it were alone and sees which are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.exposing import read_by
from edgesdk.onnxfile.shapes import infer_and_fold
from edgesdk.structure import elementwise, lengths, moving, reshaping, weighted
from edgesdk.structure.skeleton import (
    inferable,
    own_tensors,
    skeleton,
    stored_tensors,
    traced_graphs,
    traced_nodes,
)
from edgesdk.structure.tracer import Tracer, inputs_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.structure.aligning import Dim
    from edgesdk.structure.edits import Edit
    from edgesdk.structure.ties import Atoms, Reason
    from edgesdk.structure.tracer import Labels, Made, Number, Reader

Rule = Callable[[Tracer, int, "onnx.NodeProto"], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axes:
    """A traced graph.

    Attributes:
        labels: atoms of every axis of every tensor; None for an axis that is not traced.
        dims: lengths of the axes; None where they are not known, a name where they are symbolic.
        roots: int64[atoms], the same number for atoms that are tied.
        fixed: why sets of atoms must stay, by root.
        stored: names of the tensors in the file (initializers and Constant nodes), in order.
        made: axes of stored tensors that make channels, in the order of the nodes.
        readers: sums over traced axes with stored weights, in the order of the nodes.
        edits: numbers in the graph that follow from counts of channels.
        numbers: the vectors among whose entries such numbers are.
        types: element types of tensors, as in `TensorProto.DataType`.
    """

    labels: Mapping[str, Labels]
    dims: Mapping[str, tuple[Dim, ...]]
    roots: Atoms
    fixed: Mapping[int, Reason]
    stored: tuple[str, ...]
    made: tuple[Made, ...]
    readers: tuple[Reader, ...]
    edits: tuple[Edit, ...]
    numbers: Mapping[str, tuple[Number, ...]]
    types: Mapping[str, int]

    def kept(self, atoms: Atoms, gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool[len(atoms)], which indices stay; `gone` has one entry for each atom, by its root."""
        return np.asarray(~gone[self.roots[atoms]])


def trace(proto: onnx.ModelProto) -> Axes:
    """Trace the channel axes of a graph.

    Args:
        proto: with or without its large weights; not changed.

    Returns:
        The traced axes. Branches of an If are traced with the rest; what loops read must stay.
    """
    bare = skeleton(proto)
    inferred = infer_and_fold(inferable(proto)).graph
    parts = list(onnx_io.graphs(inferred)) if len(traced_graphs(bare.graph)) > 1 else [inferred]
    dims = _dims(parts)
    folded = _folded(parts)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    first = Tracer(dims=dims, folded=folded, opset=opset, choices=None)
    _walk(first, bare.graph)
    t = Tracer(dims=dims, folded=folded, opset=opset, choices=reshaping.decide(first))
    _walk(t, bare.graph)
    roots = t.ties.roots()
    return Axes(
        labels=t.labels,
        dims=dims,
        roots=roots,
        fixed={int(roots[atom]): reason for atom, reason in t.ties.reasons().items()},
        stored=tuple(stored_tensors(bare.graph)),
        made=tuple(t.made),
        readers=tuple(t.readers),
        edits=tuple(t.edits),
        numbers=t.numbers,
        types=_types(parts),
    )


def _walk(t: Tracer, graph: onnx.GraphProto) -> None:
    for name, tensor in stored_tensors(graph).items():
        t.store(name, tuple(tensor.dims))
        lengths.note_values(t, name, stored=True)
    for value in graph.input:
        if value.name not in t.stored:
            dims = t.dims.get(value.name, ())
            t.labels[value.name] = [
                t.ties.fresh(dim) if isinstance(dim, int) and dim > 1 else None for dim in dims
            ]
        t.fix_tensor(value.name, "it is an input of the model")
        t.stored.discard(value.name)
    branches = len(traced_graphs(graph)) > 1
    for place, node in enumerate(traced_nodes(graph)):
        if node.op_type == "If" and branches:
            _join(t, node)
        elif node.op_type != "Constant":
            _step(t, place, node)
    for value in graph.output:
        t.fix_tensor(value.name, "it is an output of the model")


def _step(t: Tracer, place: int, node: onnx.NodeProto) -> None:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    op = f"{domain}{node.op_type}"
    rule = _RULES.get(op)
    if rule is None:
        for name in sorted(read_by(node)):
            t.fix_tensor(name, f"edgesdk cannot follow it through {op}", node.name)
    elif op not in lengths.VECTOR_OPS or not lengths.rearrange(t, node):
        if op not in lengths.READERS and op != "Shape":
            for name in inputs_of(node):
                for number in t.numbers.get(name, ()):
                    t.fix(number.counted, "its length is computed with", node.name)
        rule(t, place, node)
    fixed = all(name in t.stored for name in inputs_of(node))
    for name in node.output:
        if fixed and name and rule is not None:
            t.stored.add(name)
        lengths.note_values(t, name, stored=fixed)


def _join(t: Tracer, node: onnx.NodeProto) -> None:
    """An If gives what one of its branches, traced before it, gives: what both have is tied."""
    t.fix_tensor(node.input[0], "it decides between branches", node.name)
    bodies = list(onnx_io.subgraphs(node))
    for position, name in enumerate(node.output):
        given = [body.output[position].name for body in bodies]
        held = [t.of(inner) for inner in given]
        ranks = {len(labels) if labels is not None else None for labels in held}
        if len(ranks) > 1 or None in ranks:
            for inner in given:
                t.fix_tensor(inner, "the branches give different shapes", node.name)
            continue
        first, *others = (labels for labels in held if labels is not None)
        for other in others:
            first = [
                None if one is None and two is None else t.tie(one, two, node.name)
                for one, two in zip(first, other, strict=True)
            ]
        t.give(name, first, node.name)


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from (*graph.value_info, *graph.output, *graph.input)


def _dims(parts: list[onnx.GraphProto]) -> dict[str, tuple[Dim, ...]]:
    found: dict[str, tuple[Dim, ...]] = {}
    for value in (value for part in parts for value in _values(part)):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in kind.shape.dim
            )
    for name, tensor in _tensors(parts).items():
        found[name] = tuple(tensor.dims)
    return found


def _types(parts: list[onnx.GraphProto]) -> dict[str, int]:
    values = (value for part in parts for value in _values(part))
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {name: tensor.data_type for name, tensor in _tensors(parts).items()}


def _tensors(parts: list[onnx.GraphProto]) -> dict[str, onnx.TensorProto]:
    found: dict[str, onnx.TensorProto] = {}
    for part in parts:
        found |= own_tensors(part)
    return found


def _folded(parts: list[onnx.GraphProto]) -> dict[str, NDArray[np.generic]]:
    """Values of what is the same in every run, where it is small."""
    from onnx import numpy_helper

    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in _tensors(parts).items()
        if tensor.data_location != tensor.EXTERNAL
    }


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "BatchNormalization": elementwise.batch_norm,
        "Concat": moving.concat,
        "ConstantOfShape": moving.expand,
        "Conv": weighted.conv,
        "ConvTranspose": weighted.conv,
        "DepthToSpace": moving.depth_to_space,
        "Einsum": weighted.einsum,
        "Expand": moving.expand,
        "Flatten": reshaping.flatten,
        "GRU": weighted.recurrent,
        "Gather": moving.gather,
        "Gemm": weighted.gemm,
        "GroupNormalization": elementwise.group_norm,
        "InstanceNormalization": elementwise.batch_norm,
        "LSTM": weighted.recurrent,
        "MatMul": weighted.matmul,
        "Pad": moving.pad,
        "RNN": weighted.recurrent,
        "Reshape": reshaping.reshape,
        "Resize": elementwise.resize,
        "Shape": lengths.read_shape,
        "Slice": moving.cut,
        "SpaceToDepth": moving.depth_to_space,
        "Split": moving.split,
        "Squeeze": moving.squeeze,
        "Tile": moving.tile,
        "Transpose": moving.transpose,
        "Unsqueeze": moving.unsqueeze,
        "Upsample": elementwise.resize,
    }
    for ops, rule in (
        (elementwise.UNARY, elementwise.unary),
        (elementwise.BROADCAST, elementwise.broadcast),
        (elementwise.POOLS, elementwise.pool),
        (elementwise.NORMALISED, elementwise.normalise),
        (elementwise.LAYER_NORMS, elementwise.layer_norm),
        (elementwise.PICKED, elementwise.pick),
        (elementwise.REDUCED, elementwise.reduce),
    ):
        rules |= dict.fromkeys(ops, rule)
    return rules


_RULES = _rules()
