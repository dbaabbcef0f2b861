"""A model that can be asked for its inner tensors, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class Reference:
    """A model whose inner tensors can be asked for, a few at a time."""

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

    def _known(self, name: str) -> str:
        return self.exposed.tensors.same.get(name, name)
