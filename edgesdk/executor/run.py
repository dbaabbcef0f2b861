"""What each component is given, what is skipped, loops step by step.

Needs numpy, and the components as functions from arrays by name to arrays by name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesdk.backend import FeedCheck
from edgesdk.errors import PipelineError
from edgesdk.executor.pieces import Walk
from edgesdk.executor.tensors import Lengths, as_input, choose_token
from edgesdk.signature import TensorInfo
from edgesdk.wiring import (
    TOKEN,
    Carried,
    Fill,
    Key,
    Loop,
    Presence,
    Slice,
    Stage,
    TensorSource,
    Wiring,
    needs,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

    Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
    """A component: all outputs by name for its inputs by name."""

    Watch = Callable[[str, int | None, Mapping[str, Array]], None]
    """Told what a component is about to be given: its name, the step of its loop or None, its inputs."""

    Values = dict[Key, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a loop.

    Attributes:
        loop: its name.
        number: from 0. A token that was there before the first step has one of its own.
        values: what this step adds to each tensor that the loop gives.
    """

    loop: str
    number: int
    values: dict[str, Array]


class Stream:
    """The steps of one run, each computed when it is asked for; `outputs` once there are no more."""

    def __init__(self, steps: Generator[Step, None, dict[str, Array] | None]) -> None:
        self._steps = steps
        self.outputs: dict[str, Array] | None = None
        """What `run` would have given; None until the last step, and for a stream of frames."""

    def __iter__(self) -> Iterator[Step]:
        self.outputs = yield from self._steps

    def close(self) -> None:
        """Do no more steps."""
        self._steps.close()


class Executor:
    """Runs a pipeline; one thread at a time."""

    def __init__(
        self, wiring: Wiring, runs: Mapping[str, Run], *, watch: Watch | None = None
    ) -> None:
        """Be ready to run.

        Args:
            wiring: as `edgesdk.wiring_checks.check_wiring` accepts it.
            runs: what runs each stage, by its name.
            watch: told what each stage is given.
        """
        self._wiring = wiring
        self._parts = tuple(wiring.parts())
        self._stages = {stage.name: stage for stage in wiring.stages}
        self._runs = dict(runs)
        self._watch = watch
        infos = [port.info for port in wiring.inputs]
        optional = {port.info.name for port in wiring.inputs if port.optional}
        self._check = FeedCheck(infos, optional)
        self._pieces = _sliced_inputs(wiring)
        self._check_rest = FeedCheck(infos, optional | set(self._pieces))

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name for one set of inputs; those that something missing leaves out are not there.

        Raises:
            SamplesError: a name, dtype or shape does not fit the inputs.
            PipelineError: a loop did not end as it should, or a step of the app gives what it should not.
        """
        self._check(feed)
        return _last(self._steps(feed, None)) or {}

    def stream(
        self, feed: Mapping[str, Array], more: Iterable[Mapping[str, Array]] | None = None
    ) -> Stream:
        """The steps of the loops, one by one.

        Args:
            feed: as for `run`; with `more`, inputs that loops take pieces of may be left out.
            more: further pieces of these inputs, as they come. Nothing is put together then, so that a
                stream may go on for ever: it has no outputs, and what follows the loop does not run.

        Raises:
            PipelineError: there is no loop, or with `more` none that takes pieces of inputs.
            SamplesError: as `run`.
        """
        if not self._wiring.loops:
            raise PipelineError("this pipeline has no loop, so there are no steps; use run")
        if more is None:
            self._check(feed)
        elif not self._pieces:
            raise PipelineError(
                "no loop of this pipeline takes pieces of an input; leave `more` out"
            )
        else:
            self._check_rest(feed)
        return Stream(self._steps(feed, None if more is None else iter(more)))

    def _steps(
        self, feed: Mapping[str, Array], more: Iterator[Mapping[str, Array]] | None
    ) -> Generator[Step, None, dict[str, Array] | None]:
        values: Values = {(None, name): array for name, array in feed.items()}
        here = Lengths(self._wiring, values)
        for port in self._wiring.inputs:
            key = (None, port.info.name)
            if port.fill is not None and key not in values:
                values[key] = here.full(port.fill, port.info)
        there = frozenset(feed)
        for part in self._parts:
            if isinstance(part, Stage):
                if not self._lacks(part, values):
                    self._run(part, None, self._given(part, values, here, there, {}), values)
            else:
                takes = self._takes_pieces(part)
                yield from self._loop(part, values, here, there, more if takes else None)
                if more is not None and takes:
                    return None
        return dict(self._outputs(values, here))

    def _takes_pieces(self, loop: Loop) -> bool:
        return any(
            isinstance(origin, Slice) and origin.of.component is None
            for name in loop.stages
            for _, origin in self._stages[name].inputs
        )

    def _run(self, stage: Stage, step: int | None, given: dict[str, Array], values: Values) -> None:
        if self._watch is not None:
            self._watch(stage.name, step, given)
        for name, array in self._runs[stage.name](given).items():
            values[stage.name, name] = array

    def _given(
        self,
        stage: Stage,
        values: Values,
        here: Lengths,
        there: frozenset[str],
        of_step: Mapping[tuple[str, str], Array],
    ) -> dict[str, Array]:
        """What a stage gets; `of_step` has the states and pieces of its loop."""
        return {
            info.name: of_step[stage.name, info.name]
            if isinstance(origin, Carried | Slice)
            else self._value(origin, info, values, here, there)
            for info, origin in stage.inputs
        }

    def _value(
        self,
        origin: TensorSource | Fill | Presence,
        info: TensorInfo,
        values: Values,
        here: Lengths,
        there: frozenset[str],
    ) -> Array:
        match origin:
            case TensorSource():
                array = values.get(origin.key)
                if array is None and origin.fill is not None:
                    return here.full(origin.fill, info)
                return values[origin.key]
            case Presence(of=of):
                is_there = of.tensor in there if of.component is None else of.key in values
                return here.full(Fill(value=int(is_there), shape=origin.shape), info)
        return here.full(origin, info)

    def _lacks(self, part: Stage | Loop, values: Values) -> bool:
        """Whether something that nothing replaces is not there, so that the part is skipped."""
        own = (part.name, *(part.stages if isinstance(part, Loop) else ()))
        return any(
            source.key not in values and source.component not in own
            for name in (part.stages if isinstance(part, Loop) else (part.name,))
            for _, origin in self._stages[name].inputs
            for source in needs(origin)
            if not isinstance(origin, Slice)
        )

    # --- loops

    def _loop(
        self,
        loop: Loop,
        values: Values,
        here: Lengths,
        there: frozenset[str],
        more: Iterator[Mapping[str, Array]] | None,
    ) -> Generator[Step, None, None]:
        """What its stages make of a step is in `values` until the next one."""
        walk = Walk(loop, self._stages, values, more)
        start = loop.token_start
        if walk.absent or self._lacks(loop, values) or (start and start.key not in values):
            return
        collected: dict[str, list[Array]] = {give.name: [] for give in loop.gives}
        ended = _Ended(loop.end)
        number = 0
        if start is not None:
            values[loop.name, TOKEN] = choose_token(values[start.key])
            ended.look(values[loop.name, TOKEN])
            yield self._step(loop, number, values, collected, more)
            number = 1
        states = self._starts(loop, values, here, there)
        while (loop.steps is None or number < loop.steps) and not ended.all:
            pieces = walk.next()
            if pieces is None:
                break
            for name in loop.stages:
                stage = self._stages[name]
                self._run(
                    stage, number, self._given(stage, values, here, there, states | pieces), values
                )
            if loop.token is not None:
                values[loop.name, TOKEN] = choose_token(values[loop.token.key])
                ended.look(values[loop.name, TOKEN])
            yield self._step(loop, number, values, collected, more)
            number += 1
            states = self._next(loop, states, values, here)
        for key in [key for key in values if key[0] == loop.name or key[0] in loop.stages]:
            del values[key]
        if more is None:
            values |= self._joined(loop, collected)

    def _starts(
        self, loop: Loop, values: Values, here: Lengths, there: frozenset[str]
    ) -> dict[tuple[str, str], Array]:
        return {
            (name, info.name): as_input(self._value(origin.start, info, values, here, there), info)
            for name in loop.stages
            for info, origin in self._stages[name].inputs
            if isinstance(origin, Carried)
        }

    def _next(
        self, loop: Loop, states: Mapping[tuple[str, str], Array], values: Values, here: Lengths
    ) -> dict[tuple[str, str], Array]:
        """The states of the following step."""
        import numpy as np

        following: dict[tuple[str, str], Array] = {}
        for name in loop.stages:
            for info, origin in self._stages[name].inputs:
                if not isinstance(origin, Carried):
                    continue
                old = states[name, info.name]
                if origin.next is not None:
                    new = as_input(values[origin.next.key], info)
                elif origin.append is not None:
                    added = origin.append
                    more = (
                        here.full(added, info)
                        if isinstance(added, Fill)
                        else as_input(values[added.key], info)
                    )
                    new = np.concatenate([old, more], origin.axis)
                else:
                    last: Any = old[..., -1:]
                    new = as_input(last + origin.advance, info)
                following[name, info.name] = new
        return following

    def _step(
        self,
        loop: Loop,
        number: int,
        values: Values,
        collected: dict[str, list[Array]],
        more: object,
    ) -> Step:
        found = {g.name: values[g.source.key] for g in loop.gives if g.source.key in values}
        if more is None:
            for give in loop.gives:
                if give.name in found:
                    kept = collected[give.name]
                    if give.join is None:
                        kept.clear()
                    kept.append(found[give.name])
        return Step(loop=loop.name, number=number, values=found)

    def _joined(self, loop: Loop, collected: Mapping[str, list[Array]]) -> Values:
        import numpy as np

        values: Values = {}
        for give in loop.gives:
            parts = collected[give.name]
            if parts and give.join is None:
                values[loop.name, give.name] = parts[-1]
            elif parts:
                values[loop.name, give.name] = np.concatenate(parts, give.join)
            elif give.join is not None and give.source.tensor != TOKEN:
                outputs = self._stages[str(give.source.component)].outputs
                info = next(info for info in outputs if info.name == give.source.tensor)
                shape = [dim if isinstance(dim, int) else 0 for dim in info.shape]
                shape[give.join] = 0
                values[loop.name, give.name] = np.zeros(shape, info.dtype)
        return values

    def _outputs(self, values: Values, here: Lengths) -> Iterator[tuple[str, Array]]:
        for port in self._wiring.outputs:
            array = values.get(port.source.key)
            if array is None and port.source.fill is not None:
                array = here.full(port.source.fill, port.info)
            if array is not None:
                yield port.info.name, array
            elif not port.optional:
                raise PipelineError(
                    f"output {port.info.name!r} comes from {port.source}, which was not made: its loop ran "
                    "no step; give it something to go over, or mark the output optional"
                )


class _Ended:
    """Which rows have had an end token."""

    def __init__(self, end: tuple[int, ...]) -> None:
        self._end = end
        self._rows: Any = False

    def look(self, token: Array) -> None:
        import numpy as np

        self._rows = self._rows | np.isin(token[:, -1], self._end)

    @property
    def all(self) -> bool:
        return bool(self._end) and self._rows is not False and bool(self._rows.all())


def _sliced_inputs(wiring: Wiring) -> frozenset[str]:
    return frozenset(
        origin.of.tensor
        for stage in wiring.stages
        for _, origin in stage.inputs
        if isinstance(origin, Slice) and origin.of.component is None
    )


def _last(steps: Generator[Step, None, dict[str, Array] | None]) -> dict[str, Array] | None:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outputs: dict[str, Array] | None = end.value
            return outputs
