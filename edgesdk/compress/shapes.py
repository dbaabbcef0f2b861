"""Input shapes fixed to what will be deployed, and every shape behind them inferred again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgesdk.errors import SamplesError

if TYPE_CHECKING:
    import onnx


def fix_input_shapes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the named inputs these shapes, in place; symbolic lengths follow wherever they appear.

    Raises:
        SamplesError: an input that does not exist, another rank, or a length that contradicts a
            fixed one of the model.
    """
    inputs = {value.name: value for value in proto.graph.input}
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            legal = ", ".join(inputs)
            raise SamplesError(
                f"no input named {name!r} to fix the shape of; the model has: {legal}"
            )
        _fix_one(inputs[name], shape, lengths)
    for value in proto.graph.input:
        _substitute(value, lengths)
    for value in proto.graph.output:
        _substitute(value, lengths)
    # What was inferred for symbolic lengths would contradict what is inferred for fixed ones.
    del proto.graph.value_info[:]


def _fix_one(value: onnx.ValueInfoProto, shape: tuple[int, ...], lengths: dict[str, int]) -> None:
    dims = value.type.tensor_type.shape.dim
    # Some exporters write -1 for a length that is not known.
    declared = [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]
    if len(dims) != len(shape) or any(
        isinstance(old, int) and old != new for old, new in zip(declared, shape, strict=True)
    ):
        raise SamplesError(f"input {value.name!r} is {declared}; it cannot take {list(shape)}")
    for dim, length in zip(dims, shape, strict=True):
        if dim.dim_param and lengths.setdefault(dim.dim_param, length) != length:
            # Two inputs share a name but not a length: the name is decoration, not a promise.
            lengths[dim.dim_param] = -1
        dim.dim_value = length


def _substitute(value: onnx.ValueInfoProto, lengths: Mapping[str, int]) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param and lengths.get(dim.dim_param, -1) > 0:
            dim.dim_value = lengths[dim.dim_param]


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types and shapes of all tensors that can be known."""
    from onnx import shape_inference

    return shape_inference.infer_shapes(proto, data_prop=True)
