"""Values picked and put by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgesdk.train.operators.registry import Call, operator

if TYPE_CHECKING:
    from torch import Tensor

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather")
def gather(call: Call, x: Tensor, places: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.ndim
    flat = _counted_from_front(places.reshape(-1), x.shape[axis])
    picked = x.index_select(axis, flat)
    return picked.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


def _counted_from_front(places: Tensor, length: int) -> Tensor:
    wide = places.long()
    return torch.where(wide < 0, wide + length, wide)


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, places: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return torch.gather(x, axis, _counted_from_front(places, x.shape[axis]))


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, places: Tensor) -> Tensor:
    batch = call.get("batch_dims", 0)
    return x[_index(x, places, batch)]


def _index(x: Tensor, places: Tensor, batch: int = 0) -> tuple[Tensor, ...]:
    """One index tensor an axis, those of the shared leading axes first."""
    depth = places.shape[-1]
    shape = places.shape[:-1]
    leading = []
    for axis in range(batch):
        dims = [1] * len(shape)
        dims[axis] = shape[axis]
        leading.append(torch.arange(shape[axis]).reshape(dims).expand(shape))
    inner = [_counted_from_front(places[..., axis], x.shape[batch + axis]) for axis in range(depth)]
    return (*leading, *inner)


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    index = _counted_from_front(places, x.shape[axis])
    reduction = call.get("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction], include_self=True)


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    reduction = call.get("reduction", "none")
    index = _index(x, places)
    if reduction == "none":
        return x.index_put(index, updates)
    if reduction == "add":
        return x.index_put(index, updates, accumulate=True)
    depth = places.shape[-1]
    flat = torch.zeros(places.shape[:-1], dtype=torch.int64)
    for axis, part in enumerate(index):
        flat = flat * x.shape[axis] + part
    inner = x.shape[depth:]
    rows = x.reshape(-1, *inner)
    target = flat.reshape(-1, *[1] * len(inner)).expand(-1, *inner)
    values = updates.reshape(-1, *inner)
    found = rows.scatter_reduce(0, target, values, _REDUCTIONS[reduction], include_self=True)
    return found.reshape(x.shape)


@operator("NonZero")
def non_zero(_: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("OneHot")
def one_hot(call: Call, places: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count = int(depth)
    rank = places.ndim + 1
    index = places.long()
    axis = call.get("axis", -1) % rank
    hits = (index % count).unsqueeze(axis) == torch.arange(count).reshape(
        [-1 if dim == axis else 1 for dim in range(rank)]
    )
    legal = ((index >= -count) & (index < count)).unsqueeze(axis)
    return torch.where(hits & legal, values[1], values[0])


@operator("Compress")
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.get("axis")
    places = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


@operator("TensorScatter")
def tensor_scatter(call: Call, past: Tensor, update: Tensor, begin: Tensor | None = None) -> Tensor:
    """Write new entries into a cache of keys or values, from a place on for each row."""
    axis = call.get("axis", -2) % past.ndim
    length = past.shape[axis]
    first: Any = torch.zeros(past.shape[0], dtype=torch.int64) if begin is None else begin
    steps = torch.arange(update.shape[axis])
    places = first.reshape(-1, 1) + steps
    if call.get("mode", "linear") == "circular":
        places = places % length
    dims = [1] * past.ndim
    dims[0], dims[axis] = places.shape
    return past.scatter(axis, places.reshape(dims).expand(update.shape), update)
