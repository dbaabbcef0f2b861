"""What each node of a graph has to do: its operands with their shapes, for whoever estimates costs.

Unlike `nodes.list_nodes` this keeps the edges between nodes and leaves out what an engine works out
when it loads: constants, and whatever follows from constants alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgesdk.onnxfile.macs import count_macs
from edgesdk.onnxfile.shapes import NEVER_RUNS, shape_of, subgraphs
from edgesdk.onnxfile.tensors import dtype_name, packed_bytes

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto

_SHAPES_ONLY = frozenset({"Shape", "Size", "ConstantOfShape"})
"""Nodes whose outputs follow from the shapes of their inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One operand.

    Attributes:
        name: unique in the graph.
        shape: None where it cannot be inferred.
        bytes: size of all its elements; None with the shape.
        stored: a weight or another constant, known before the first run.
    """

    name: str
    shape: tuple[int, ...] | None = None
    bytes: int | None = None
    stored: bool = False

    @property
    def elements(self) -> int:
        """How many there are; 0 where that is unknown."""
        return prod(self.shape) if self.shape is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One node that runs.

    Attributes:
        name: as in the graph; may be empty.
        op: operator, `domain::Op` outside the default domain.
        inputs: in the operator's order; None where one is left out.
        outputs: likewise, without those that are left out.
        macs: multiply-accumulates of one run, or None where shapes are not known.
    """

    name: str
    op: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    macs: int | None

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """Inputs that are there and are not stored."""
        return tuple(tensor for tensor in self.inputs if tensor and not tensor.stored)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Stored inputs."""
        return tuple(tensor for tensor in self.inputs if tensor and tensor.stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWork:
    """The nodes that run, in order, and the names of what goes in and out."""

    nodes: tuple[Work, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def list_work(inferred: GraphProto) -> GraphWork:
    """The work of a graph whose shapes were inferred (`shapes.infer`).

    Nodes inside branches and loop bodies stand where the node that holds them stands; a branch that
    these shapes never take is left out. A loop body counts once.
    """
    known: dict[str, Tensor] = {}
    nodes = tuple(_walk(inferred, known))
    stored = {tensor.name for tensor in inferred.initializer}
    return GraphWork(
        nodes=nodes,
        inputs=tuple(known[info.name] for info in inferred.input if info.name not in stored),
        outputs=tuple(
            known.get(info.name, Tensor(name=info.name)) for info in inferred.output if info.name
        ),
    )


def _walk(graph: GraphProto, known: dict[str, Tensor]) -> Iterator[Work]:
    if graph.name == NEVER_RUNS:
        return
    for info in (*graph.value_info, *graph.output, *graph.input):
        shape, kind = shape_of(info), info.type.tensor_type.elem_type
        if shape is not None and kind:
            size = packed_bytes(prod(shape), dtype_name(kind, f"tensor {info.name!r}"))
            known[info.name] = Tensor(name=info.name, shape=shape, bytes=size)
        else:
            known.setdefault(info.name, Tensor(name=info.name))
    for stored in graph.initializer:
        size = packed_bytes(prod(stored.dims), dtype_name(stored.data_type, stored.name))
        known[stored.name] = Tensor(
            name=stored.name, shape=tuple(stored.dims), bytes=size, stored=True
        )
    for node in graph.node:
        inputs = tuple(known.get(n, Tensor(name=n)) if n else None for n in node.input)
        inner = [*subgraphs(node)]
        if not inner and (_known_before(node) or all(t is None or t.stored for t in inputs)):
            for name in filter(None, node.output):
                known[name] = _as_stored(node, known.get(name, Tensor(name=name)))
            continue
        outputs = tuple(known.setdefault(n, Tensor(name=n)) for n in node.output if n)
        for body in inner:
            yield from _walk(body, known)
        if inner:
            continue
        domain = "" if node.domain == "ai.onnx" else node.domain
        yield Work(
            name=node.name,
            op=f"{domain}::{node.op_type}" if domain else node.op_type,
            inputs=inputs,
            outputs=outputs,
            macs=count_macs(
                node.op_type,
                domain,
                [tensor.shape if tensor else None for tensor in inputs],
                [tensor.shape for tensor in outputs],
                {one.name: _plain(one) for one in node.attribute},
            ),
        )


def _known_before(node: NodeProto) -> bool:
    return node.op_type == "Constant" or node.op_type in _SHAPES_ONLY


def _as_stored(node: NodeProto, told: Tensor) -> Tensor:
    """The output of a constant node, whose shape may only be in its attribute."""
    for one in node.attribute:
        if node.op_type == "Constant" and one.name == "value":
            dims = tuple(one.t.dims)
            size = packed_bytes(prod(dims), dtype_name(one.t.data_type, told.name))
            return Tensor(name=told.name, shape=dims, bytes=size, stored=True)
    return Tensor(name=told.name, shape=told.shape, bytes=told.bytes, stored=True)


def _plain(attribute: AttributeProto) -> int | str:
    return attribute.i or attribute.s.decode(errors="replace")
