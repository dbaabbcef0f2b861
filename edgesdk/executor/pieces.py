"""The pieces that a loop goes over, of tensors that are there and of those that come later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgesdk.errors import SamplesError
from edgesdk.wiring import Key, Loop, Slice, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]


class Walk:
    """The pieces that a loop's stages take, step by step, of what is there and of what comes later."""

    def __init__(
        self,
        loop: Loop,
        stages: Mapping[str, Stage],
        values: Mapping[Key, Array],
        more: Iterator[Mapping[str, Array]] | None,
    ) -> None:
        """Begin with what is there; `more` brings further pieces of the pipeline's inputs."""
        self._loop = loop
        self._more = more
        self._taken = [
            (name, info, origin)
            for name in loop.stages
            for info, origin in stages[name].inputs
            if isinstance(origin, Slice)
        ]
        self._held: dict[Key, Array] = {
            origin.of.key: values[origin.of.key]
            for _, _, origin in self._taken
            if origin.of.key in values
        }
        self._at: dict[Key, int] = {}
        fed = more is not None
        self.absent = any(
            origin.of.key not in self._held and not (fed and origin.of.component is None)
            for _, _, origin in self._taken
        )
        """Something to go over is not there."""

    def next(self) -> dict[tuple[str, str], Array] | None:
        """The pieces of one step by component and input; None when nothing is left."""
        while True:
            lacking = [origin for _, _, origin in self._taken if self._left(origin) < origin.length]
            if not lacking:
                break
            feed = next(self._more, None) if self._more is not None else None
            if feed is None:
                self._check_rest()
                return None
            self._add(feed)
        pieces: dict[tuple[str, str], Array] = {}
        ends: dict[Key, int] = {}
        for name, info, origin in self._taken:
            begin = self._at.get(origin.of.key, 0)
            ends[origin.of.key] = max(ends.get(origin.of.key, 0), begin + origin.length)
            cut = [slice(None)] * origin.axis + [slice(begin, begin + origin.length)]
            pieces[name, info.name] = self._held[origin.of.key][tuple(cut)]
        self._at |= ends
        return pieces

    def _left(self, origin: Slice) -> int:
        held = self._held.get(origin.of.key)
        return 0 if held is None else held.shape[origin.axis] - self._at.get(origin.of.key, 0)

    def _check_rest(self) -> None:
        """Nothing may be left over: neither a part of a piece, nor one tensor longer than another."""
        for name, info, origin in self._taken:
            left = self._left(origin)
            if left and self._more is None:
                raise SamplesError(
                    f"loop {self._loop.name!r}: {left} of {origin.of} along axis {origin.axis} are left "
                    f"over, which fill no further step: input {info.name!r} of component {name!r} takes "
                    f"{origin.length} a step; pad it, or make all that the loop goes over equally long"
                )

    def _add(self, feed: Mapping[str, Array]) -> None:
        import numpy as np

        known = {
            origin.of.tensor: origin for _, _, origin in self._taken if not origin.of.component
        }
        for name, array in feed.items():
            if name not in known:
                raise SamplesError(
                    f"a further piece of {name!r}; the loop goes over: {', '.join(known)}"
                )
            origin = known[name]
            info = next(i for _, i, o in self._taken if o.of.key == origin.of.key)
            if array.dtype.name != info.dtype or array.ndim != len(info.shape):
                raise SamplesError(
                    f"a further piece of {name!r} is {array.dtype.name}{list(array.shape)}; expected {info}"
                )
            key = origin.of.key
            begin = self._at.pop(key, 0)
            old = self._held.get(key)
            if old is not None:
                rest = old[(slice(None),) * origin.axis + (slice(begin, None),)]
                array = np.concatenate([rest, array], origin.axis)
            self._held[key] = array
