"""A model that can be asked for its inner tensors, on rows one by one or several together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.compress.exposing import Exposed
from edgesdk.compress.ranges import open_frugally, run, sizes_of
from edgesdk.errors import SamplesError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet

    Array = NDArray[np.generic]


_LOOKED_AT = 64
"""Rows among which two of one shape are searched."""
_ALIKE = 1e-3
"""How far a row computed in a batch may be from the same row alone, relative to its largest value."""


class Reference:
    """A model whose inner tensors can be asked for, a few at a time.

    Attributes:
        stacks: rows of equal shapes can be run together, one behind the other along their first axes.
    """

    def __init__(
        self,
        model: Path,
        scratch: Path,
        samples: SampleSet,
        *,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Separate its weights from its graph.

        Args:
            model: ONNX file.
            scratch: an empty folder.
            samples: rows, of which the largest tells how large tensors are.
            sizes: of the tensors in bytes, where a model of the same shapes told them.

        Raises:
            SamplesError: there are no rows.
        """
        if not len(samples):
            raise SamplesError("no rows to observe; give --samples")
        scratch.mkdir(parents=True, exist_ok=True)
        self.exposed = Exposed(model, scratch)
        self.stacks = can_stack(model, samples)
        self.sizes = sizes or sizes_of(self.exposed, samples, range(len(samples)))

    def has(self, name: str) -> bool:
        """Whether it is a float tensor that can be asked for."""
        return self._known(name) in self.sizes

    def size(self, name: str) -> int:
        """Bytes of a tensor on the largest row."""
        return self.sizes[self._known(name)]

    def open(self, names: Sequence[str]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """A function from a row to these tensors."""
        made = [name for name in dict.fromkeys(names) if name not in self.exposed.tensors.inputs]
        session: Any = open_frugally(self.exposed.model_of(made)) if made else None

        def answer(feed: Mapping[str, Array]) -> dict[str, Array]:
            found = dict(zip(made, run(session, feed), strict=True)) if made else {}
            return {name: found[name] if name in found else feed[name] for name in names}

        return answer

    def feeds(
        self, samples: SampleSet, rows: Sequence[int], most: int
    ) -> Iterator[tuple[tuple[int, ...], Mapping[str, Array]]]:
        """The inputs of rows, up to `most` of equal shapes together where the model allows it.

        Yields:
            The rows and their inputs; rows that wait for others of their shape come later.
        """
        waiting: dict[object, dict[int, Mapping[str, Array]]] = {}
        for row in rows:
            feed = samples[row].inputs
            shape = _shape(feed)
            group = waiting.setdefault(shape, {})
            group[row] = feed
            if len(group) >= (most if self.stacks else 1):
                del waiting[shape]
                yield tuple(group), _stacked(list(group.values()))
        for group in waiting.values():
            yield tuple(group), _stacked(list(group.values()))

    def _known(self, name: str) -> str:
        return self.exposed.tensors.same.get(name, name)


def _stacked(feeds: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Rows of equal shapes, one behind the other along their first axes."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def can_stack(model: Path, samples: SampleSet) -> bool:
    """Whether the model says the same of rows together as of each alone, by two rows of one shape."""
    session: Any = open_frugally(model)
    for value in session.get_inputs():
        if not value.shape or isinstance(value.shape[0], int):
            return False
    pair = _pair(samples)
    if pair is None:
        return False
    try:
        together = run(session, _stacked(pair))
        alone = [run(session, feed) for feed in pair]
    except Exception:  # onnxruntime's own types; a model that cannot is run row by row
        return False
    return all(
        _alike(both, np.concatenate(one))
        for both, one in zip(together, zip(*alone, strict=True), strict=True)
    )


def _pair(samples: SampleSet) -> tuple[Mapping[str, Array], Mapping[str, Array]] | None:
    """Two of the first rows, of batches of one, that have equal shapes."""
    seen: dict[object, Mapping[str, Array]] = {}
    for row in range(min(len(samples), _LOOKED_AT)):
        feed = samples[row].inputs
        if any(array.shape[:1] != (1,) for array in feed.values()):
            return None
        shape = _shape(feed)
        if shape in seen:
            return seen[shape], feed
        seen[shape] = feed
    return None


def _shape(feed: Mapping[str, Array]) -> object:
    return tuple((name, feed[name].shape) for name in sorted(feed))


def _alike(together: Array, apart: Array) -> bool:
    if together.shape != apart.shape:
        return False
    if not np.issubdtype(together.dtype, np.floating):
        return bool(np.array_equal(together, apart))
    alone = np.asarray(apart, np.float64)
    away = np.abs(np.asarray(together, np.float64) - alone).max(initial=0.0)
    return bool(away <= _ALIKE * max(float(np.abs(alone).max(initial=0.0)), 1e-12))
