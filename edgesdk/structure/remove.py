"""A graph without chosen units: its weights sliced, and every number that counted them put right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.exposing import read_by
from edgesdk.errors import ModelError
from edgesdk.onnxfile.shapes import infer_and_fold
from edgesdk.structure.copying import copy_model
from edgesdk.structure.edits import AttributeCount, AttributeCounts, Picks
from edgesdk.structure.skeleton import inferable, stored_tensors, traced_graphs, traced_nodes
from edgesdk.structure.units import Selection, Structure

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.structure.ties import Atoms

_INT64 = 7


def remove(proto: onnx.ModelProto, structure: Structure, selection: Selection) -> onnx.ModelProto:
    """Delete the chosen units.

    The result equals `mask` of the same selection on every input, up to the order of float sums. Names of
    nodes and tensors, inputs and outputs stay; shapes are inferred anew.

    Args:
        proto: with its weights; not changed.
        structure: what `find_groups` found in it. It says nothing about the result: look again to
            remove more.
        selection: the units to delete.

    Raises:
        ModelError: the selection does not fit.
    """
    gone = structure.gone(selection)
    pruned = copy_model(proto)
    if gone.any():
        before = _unused(pruned.graph)
        _slice_weights(pruned, structure, gone)
        _Rewriter(pruned, structure, gone).apply()
        _drop_unused(pruned.graph, before)
        _note_shapes(pruned, structure, gone)
    return pruned


def _slice_weights(pruned: onnx.ModelProto, structure: Structure, gone: NDArray[np.bool_]) -> None:
    from onnx import numpy_helper

    axes = structure.axes
    inputs = {value.name for value in pruned.graph.input}
    for name, tensor in stored_tensors(pruned.graph).items():
        masks = {
            axis: kept
            for axis, atoms in enumerate(axes.labels.get(name, ()))
            if atoms is not None and not (kept := axes.kept(atoms, gone)).all()
        }
        if not masks or name in inputs:
            continue
        values = numpy_helper.to_array(tensor)
        for axis, kept in masks.items():
            values = np.compress(kept, values, axis=axis)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


class _Rewriter:
    """Puts the numbers inside a graph right whose weights are sliced already."""

    def __init__(
        self, pruned: onnx.ModelProto, structure: Structure, gone: NDArray[np.bool_]
    ) -> None:
        self._graph = pruned.graph
        self._axes = structure.axes
        self._gone = gone
        self._nodes = traced_nodes(pruned.graph)
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._taken = set(self._makers) | set(stored_tensors(pruned.graph))
        self._before: dict[int, list[onnx.NodeProto]] = {}

    def apply(self) -> None:
        """Make every edit whose axis loses something."""
        entries: dict[tuple[int, int], dict[int, int]] = {}
        for edit in self._axes.edits:
            node = self._nodes[edit.node]
            if isinstance(edit, AttributeCount):
                if self._lost(edit.atoms):
                    _attribute(node, edit.name).i = self._count(edit.atoms)
                continue
            if not self._lost(edit.axis):
                continue
            if isinstance(edit, Picks):
                self._pick(node, edit)
            elif isinstance(edit, AttributeCounts):
                self._put_attribute(node, edit)
            else:
                place = entries.setdefault((edit.node, edit.input), {})
                place |= {at: self._count(atoms) for at, atoms in edit.counted}
                kept = [a for a in node.attribute if a.name != edit.drop]
                if len(kept) < len(node.attribute):
                    del node.attribute[:]
                    node.attribute.extend(kept)
        for (number, position), changes in entries.items():
            node = self._nodes[number]
            while len(node.input) <= position:
                node.input.append("")
            stem = f"{node.output[0]}.{position}"
            node.input[position] = self._vector(node.input[position], changes, stem, number)
        if self._before:
            inner = len(traced_graphs(self._graph)) > 1
            self._insert(self._graph, iter(range(len(self._nodes))), inner=inner)

    def _lost(self, atoms: Atoms) -> bool:
        return not self._axes.kept(atoms, self._gone).all()

    def _count(self, atoms: Atoms) -> int:
        return int(self._axes.kept(atoms, self._gone).sum())

    def _put_attribute(self, node: onnx.NodeProto, edit: AttributeCounts) -> None:
        attribute = _attribute(node, edit.name, ints=True)
        values = list(attribute.ints) or [0] * len(edit.counted)
        for at, atoms in edit.counted:
            values[at] = self._count(atoms)
        del attribute.ints[:]
        attribute.ints.extend(values)

    def _pick(self, node: onnx.NodeProto, edit: Picks) -> None:
        kept = self._axes.kept(edit.axis, self._gone)
        places = np.cumsum(kept) - 1
        values = np.array([places[at] for at in edit.indices if kept[at]], np.int64)
        node.input[1] = self._store(values[0] if edit.scalar else values, f"{node.output[0]}.1")

    def _vector(self, name: str, changes: dict[int, int], stem: str, before: int) -> str:
        """The name of a vector like that one with other entries."""
        numbers = self._axes.numbers.get(name, ()) if name else ()
        values = [number.value for number in numbers] or [None] * len(changes)
        for at, number in enumerate(numbers):
            if number.counted is not None and number.value is not None:
                values[at] = self._count(number.counted)
        for at, value in changes.items():
            values[at] = value
        if None not in values:
            kind = self._axes.types.get(name, _INT64) if name else _INT64
            rank = len(self._axes.dims.get(name, (None,)))
            return self._store(_typed(values if rank else values[0], kind), stem)
        return self._clone(name, changes, stem, before)

    def _clone(self, name: str, changes: dict[int, int], stem: str, before: int) -> str:
        """A copy of the node that joins the vector, one of whose pieces is another."""
        import onnx

        maker = self._makers.get(name)
        if maker is None or maker.op_type not in ("Cast", "Concat", "Identity"):
            raise ModelError(
                f"cannot rewrite the shape {name!r} that a run computes; this is not the graph that "
                "was traced"
            )
        clone = onnx.NodeProto()
        clone.CopyFrom(maker)
        clone.name = self._free(f"{stem}.{maker.op_type}")
        clone.output[0] = self._free(f"{stem}.vector")
        start = 0
        for position, piece in enumerate(maker.input):
            length = len(self._axes.numbers[piece])
            own = {at - start: v for at, v in changes.items() if start <= at < start + length}
            if own:
                clone.input[position] = self._vector(piece, own, f"{stem}.{position}", before)
            start += length
        self._before.setdefault(before, []).append(clone)
        return str(clone.output[0])

    def _store(self, values: NDArray[np.generic] | np.generic, stem: str) -> str:
        from onnx import numpy_helper

        name = self._free(stem)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _free(self, stem: str) -> str:
        name = stem
        while name in self._taken:
            name = f"{name}_"
        self._taken.add(name)
        return name

    def _insert(self, graph: onnx.GraphProto, places: Iterator[int], *, inner: bool) -> None:
        """Put the new nodes before those that read them, in the order of `traced_nodes`."""
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if inner and node.op_type == "If":
                for body in onnx_io.subgraphs(node):
                    self._insert(body, places, inner=True)
            nodes += [*self._before.get(next(places), ()), node]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _typed(values: list[int | None] | int | None, kind: int) -> NDArray[np.generic]:
    from onnx import helper

    return np.array(values, helper.tensor_dtype_to_np_dtype(kind))


def _attribute(node: onnx.NodeProto, name: str, *, ints: bool = False) -> onnx.AttributeProto:
    import onnx

    found: onnx.AttributeProto
    for found in node.attribute:
        if found.name == name:
            return found
    kind = onnx.AttributeProto.INTS if ints else onnx.AttributeProto.INT
    found = node.attribute.add(name=name, type=kind)
    return found


def _unused(graph: onnx.GraphProto) -> set[str]:
    read = {value.name for value in graph.output}
    for node in graph.node:
        read |= read_by(node)
    written = {name for node in graph.node for name in node.output}
    return (written | {tensor.name for tensor in graph.initializer}) - read - {""}


def _drop_unused(graph: onnx.GraphProto, before: set[str]) -> None:
    """Drop what computed vectors that are now constant; what nobody read before stays."""
    while idle := _unused(graph) - before:
        tensors = [tensor for tensor in graph.initializer if tensor.name in idle]
        nodes = [node for node in graph.node if {*node.output} - {""} <= idle | before]
        nodes = [node for node in nodes if idle.intersection(node.output)]
        if not tensors and not nodes:
            return
        for tensor in tensors:
            graph.initializer.remove(tensor)
        for node in nodes:
            graph.node.remove(node)


def _note_shapes(pruned: onnx.ModelProto, structure: Structure, gone: NDArray[np.bool_]) -> None:
    """Infer shapes again: those that the file states are of the larger graph."""
    axes = structure.axes
    for body in traced_graphs(pruned.graph)[1:]:
        del body.value_info[:]
        for value in body.output:
            for dim, atoms in zip(
                value.type.tensor_type.shape.dim, axes.labels.get(value.name, ()), strict=False
            ):
                if atoms is not None:
                    dim.dim_value = int(axes.kept(atoms, gone).sum())
    inferred = infer_and_fold(inferable(pruned))
    made = set(_outputs(pruned.graph))
    del pruned.graph.value_info[:]
    pruned.graph.value_info.extend(
        value for value in inferred.graph.value_info if value.name in made
    )


def _outputs(graph: onnx.GraphProto) -> Iterator[str]:
    ends = {value.name for value in graph.output}
    return (name for node in graph.node for name in node.output if name and name not in ends)
