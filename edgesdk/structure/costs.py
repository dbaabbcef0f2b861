"""Parameters and multiply-accumulates of a graph without certain units, counted exactly and not built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.onnxfile.macs import count_macs
from edgesdk.structure.skeleton import stored_tensors

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgesdk.onnxfile.macs import Attributes, MaybeShape
    from edgesdk.structure.axes import Axes
    from edgesdk.structure.units import Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a graph takes.

    Attributes:
        parameters: float values in the file.
        macs: multiply-accumulates of one run; None where lengths of axes are not fixed.
    """

    parameters: int
    macs: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """A node whose products are counted."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes


class Costs:
    """Counts a traced graph without any of its units."""

    def __init__(self, proto: onnx.ModelProto, structure: Structure) -> None:
        """Find the nodes that multiply.

        Args:
            proto: what `structure` was found in.
            structure: what can be removed.
        """
        self._structure = structure
        stored = set(stored_tensors(proto.graph))
        self._nodes: list[_Counted] = []
        for node in proto.graph.node:
            if all(name in stored for name in node.input if name):
                stored.update(node.output)
                continue
            self._nodes.append(
                _Counted(
                    op=node.op_type,
                    domain="" if node.domain == "ai.onnx" else node.domain,
                    inputs=tuple(node.input),
                    outputs=tuple(node.output),
                    attributes={
                        a.name: a.i or a.s.decode(errors="replace") for a in node.attribute
                    },
                )
            )

    def without(self, gone: NDArray[np.bool_] | None = None) -> Cost:
        """The cost when these atoms are gone (`Structure.gone`); of the whole graph without any."""
        axes = self._structure.axes
        if gone is None:
            gone = np.zeros(len(axes.roots), bool)
        return Cost(
            parameters=self._structure.parameters_without(gone), macs=self._macs(axes, gone)
        )

    def _macs(self, axes: Axes, gone: NDArray[np.bool_]) -> int | None:
        total = 0
        shapes: dict[str, MaybeShape] = {}

        def shape(name: str) -> MaybeShape:
            if name not in shapes:
                shapes[name] = _shape(axes, name, gone)
            return shapes[name]

        for node in self._nodes:
            inputs = [shape(name) for name in node.inputs]
            outputs = [shape(name) for name in node.outputs]
            macs = count_macs(node.op, node.domain, inputs, outputs, node.attributes)
            if macs is None or node.op in ("If", "Loop", "Scan"):
                return None
            total += macs
        return total


def _shape(axes: Axes, name: str, gone: NDArray[np.bool_]) -> MaybeShape:
    dims = axes.dims.get(name)
    if not name or dims is None:
        return None
    labels = axes.labels.get(name, [None] * len(dims))
    sizes = []
    for dim, atoms in zip(dims, labels, strict=True):
        if atoms is not None:
            sizes.append(int(axes.kept(atoms, gone).sum()))
        elif isinstance(dim, int):
            sizes.append(dim)
        else:
            return None
    return tuple(sizes)
