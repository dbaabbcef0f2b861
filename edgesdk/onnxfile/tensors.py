"""Types, sizes and claims of ONNX tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgesdk.errors import ModelError

if TYPE_CHECKING:
    from onnx import TensorProto

RAW_DATA = 9
BULK_FIELDS: dict[int, int | None] = {4: 4, 5: None, 7: None, RAW_DATA: 1, 10: 8, 11: None}
"""Numbers of TensorProto's fields with packed values; bytes of one entry, None where it varies."""

_MAX_RANK = 64
"""The most axes that numpy gives an array."""
_MAX_DIM = 2**40
"""A million million entries on one axis: no device holds them, and products stay readable."""
# TensorProto.DataType in onnx.proto: numpy's name (ml_dtypes' where numpy has none) and the bits
# that one element takes in raw_data.
_TYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("object", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4_e2m1fn", 4),
    24: ("float8_e8m0fnu", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
    27: ("float6_e2m3fn", 6),
    28: ("float6_e3m2fn", 6),
}
_BITS = dict(_TYPES.values())
_COMPLEX = ("complex64", "complex128")


def dtype_name(data_type: int, owner: str) -> str:
    """Numpy's name for an ONNX element type; `object` for strings.

    Raises:
        ModelError: there is no such type.
    """
    if data_type not in _TYPES:
        raise ModelError(
            f"{owner} has the unknown element type {data_type}; legal: 1 to {max(_TYPES)}; "
            "the file is damaged or newer than this edgesdk"
        )
    return _TYPES[data_type][0]


def packed_bytes(count: int, dtype: str) -> int:
    """Bytes of `count` elements of that type, packed as ONNX stores them; strings count as 0."""
    return (count * _BITS[dtype] + 7) // 8


def check_dims(dims: Sequence[int], owner: str) -> int:
    """The number of elements that dims claim.

    Raises:
        ModelError: a negative or absurd length, or more axes than numpy has.
    """
    if len(dims) > _MAX_RANK:
        raise ModelError(f"{owner} has {len(dims)} axes; legal: at most {_MAX_RANK}")
    for dim in dims:
        check_dim(dim, owner)
    return math.prod(dims)


def check_dim(dim: int, owner: str) -> int:
    """The length of one axis.

    Raises:
        ModelError: negative or absurd.
    """
    if not 0 <= dim <= _MAX_DIM:
        raise ModelError(f"{owner} has an axis of length {dim}; legal: 0 to 2^40")
    return dim


def check_tensor(tensor: TensorProto, left_out: Mapping[int, int]) -> int:
    """Hold what a stored tensor claims against what is there; return the bytes of its elements.

    Args:
        tensor: without the fields in `left_out`.
        left_out: bytes of data fields that were not parsed, by field number.

    Raises:
        ModelError: dims, type and stored data contradict each other.
    """
    owner = f"tensor {tensor.name!r}"
    dtype = dtype_name(tensor.data_type, owner)
    count = check_dims(tensor.dims, owner)
    size = packed_bytes(count, dtype)
    if tensor.HasField("segment"):
        raise ModelError(f"{owner} is stored in segments, which no runtime reads; export it again")
    if tensor.data_location == tensor.EXTERNAL:
        if dtype == "object":
            raise ModelError(f"{owner} keeps strings in external data; legal: numbers only")
        return size
    stored = left_out.get(RAW_DATA)
    if stored is None and tensor.HasField("raw_data"):
        stored = len(tensor.raw_data)
    if stored is not None:
        if stored != size:
            raise ModelError(
                f"{owner} claims {dtype}{list(tensor.dims)}, {size} bytes, but stores {stored}; "
                "the file is damaged: export it again"
            )
        return size
    _check_typed_data(tensor, left_out, count, dtype, owner)
    return size


def _check_typed_data(
    tensor: TensorProto, left_out: Mapping[int, int], count: int, dtype: str, owner: str
) -> None:
    """Entries of float_data, int32_data and the like; packed varints take 1 to 10 bytes each."""
    kept = {
        4: len(tensor.float_data),
        5: len(tensor.int32_data),
        6: len(tensor.string_data),
        7: len(tensor.int64_data),
        10: len(tensor.double_data),
        11: len(tensor.uint64_data),
    }
    most = sum(kept.values())
    least = most
    for number, size in left_out.items():
        width = BULK_FIELDS[number]
        most += size // (width or 1)
        least += size // (width or 10)
    wanted = count * 2 if dtype in _COMPLEX else count
    if _BITS[dtype] in (2, 4):
        wanted = packed_bytes(count, dtype)
    if not least <= wanted <= most:
        raise ModelError(
            f"{owner} claims {dtype}{list(tensor.dims)}, {count} elements, but stores "
            f"{most if most == least else f'{least} to {most}'} entries; "
            "the file is damaged: export it again"
        )
