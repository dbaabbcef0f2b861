"""An opened artifact: the engine behind the model's own interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array, FeedCheck, NodePlacement, OpenOptions, Session
from edgesdk_backends.litert.engine import Engine
from edgesdk_backends.litert.interface import Port, read_interface

_DELEGATE = "DELEGATE"
_XNNPACK, _BUILT_IN = "XNNPACK", "LiteRT"
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "int16": "int16"}


class LiteRtSession(Session):
    """Runs on LiteRT's kernels for the CPU, which are XNNPACK's where that has them."""

    def __init__(self, artifact: Path, options: OpenOptions, *, reference: bool = False) -> None:
        """Load the file and what is beside it; `reference` is as for `Engine`.

        Raises:
            StepFailed: one of them is missing or damaged, or the engine refuses.
        """
        interface = read_interface(artifact)
        self._engine = Engine(artifact, threads=options.threads, reference=reference)
        self._origins = interface.origins
        self.inputs = tuple(port.info for port in interface.inputs)
        self.outputs = tuple(port.info for port in interface.outputs)
        self._check = FeedCheck(self.inputs)
        self._given = tuple(port for port in interface.inputs if port.tensor)
        self._gives = interface.outputs
        self._plain_names = _plain_names(self._given)
        self.closed = False

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the engine; its arrays are copies and handed on."""
        self._check(feed)
        if self._plain_names:
            found = self._engine.run(feed)
        else:
            found = self._engine.run(
                {port.tensor: port.to_file(feed[port.info.name]) for port in self._given}
            )
        return {port.info.name: port.from_file(found[port.tensor]) for port in self._gives}

    def placement(self) -> tuple[NodePlacement, ...]:
        """The operations of the file. What a delegate computes between its ends runs in XNNPACK."""
        if self.closed:
            return ()
        nodes, names = self._engine.nodes(), self._engine.tensor_names()
        delegated = _delegated(nodes)
        placed = []
        for number, node in enumerate(nodes):
            if node["op_name"] == _DELEGATE:
                continue
            outputs = [names.get(int(index), "") for index in node["outputs"]]
            placed.append(
                NodePlacement(
                    node=outputs[0] if outputs and outputs[0] else f"{node['op_name']}_{number}",
                    op=str(node["op_name"]),
                    unit="cpu",
                    provider=_XNNPACK if number in delegated else _BUILT_IN,
                    precision=precision_of([np.dtype(kind).name for kind in node["operand_types"]]),
                    origin=tuple(
                        dict.fromkeys(o for name in outputs for o in self._origins.get(name, ()))
                    ),
                )
            )
        return tuple(placed)

    def close(self) -> None:
        """Free the interpreter with its weights and threads."""
        self.closed = True
        self._engine.close()


def _plain_names(ports: Iterable[Port]) -> bool:
    """Whether a feed of the model is one of the file."""
    return all(port.is_plain and port.tensor == port.info.name for port in ports)


def _delegated(nodes: list[dict[str, Any]]) -> set[int]:
    """Numbers of the operations that a delegate took over.

    The interpreter lists them with the others, and each delegate by its ends: what it computes is
    what leads from its inputs to its outputs.
    """
    maker = {
        int(index): number
        for number, node in enumerate(nodes)
        if node["op_name"] != _DELEGATE
        for index in node["outputs"]
    }
    taken: set[int] = set()
    for node in nodes:
        if node["op_name"] != _DELEGATE:
            continue
        ends = {int(index) for index in node["inputs"]}
        wanted = [int(index) for index in node["outputs"]]
        while wanted:
            index = wanted.pop()
            number = maker.get(index)
            if index in ends or number is None or number in taken:
                continue
            taken.add(number)
            wanted += [int(read) for read in nodes[number]["inputs"] if int(read) >= 0]
    return taken


def precision_of(kinds: Sequence[str]) -> str:
    """What an operation computes in, by the types of its operands: data, weights and others.

    Float data with int8 weights computes in int8, 16-bit data in 16 bits whatever the weights are.
    """
    first = kinds[:2]
    if first and first[0] != "int16" and any(kind in ("int8", "uint8") for kind in first):
        return "int8"
    return _PRECISIONS.get(first[0], first[0]) if first else ""
