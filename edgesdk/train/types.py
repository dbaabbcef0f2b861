"""Element types of ONNX, numpy and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

HALVES: dict[int, Any] = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
"""Types that are computed in float32; a Cast to them rounds."""
FLOATS: frozenset[int] = frozenset((TensorProto.FLOAT, TensorProto.DOUBLE, *HALVES))

_WIDER: dict[int, Any] = {
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
}
"""Integers that torch has few operators for: held in a wider type, wrapped where they come out."""
_TORCH: dict[int, Any] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    **_WIDER,
}
_LIMITS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT2: (-2, 1),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}


def torch_type(kind: int) -> Any:
    """The torch type that holds an ONNX element type; None where there is none."""
    return _TORCH.get(kind)


def limits(kind: int) -> tuple[int, int] | None:
    """Smallest and largest integer of a quantized type; None for any other."""
    return _LIMITS.get(kind)


def kind_of(array: NDArray[Any]) -> int:
    """ONNX's element type of a numpy array."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def to_torch(array: NDArray[Any]) -> Tensor:
    """A copy of a numpy array as the tensor that operators work on.

    Raises:
        TypeError: strings and other types that no operator here takes.
    """
    wanted = torch_type(kind_of(array))
    if wanted is None:
        raise TypeError(f"arrays of {array.dtype} cannot be computed with")
    plain = {
        torch.float32: np.float32,
        torch.float64: np.float64,
        torch.uint8: np.uint8,
        torch.int8: np.int8,
        torch.int16: np.int16,
        torch.int32: np.int32,
        torch.int64: np.int64,
        torch.bool: np.bool_,
    }[wanted]
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array).astype(plain))


def to_numpy(tensor: Tensor, kind: int = 0) -> NDArray[Any]:
    """The values of a tensor, in the ONNX element type that is asked for, or as they are."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    if not kind or kind not in _TORCH:
        return array
    return array.astype(helper.tensor_dtype_to_np_dtype(kind), copy=False)


def stored(tensor: TensorProto) -> NDArray[Any]:
    """The values of a stored tensor."""
    return np.asarray(numpy_helper.to_array(tensor))
