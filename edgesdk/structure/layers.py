"""Layers: the nodes that multiply what enters them by a stored weight, each as a plain matrix.

Whatever the operator, a layer computes Y = X W + b for each of its groups, where a row of X is what
one output position sees: the values of a row for a product, the patch under the kernel for a
convolution. A BatchNormalization is one too, with as many groups as channels and one value each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.weights import elements

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_FLOAT = 1
_CONSTANTS = frozenset(("value", "value_float", "value_floats"))
_OLDEST_IR = 4
"""The first in which a stored tensor need not be an input of the model, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A node with a stored weight that nothing else reads.

    Attributes:
        node: its name.
        op: BatchNormalization, Conv, Gemm or MatMul.
        source: name of the tensor that enters.
        output: name of the tensor that leaves the node.
        biased: name of the tensor that is X W + b: the output, or what the `adder` makes of it.
        weight: name of the stored weight.
        bias: name of the stored bias; empty where there is none.
        adder: name of the Add that holds the bias of a MatMul; empty where there is none.
        groups, features, outputs: W is float64[groups, features, outputs / groups].
        kernel, strides, dilations: of a convolution, one number for each spatial axis.
        pads: of a convolution, at the beginnings, then at the ends; or SAME_UPPER or SAME_LOWER.
        transposed: the stored weight of a Gemm is [outputs, features].
    """

    node: str
    op: str
    source: str
    output: str
    biased: str
    weight: str
    bias: str
    adder: str = ""
    groups: int
    features: int
    outputs: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] | Literal["SAME_UPPER", "SAME_LOWER"] = ()
    transposed: bool = False

    @property
    def channels(self) -> int:
        """Channels of the input that one group reads."""
        return self.features // prod(self.kernel)

    @property
    def parameters(self) -> int:
        """Elements of the weight."""
        return self.features * self.outputs

    @property
    def takes_bias(self) -> bool:
        """Whether a bias can change without a new node."""
        return self.op != "MatMul" or bool(self.bias)

    @property
    def pointwise(self) -> bool:
        """Whether each output position sees one input position, and all outputs see all channels."""
        return self.groups == 1 and prod(self.kernel) == 1

    @property
    def aligned(self) -> bool:
        """Whether output positions are the input positions, one by one."""
        unpadded = isinstance(self.pads, str) or not any(self.pads)
        return self.pointwise and {*self.strides} <= {1} and unpadded


def lift_constants(proto: onnx.ModelProto) -> None:
    """Turn the float Constant nodes of the main graph into stored tensors, in place."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        given = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        if given is None or given.name not in _CONSTANTS or node.output[0] in outputs:
            kept.append(node)
            continue
        if given.name == "value":
            if given.t.data_type != _FLOAT:
                kept.append(node)
                continue
            graph.initializer.add().CopyFrom(given.t)
        else:
            values = np.asarray(helper.get_attribute_value(given), np.float32)
            graph.initializer.add().CopyFrom(numpy_helper.from_array(values))
        graph.initializer[-1].name = node.output[0]
    if len(kept) < len(graph.node):
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
        proto.ir_version = max(proto.ir_version, _OLDEST_IR)


def count_parameters(proto: onnx.ModelProto) -> int:
    """Elements of all stored float32 tensors, those of branches and loops included."""
    return sum(elements(t) for t in onnx_io.tensors(proto.graph) if t.data_type == _FLOAT)
