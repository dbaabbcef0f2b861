"""Shapes, and values moved about whole: nothing here changes a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from edgesdk.train.operators.registry import Call, operator
from edgesdk.train.types import to_torch, torch_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def integers(given: Tensor | None, default: Sequence[int] | None = None) -> list[int] | None:
    """The integers that an input holds, or a default where it is left out."""
    if given is None:
        return None if default is None else list(default)
    return [int(value) for value in given.reshape(-1).tolist()]


@operator("Constant")
def constant(call: Call) -> Tensor:
    for name, value in call.attributes.items():
        if name == "value":
            return to_torch(value)
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
    raise NotImplementedError(f"a constant of {', '.join(call.attributes)}")


@operator("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[call.get("start", 0) : call.get("end")], dtype=torch.int64)


@operator("Size")
def size(_: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape")
def reshape(call: Call, x: Tensor, wanted: Tensor | None = None) -> Tensor:
    dims = integers(wanted, call.get("shape")) or []
    if not call.get("allowzero", 0):
        dims = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]
    return x.reshape(dims)


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    rows = 1
    for dim in x.shape[:axis]:
        rows *= dim
    return x.reshape(rows, x.numel() // rows if rows else 0)


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = integers(axes, call.get("axes"))
    if along is None:
        return x.squeeze()
    dropped = {axis % x.ndim for axis in along}
    return x.reshape([dim for axis, dim in enumerate(x.shape) if axis not in dropped])


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = integers(axes, call.get("axes")) or []
    rank = x.ndim + len(along)
    added = {axis % rank for axis in along}
    dims = iter(x.shape)
    return x.reshape([1 if axis in added else next(dims) for axis in range(rank)])


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm", tuple(range(x.ndim))[::-1]))


@operator("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    return torch.cat(values, call.get("axis"))


@operator("Split")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    axis = call.get("axis", 0)
    lengths = integers(sizes, call.get("split"))
    if lengths is None:
        parts = call.get("num_outputs", call.outputs)
        piece = -(-x.shape[axis] // parts)
        whole, left = divmod(x.shape[axis], piece)
        lengths = [piece] * whole + ([left] if left else [])
        lengths += [0] * (parts - len(lengths))
    return list(torch.split(x, lengths, axis))


@operator("Slice")
def slice_(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begin = integers(starts, call.get("starts")) or []
    end = integers(ends, call.get("ends")) or []
    along = integers(axes, call.get("axes", range(len(begin)))) or []
    stride = integers(steps, [1] * len(begin)) or []
    for first, last, axis, step in zip(begin, end, along, stride, strict=True):
        picked = range(*slice(first, _open(last, step), step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, min(picked.start, x.shape[axis]), len(picked))
        else:
            x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
    return x


def _open(last: int, step: int) -> int | None:
    """The end of a slice that runs backwards past the first place, as Python says it."""
    return None if step < 0 and last < -(2**30) else last


@operator("Expand")
def expand(_: Call, x: Tensor, wanted: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(wanted) or ())))


@operator("Tile")
def tile(_: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


@operator("Pad")
def pad(
    call: Call,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = integers(pads, call.get("pads", call.get("paddings"))) or []
    along = integers(axes, range(x.ndim)) or []
    fill = call.get("value", 0.0) if value is None else value.item()
    mode = call.get("mode", "constant")
    half = len(amounts) // 2
    for axis, before, after in zip(along, amounts[:half], amounts[half:], strict=True):
        if mode == "constant":
            x = _padded(x, axis % x.ndim, before, after, fill)
        elif before or after:
            places = _mirrored(x.shape[axis], before, after, mode)
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _padded(x: Tensor, axis: int, before: int, after: int, fill: float) -> Tensor:
    behind = [0, 0] * (x.ndim - 1 - axis)
    return functional.pad(x, [*behind, before, after], value=fill) if before or after else x


def _mirrored(length: int, before: int, after: int, mode: str) -> list[int]:
    """Where each place of the padded axis takes its value."""
    places = range(-before, length + after)
    if mode == "edge":
        return [min(max(place, 0), length - 1) for place in places]
    if mode == "wrap":
        return [place % length for place in places]
    period = max(2 * (length - 1), 1)
    folded = (place % period for place in places)
    return [place if place < length else period - place for place in folded]


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    block = call.get("blocksize")
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    block = call.get("blocksize")
    n, c, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(order)
    return parts.reshape(n, c * block**2, h // block, w // block)


@operator("ConstantOfShape")
def constant_of_shape(call: Call, wanted: Tensor) -> Tensor:
    value = call.get("value")
    dims = integers(wanted) or []
    if value is None:
        return torch.zeros(dims)
    one = to_torch(value).reshape(())
    return torch.full(dims, one.item(), dtype=one.dtype)


@operator("Range")
def range_(_: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    kind = call.get("dtype")
    dtype = x.dtype if kind is None else torch_type(kind)
    rows, columns = x.shape
    offset = call.get("k", 0)
    return torch.ones(rows, columns).tril(offset).triu(offset).to(dtype)


@operator("Trilu")
def triangle(call: Call, x: Tensor, offset: Tensor | None = None) -> Tensor:
    cut = torch.triu if call.get("upper", 1) else torch.tril
    return cut(x, 0 if offset is None else int(offset))


@operator("CenterCropPad")
def center_crop_pad(call: Call, x: Tensor, wanted: Tensor) -> Tensor:
    along = call.get("axes", range(x.ndim))
    for axis, length in zip(along, integers(wanted) or [], strict=True):
        missing = length - x.shape[axis]
        if missing > 0:
            x = _padded(x, axis % x.ndim, missing // 2, missing - missing // 2, 0)
        else:
            x = x.narrow(axis, -missing // 2, length)
    return x


@operator("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    steps = torch.arange(x.shape[time])
    ends = lengths.reshape(-1, 1)
    places = torch.where(steps < ends, ends - 1 - steps, steps)  # [batch, time]
    places = places if batch < time else places.T
    dims = [x.shape[axis] if axis in (time, batch) else 1 for axis in range(x.ndim)]
    return torch.take_along_dim(x, places.reshape(dims).expand(x.shape), time)
