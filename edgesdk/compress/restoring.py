"""Quantized graphs whose nodes turn back into the float nodes that they came from.

Quantizers leave the names of nodes and of what they make as they are and put QuantizeLinear and
DequantizeLinear between them. So a node is float again when it takes the original's inputs, and
nothing has to be calibrated anew: what NNCF needs minutes for takes a second. `build_board` writes
a model in which every such node can be switched: what a quantizer really wrote, with its ranges,
its smoothing and its corrected biases, is seen node by node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.simulated import Tape
from edgesdk.compress.stored import constants_to_initializers
from edgesdk.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

_FLOAT, _INT64 = 1, 7
_PREFIX = "restored."
_CHOICES = f"{_PREFIX}choices"
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A quantized model in which every quantized node can be float instead.

    Attributes:
        path: the file.
        nodes: names and operators of those that can be switched, in graph order.
        choices: name of the input int64[nodes]: 0 for float, 1 for what the quantizer wrote.
        precision: what every assignment calls the quantized form.
    """

    path: Path
    nodes: Mapping[str, str]
    choices: str
    precision: str

    def encode(self, assignment: Mapping[str, str]) -> NDArray[np.int64]:
        """The value of `choices` with these nodes quantized and all others float."""
        unknown = sorted(assignment.keys() - self.nodes.keys())
        if unknown:
            raise ModelError(f"no quantized node {unknown[0]!r}; there are {len(self.nodes)}")
        return np.array([name in assignment for name in self.nodes], np.int64)

    def except_for(self, kept: Iterable[str]) -> dict[str, str]:
        """The assignment with all nodes quantized but these."""
        return dict.fromkeys((n for n in self.nodes if n not in set(kept)), self.precision)


def restore(original: Path, quantized: Path, kept: Collection[str], target: Path) -> None:
    """Write the quantized model with these nodes in float.

    A node that the quantizer left in float anyway stays as it is.

    Args:
        original: the float model that was quantized.
        quantized: with QuantizeLinear/DequantizeLinear pairs.
        kept: names of nodes.
        target: the file to write.
    """
    pair = _Pair(onnx_io.read_whole(original), onnx_io.read_whole(quantized))
    nodes: list[onnx.NodeProto] = []
    for node in pair.quantized.graph.node:
        owner = pair.owner(node.name)
        nodes += chain.from_iterable(pair.float_form(node)) if owner in kept else [node]
    pair.rebuild(nodes)
    _drop_unread(pair.quantized.graph)
    onnx_io.write(pair.quantized, target)


def build_board(original: Path, quantized: Path, target: Path, precision: str) -> Board:
    """Write the quantized model with a switch at every quantized node.

    Args:
        original: the float model that was quantized.
        quantized: with QuantizeLinear/DequantizeLinear pairs.
        target: the file to write.
        precision: a name for what the quantizer did.

    Raises:
        ModelError: no node is quantized.
    """
    pair = _Pair(onnx_io.read_whole(original), onnx_io.read_whole(quantized))
    if not pair.rounded:
        raise ModelError(f"{quantized.name} has no node that computes on quantized values")
    head = Tape(f"{_PREFIX}head")
    places = {name: number for number, name in enumerate(pair.rounded)}
    switches = [f"{_PREFIX}float{number}" for number in places.values()]
    off = head.add("Equal", _CHOICES, head.constant(np.int64(0)))
    lengths = head.constant(np.ones(len(places), np.int64))
    head.nodes.append(_node("Split", [off, lengths], switches, f"{_PREFIX}switches"))
    nodes = list(head.nodes)
    private = _private(pair)
    inside = {name for made in private.values() for node in made for name in node.output}
    for node in pair.quantized.graph.node:
        owner = pair.owner(node.name)
        if owner is None:
            if not inside.intersection(node.output):
                nodes.append(node)
            continue
        readded, float_form = pair.float_form(node)
        nodes += readded
        branches = {
            "then_branch": _branch(float_form, f"{_PREFIX}f{len(nodes)}."),
            "else_branch": _branch([*private[node.name], node], f"{_PREFIX}q{len(nodes)}."),
        }
        switch = switches[places[owner]]
        nodes.append(_node("If", [switch], list(node.output), node.name, **branches))
    pair.rebuild(nodes)
    graph = pair.quantized.graph
    graph.initializer.extend(head.tensors)
    graph.input.append(_value(_CHOICES, _INT64, [len(places)]))
    onnx_io.write(pair.quantized, target)
    return Board(
        path=target,
        nodes={name: pair.operator(name) for name in pair.rounded},
        choices=_CHOICES,
        precision=precision,
    )


def _private(pair: _Pair) -> dict[str, list[onnx.NodeProto]]:
    """The quantizers and dequantizers that only one switched node reads, by its name."""
    graph = pair.quantized.graph
    readers = Counter(
        name for part in onnx_io.graphs(graph) for node in part.node for name in node.input
    )
    readers.update(value.name for part in onnx_io.graphs(graph) for value in part.output)
    found: dict[str, list[onnx.NodeProto]] = {}
    homes: dict[str, str] = {}
    for node in reversed(graph.node):
        home = homes.get(node.output[0])
        if pair.owner(node.name) is not None:
            home = node.name
            found[home] = []
        elif home is not None and node.op_type in _QUANTIZERS:
            found[home].insert(0, node)
        else:
            continue
        homes |= dict.fromkeys((name for name in node.input if readers[name] == 1), home)
    return found


class _Pair:
    """A quantized graph beside the float graph that it was made from.

    Attributes:
        rounded: nodes that compute on dequantized values and can be float, in graph order.
    """

    def __init__(self, original: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        for proto in (original, quantized):
            constants_to_initializers(proto.graph)
        self.quantized = quantized
        graph = quantized.graph
        self._floats = {node.name: node for node in original.graph.node if node.name}
        self._makers = {name: node for node in original.graph.node for name in node.output}
        self._weights = {tensor.name: tensor for tensor in original.graph.initializer}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._there = {value.name for value in graph.input} | {
            name for node in graph.node for name in node.output
        }
        values = (*original.graph.value_info, *original.graph.output)
        self._kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        self._added: dict[str, onnx.TensorProto] = {}
        self._rounded_outputs = self._find_rounded_outputs()
        self._unclipped: dict[str, onnx.NodeProto] = {}
        """Tensors that lack a Relu or Clip, which whoever rounds them does in passing."""
        self._owners = self._find_owners()
        self.rounded = tuple(dict.fromkeys(self._owners.values()))

    def _find_rounded_outputs(self) -> dict[str, str]:
        """Outputs of the model that are rounded last, each by the tensor that held them before."""
        made_by = {name: node for node in self.quantized.graph.node for name in node.output}
        found = {}
        for output in self.quantized.graph.output:
            last = made_by.get(output.name)
            if last is None or last.op_type != "DequantizeLinear":
                continue
            before = made_by.get(last.input[0])
            if before is not None and before.input[0] not in self._makers:
                found[before.input[0]] = output.name
        return found

    def _find_owners(self) -> dict[str, str]:
        """Every node that a switch changes, and the rounded node that the switch is of."""
        graph = self.quantized.graph
        dequantized = {
            name
            for node in graph.node
            if node.op_type == "DequantizeLinear"
            for name in node.output
        }
        behind = {output: before for before, output in self._rounded_outputs.items()}
        owners: dict[str, str] = {}
        made_by: dict[str, str] = {}
        for node in graph.node:
            twin = self._floats.get(node.name)
            if twin is not None and twin.op_type == node.op_type and self._is_alike(twin, node):
                absorbed = self._absorbed(twin, node)
                if absorbed is not None:
                    self._unclipped[node.output[0]] = absorbed
                if dequantized.intersection(node.input):
                    owners[node.name] = node.name
                    made_by |= dict.fromkeys(node.output, node.name)
                    continue
                # A bias that was shifted to make up for what rounding did to the product before it.
                taken = node.input if self._is_corrected(node, twin) else ()
            else:
                taken = [behind[name] for name in node.output if name in behind]
            owner = next((made_by[name] for name in taken if name in made_by), None)
            if owner is not None:
                owners[node.name] = owner
        return owners

    def _is_alike(self, twin: onnx.NodeProto, node: onnx.NodeProto) -> bool:
        """Whether one can stand in for the other, as far as the graph around them is concerned."""
        made = [self._rounded_outputs.get(name, name) for name in node.output]
        twin = self._absorbed(twin, node) or twin
        is_float = all(self._kinds.get(name, _FLOAT) == _FLOAT for name in made)
        return list(twin.output) == made and is_float and all(made)

    def _absorbed(self, twin: onnx.NodeProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The Relu or Clip behind the original whose work rounding does, so that it went."""
        behind = self._makers.get(node.output[0])
        if behind is None or behind.op_type not in ("Relu", "Clip") or node.name == behind.name:
            return None
        return behind if behind.input[0] == twin.output[0] else None

    def _is_corrected(self, node: onnx.NodeProto, twin: onnx.NodeProto) -> bool:
        return any(
            name in self._weights and not self._is_same(name)
            for name in twin.input
            if name in node.input
        )

    def _is_same(self, name: str) -> bool:
        from onnx import numpy_helper

        if name not in self._stored:
            return False
        before, after = (numpy_helper.to_array(t[name]) for t in (self._weights, self._stored))
        return before.dtype == after.dtype and np.array_equal(before, after)

    def owner(self, node: str) -> str | None:
        """The rounded node whose switch changes this one."""
        return self._owners.get(node)

    def operator(self, node: str) -> str:
        """Of a node of the original."""
        return str(self._floats[node].op_type)

    def float_form(self, node: onnx.NodeProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """What the original of this node needs and the quantizer took away, and the original itself."""
        if node.name not in self._floats:  # what rounds an output of the model
            before = next(t for t, y in self._rounded_outputs.items() if y == node.output[0])
            return [], [_node("Identity", [before], list(node.output), node.name)]
        needed: list[onnx.NodeProto] = []
        twin = self._copied(self._floats[node.name], needed)
        absorbed = self._absorbed(twin, node)
        if absorbed is None:
            twin.output[:] = node.output
            return needed, [twin]
        behind = self._copied(absorbed, needed, source=twin.output[0])
        behind.output[:] = node.output
        return needed, [twin, behind]

    def _copied(
        self, node: onnx.NodeProto, needed: list[onnx.NodeProto], *, source: str | None = None
    ) -> onnx.NodeProto:
        """A node of the original on tensors of the quantized graph; its first input may be given."""
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        first = 0 if source is None else 1
        for place, name in list(enumerate(node.input))[first:]:
            copy.input[place] = self._supplied(name, needed)
        if source is not None:
            copy.input[0] = source
        return copy

    def _supplied(self, name: str, needed: list[onnx.NodeProto]) -> str:
        """The name under which the quantized graph has a tensor of the original."""
        from onnx import TensorProto

        if name in self._weights:
            if self._is_same(name):
                return name
            if name not in self._added:
                tensor = TensorProto()
                tensor.CopyFrom(self._weights[name])
                tensor.name = f"{_PREFIX}{name}"
                self._added[name] = tensor
            return f"{_PREFIX}{name}"
        if name in self._unclipped:
            clipped = f"{_PREFIX}{name}"
            if clipped not in self._there:
                again = self._copied(self._unclipped[name], needed, source=name)
                again.output[0] = again.name = clipped
                needed.append(again)
                self._there.add(clipped)
            return clipped
        if name and name not in self._there:
            maker = self._copied(self._makers[name], needed)
            needed.append(maker)
            self._there.update(maker.output)
        return name

    def rebuild(self, nodes: list[onnx.NodeProto]) -> None:
        """Give the quantized graph these nodes and what they need."""
        graph = self.quantized.graph
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(self._added.values())


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Take out nodes and weights that nothing reads any more."""
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for inner in onnx_io.subgraphs(node):
                for part in onnx_io.graphs(inner):
                    wanted.update(name for child in part.node for name in child.input)
                    wanted.update(value.name for value in part.output)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)


def _node(
    op: str, inputs: list[str], outputs: list[str], label: str, /, **attributes: Any
) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op, inputs, outputs, name=label, **attributes)


def _branch(nodes: list[onnx.NodeProto], prefix: str) -> onnx.GraphProto:
    """The last of these nodes, behind those that it alone needs, under other names."""
    from onnx import NodeProto, helper

    names = {name: f"{prefix}{name}" for node in nodes for name in node.output}
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        for values in (copy.input, copy.output):
            values[:] = [names.get(name, name) for name in values]
        copies.append(copy)
    outputs = [_value(name, _FLOAT, None) for name in copies[-1].output]
    return helper.make_graph(copies, f"{prefix}branch", [], outputs)


def _value(name: str, kind: int, shape: list[int] | None) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)
