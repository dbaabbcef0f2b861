"""Processing steps: functions of the app between the components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgesdk.errors import PipelineError
from edgesdk.wiring import Stage

if TYPE_CHECKING:
    from edgesdk.executor.run import Array, Run


def checked_step(stage: Stage, function: Callable[[Mapping[str, Array]], Any]) -> Run:
    """A processing step of the app that is refused when it gives what it should not."""

    def run(feed: Mapping[str, Array]) -> Mapping[str, Array]:
        import numpy as np

        given = function(feed)
        if not isinstance(given, Mapping):
            raise PipelineError(
                f"step {stage.name!r} gave a {type(given).__name__}; expected a dict of arrays by name"
            )
        made = {}
        for info in stage.outputs:
            if info.name not in given:
                raise PipelineError(f"step {stage.name!r} gave no {info.name!r}; expected {info}")
            array = np.asarray(given[info.name])
            problem = info.mismatch(array.dtype.name, array.shape)
            if problem:
                raise PipelineError(f"step {stage.name!r} gave {problem}")
            made[info.name] = array
        return made

    return run
