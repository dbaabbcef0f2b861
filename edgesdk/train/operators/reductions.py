"""Sums, means, extremes and norms along axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgesdk.train.operators.registry import Call, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_AXES_ARE_INPUTS = {"ReduceSum": 13}
"""Opsets from which axes are an input; 18 for all others."""


@operator(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
def reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along: list[int] | None
    if call.opset >= _AXES_ARE_INPUTS.get(call.op, 18):
        along = [] if axes is None else axes.tolist()
        if not along and call.get("noop_with_empty_axes", 0):
            return _REDUCERS[call.op](x.unsqueeze(0), (0,), False)
    else:
        along = call.get("axes")
    dims = tuple(range(x.ndim)) if not along else tuple(axis % x.ndim for axis in along)
    keep = bool(call.get("keepdims", 1))
    if not dims:  # a scalar is reduced to itself
        return _REDUCERS[call.op](x.unsqueeze(0), (0,), False)
    return _REDUCERS[call.op](x, dims, keep).to(x.dtype)


def _product(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keepdim=keep)
    return x


def _extreme(x: Tensor, dims: tuple[int, ...], keep: bool, *, largest: bool) -> Tensor:
    if any(x.shape[dim] == 0 for dim in dims):
        shape = [1 if d in dims else n for d, n in enumerate(x.shape) if keep or d not in dims]
        return torch.full(shape, _end(x.dtype, lowest=largest), dtype=x.dtype)
    return (torch.amax if largest else torch.amin)(x, dims, keepdim=keep)


def _end(dtype: Any, *, lowest: bool) -> Any:
    """The lowest or highest value of a type."""
    if dtype.is_floating_point:
        return -torch.inf if lowest else torch.inf
    if dtype == torch.bool:
        return not lowest
    info = torch.iinfo(dtype)
    return info.min if lowest else info.max


def _mean(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return x.mean(dims, keepdim=keep) if x.is_floating_point() else _integer_mean(x, dims, keep)


def _integer_mean(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return torch.trunc(x.double().mean(dims, keepdim=keep))


_REDUCERS: dict[str, Callable[[Any, tuple[int, ...], bool], Any]] = {
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keepdim=keep),
    "ReduceL2": lambda x, dims, keep: _length(x, dims, keep),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: torch.logsumexp(_float(x), dims, keepdim=keep),
    "ReduceMax": lambda x, dims, keep: _extreme(x, dims, keep, largest=True),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, dims, keep: _extreme(x, dims, keep, largest=False),
    "ReduceProd": _product,
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keepdim=keep),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keepdim=keep),
}


def _length(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    """The Euclidean norm; its gradient at zero is zero, as the square root's would not be."""
    return torch.linalg.vector_norm(_float(x), dim=dims, keepdim=keep)


def _float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


@operator("ArgMax", "ArgMin")
def place_of_extreme(call: Call, x: Tensor) -> Tensor:
    axis, keep = call.get("axis", 0) % max(x.ndim, 1), bool(call.get("keepdims", 1))
    find = torch.argmax if call.op == "ArgMax" else torch.argmin
    if not call.get("select_last_index", 0):
        return find(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - find(torch.flip(x, (axis,)), axis, keepdim=keep)


@operator("TopK")
def top(call: Call, x: Tensor, count: Tensor | None = None) -> list[Tensor]:
    """Equal values come in the order of their places, as runtimes give them."""
    amount = call.get("k") if count is None else int(count)
    axis = call.get("axis", -1)
    order = torch.argsort(x, dim=axis, descending=bool(call.get("largest", 1)), stable=True)
    places = order.narrow(axis, 0, amount)
    return [torch.take_along_dim(x, places, axis), places]
