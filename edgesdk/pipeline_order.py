"""In which order components run: after all that they read, and as listed where that leaves a choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from edgesdk.errors import PipelineError
from edgesdk.wiring import Carried, Loop, Origin, Slice, Stage, TensorSource, reads

Edges = dict[str, dict[str, str]]
"""Reader to what it reads, with the words for it: `input 'x' of 'a' reads b.y`."""


def in_order(stages: Sequence[Stage], loops: Sequence[Loop]) -> tuple[Stage, ...]:
    """The stages sorted; those of a loop stand together.

    Raises:
        PipelineError: some read each other's outputs in a circle.
    """
    unit = {name: loop.name for loop in loops for name in loop.stages}
    by_name = {stage.name: stage for stage in stages}
    units = list(dict.fromkeys(unit.get(stage.name, stage.name) for stage in stages))
    outer: Edges = {name: {} for name in units}
    for stage in stages:
        reader = unit.get(stage.name, stage.name)
        # Carried states and pieces outside of a loop are refused elsewhere, with better words.
        for source, words in _read(stage, now=stage.name not in unit):
            made = unit.get(str(source.component), source.component)
            if made is not None and made in outer and (made != reader or stage.name not in unit):
                outer[reader][made] = words
    for loop in loops:
        made = str(loop.token_start.component) if loop.token_start else ""
        if made in outer:
            outer[loop.name][made] = f"the first token of loop {loop.name!r} is read from {made!r}"
    result: list[Stage] = []
    members = {
        loop.name: [name for name in by_name if unit.get(name) == loop.name] for loop in loops
    }
    for name in _sorted(outer):
        if name in by_name and name not in unit:
            result.append(by_name[name])
        else:
            inner: Edges = {member: {} for member in members[name]}
            for member in members[name]:
                for source, words in _read(by_name[member], now=True):
                    if source.component in inner:
                        inner[member][str(source.component)] = words
            result += [by_name[member] for member in _sorted(inner)]
    return tuple(result)


def _read(stage: Stage, *, now: bool = False) -> Iterator[tuple[TensorSource, str]]:
    """What a stage reads, and in words; with `now` only what it reads of the same step."""
    for info, origin in stage.inputs:
        for source in _now(origin) if now else reads(origin):
            yield source, f"input {info.name!r} of component {stage.name!r} reads {source}"


def _now(origin: Origin) -> Iterator[TensorSource]:
    if not isinstance(origin, Carried | Slice):
        yield from reads(origin)


def _sorted(edges: Mapping[str, Mapping[str, str]]) -> list[str]:
    done: list[str] = []
    waiting = list(edges)
    while waiting:
        ready = next((name for name in waiting if all(one in done for one in edges[name])), None)
        if ready is None:
            raise PipelineError(_circle(waiting[0], edges, done))
        waiting.remove(ready)
        done.append(ready)
    return done


def _circle(start: str, edges: Mapping[str, Mapping[str, str]], done: Sequence[str]) -> str:
    """The words for one circle that a walk from `start` runs into."""
    way = [start]
    while True:
        following = next(one for one in edges[way[-1]] if one not in done)
        if following in way:
            circle = [*way[way.index(following) :], following]
            break
        way.append(following)
    words = [edges[reader][made] for reader, made in pairwise(circle)]
    return (
        f"a circle: {'; '.join(words)}. Rewire one of them; or, if they run step by step, put them in a "
        "loop, [loops.NAME], and carry what comes from the step before: "
        "{ start = …, next = 'component.tensor' }"
    )
