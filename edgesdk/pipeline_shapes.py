"""Free axes followed through a pipeline: equal names of one model, and both ends of a wire, are equal.

An axis is known as (component, its name); the pipeline's own names belong to the component "". What a
state becomes is left out, for its axes may grow from step to step, and so is the axis that a piece is cut
from or that steps are joined along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgesdk.errors import PipelineError
from edgesdk.signature import Dim, TensorInfo
from edgesdk.wiring import Carried, Key, Origin, Slice, TensorSource, Wiring

_Axis = tuple[str, str]

UNNAMED = "?"
"""Begins the names of axes that were made up, and give way to any other name of the same axis."""


def unnamed(name: str, count: int) -> tuple[Dim, ...]:
    """So many axes of an input of which only their number is known."""
    return tuple(f"{UNNAMED}{name}.{axis}" for axis in range(count))


class _Equal:
    """Axes that are equally long, and the length where one of them is fixed."""

    def __init__(self) -> None:
        self._parent: dict[_Axis, _Axis] = {}
        self._length: dict[_Axis, tuple[int, str]] = {}
        self.names: dict[_Axis, list[_Axis]] = {}

    def root(self, axis: _Axis) -> _Axis:
        if axis not in self._parent:
            self._parent[axis] = axis
            self.names[axis] = [axis]
        while self._parent[axis] != axis:
            axis = self._parent[axis]
        return axis

    def length(self, axis: _Axis) -> int | None:
        found = self._length.get(self.root(axis))
        return found[0] if found else None

    def fix(self, axis: _Axis, length: int, where: str) -> None:
        root = self.root(axis)
        known = self._length.setdefault(root, (length, where))
        if known[0] != length:
            raise _conflict(known, (length, where))

    def join(self, one: _Axis, other: _Axis) -> None:
        first, second = self.root(one), self.root(other)
        if first == second:
            return
        lengths = [self._length[root] for root in (first, second) if root in self._length]
        if len({length for length, _ in lengths}) > 1:
            raise _conflict(*lengths)
        self._parent[second] = first
        self.names[first] += self.names.pop(second)
        if lengths:
            self._length[first] = lengths[0]


def _conflict(one: tuple[int, str], other: tuple[int, str]) -> PipelineError:
    return PipelineError(
        f"{one[1]} makes an axis {one[0]} long that {other[1]} makes {other[0]} long; export the two "
        "components with the same length, or with that axis free"
    )


def bind_shapes(wiring: Wiring) -> Wiring:
    """The wiring with its own inputs and outputs as long as what they are wired to.

    A free axis keeps a name; axes that need not be equal get different names.

    Raises:
        PipelineError: an axis would need two lengths; names the two tensors that ask for them.
    """
    equal = _Equal()
    tensors: dict[Key, tuple[str, TensorInfo]] = {
        (None, port.info.name): ("", port.info) for port in wiring.inputs
    }
    for stage in wiring.stages:
        for info in stage.outputs:
            tensors[stage.name, info.name] = (stage.name, info)
    for loop in wiring.loops:
        for give in loop.gives:
            made = tensors.get(give.source.key)
            if made is not None:
                shape = list(made[1].shape)
                if give.join is not None and give.join < len(shape):
                    shape[give.join] = None
                tensors[loop.name, give.name] = (made[0], replace(made[1], shape=tuple(shape)))
    for stage in wiring.stages:
        for info, origin in stage.inputs:
            what = f"input {info.name!r} of component {stage.name!r}"
            source = _first_source(origin)
            if source is None or source.key not in tensors:
                continue
            scope, made_info = tensors[source.key]
            dims = list(made_info.shape)
            if isinstance(origin, Slice) and origin.axis < len(dims):
                dims[origin.axis] = origin.length
            _tie(equal, (scope, dims, str(source)), (stage.name, info.shape, what))
    names = _names(wiring, equal, tensors)
    inputs = tuple(
        replace(port, info=_named(port.info, "", equal, names)) for port in wiring.inputs
    )
    outputs = tuple(
        replace(
            port,
            info=_named(
                replace(port.info, shape=_more(port.info, tensors.get(port.source.key))),
                tensors[port.source.key][0] if port.source.key in tensors else "",
                equal,
                names,
            ),
        )
        for port in wiring.outputs
    )
    return replace(wiring, inputs=inputs, outputs=outputs)


def _first_source(origin: Origin) -> TensorSource | None:
    """The tensor that an input is given, in a loop in its first step."""
    if isinstance(origin, Carried):
        return origin.start if isinstance(origin.start, TensorSource) else None
    if isinstance(origin, Slice):
        return origin.of
    return origin if isinstance(origin, TensorSource) else None


def _more(info: TensorInfo, made: tuple[str, TensorInfo] | None) -> tuple[Dim, ...]:
    return info.shape if made is None else made[1].shape


def _tie(
    equal: _Equal,
    made: tuple[str, tuple[Dim, ...] | list[Dim], str],
    taken: tuple[str, tuple[Dim, ...], str],
) -> None:
    if len(made[1]) != len(taken[1]):
        return  # refused elsewhere, with better words
    for have, want in zip(made[1], taken[1], strict=True):
        ends = [(have, made[0], made[2]), (want, taken[0], taken[2])]
        axes = [(scope, dim) for dim, scope, _ in ends if isinstance(dim, str)]
        for dim, _, where in ends:
            if isinstance(dim, int) and axes:
                equal.fix(axes[0], dim, where)
        if len(axes) == 2:
            equal.join(axes[0], axes[1])


def _names(
    wiring: Wiring, equal: _Equal, tensors: Mapping[Key, tuple[str, TensorInfo]]
) -> dict[_Axis, str | None]:
    """A name for every class of equal axes that inputs and outputs of the pipeline show."""
    names: dict[_Axis, str | None] = {}
    stated = [
        dim
        for port in wiring.inputs
        for dim in port.info.shape
        if isinstance(dim, str) and dim[0] != UNNAMED
    ]
    taken: set[str] = set()
    for name in stated:  # the pipeline's own words come first
        if names.setdefault(equal.root(("", name)), name) == name:
            taken.add(name)
    shown = [("", port.info) for port in wiring.inputs]
    shown += [tensors[p.source.key] for p in wiring.outputs if p.source.key in tensors]
    for scope, info in shown:
        for dim in info.shape:
            root = equal.root((scope, dim)) if isinstance(dim, str) else None
            if root is None or root in names:
                continue
            said = [axis for axis in equal.names[root] if axis[1][0] != UNNAMED]
            if not said:
                names[root] = None
                continue
            place, name = said[0]
            names[root] = name = name if name not in taken else f"{place}.{name}"
            taken.add(name)
    return names


def _named(
    info: TensorInfo, scope: str, equal: _Equal, names: Mapping[_Axis, str | None]
) -> TensorInfo:
    shape: list[Dim] = []
    for dim in info.shape:
        if isinstance(dim, str):
            axis = (scope, dim)
            fixed = equal.length(axis)
            shape.append(fixed if fixed is not None else names[equal.root(axis)])
        else:
            shape.append(dim)
    return replace(info, shape=tuple(shape))
