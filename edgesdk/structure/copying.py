"""Models rewritten tensor by tensor: whole, one may be larger than a protobuf message can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgesdk.errors import ModelError
from edgesdk.structure.skeleton import plain_constant, stored_tensors, traced_graphs

if TYPE_CHECKING:
    from typing import Any

    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]


def copy_model(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that shares nothing; Constant nodes in it hold tensors."""
    import onnx

    copy = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _put(copy, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "node":
            _put(copy.graph, field.name, value)
    copy.graph.node.extend(plain_constant(node) for node in proto.graph.node)
    for body in traced_graphs(copy.graph)[1:]:
        for node in body.node:
            node.CopyFrom(plain_constant(node))
    return copy


def _put(message: onnx.ModelProto | onnx.GraphProto, name: str, value: Any) -> None:
    if isinstance(value, (str, bytes, int)):
        setattr(message, name, value)
    else:
        getattr(message, name).extend(value)


def tensor_of(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """The initializer of that name, or the tensor of the Constant node that makes it.

    Raises:
        ModelError: neither is there.
    """
    found = stored_tensors(proto.graph).get(name)
    if found is not None:
        return found
    raise ModelError(f"no stored tensor named {name!r}; this is not the graph that was traced")


def put_array(proto: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> None:
    """Replace the values of a stored tensor by what `change` makes of them, in place."""
    from onnx import numpy_helper

    tensor = tensor_of(proto, name)
    kept = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), kept))
