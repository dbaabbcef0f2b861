"""What is legal in a pipeline and looks like a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from edgesdk.signature import TensorInfo
from edgesdk.wiring import Key, Stage, TensorSource, Wiring, reads


def find_warnings(wiring: Wiring) -> tuple[str, ...]:
    """Outputs that nobody reads, and inputs whose names suggest that two were exchanged."""
    return (
        *_unread(wiring),
        *(text for stage in wiring.stages for text in _exchanged(stage, wiring)),
    )


def _unread(wiring: Wiring) -> Iterator[str]:
    read: set[Key] = {port.source.key for port in wiring.outputs}
    for stage in wiring.stages:
        read |= {source.key for _, origin in stage.inputs for source in reads(origin)}
    for loop in wiring.loops:
        named = (loop.token, loop.token_start)
        read |= {source.key for source in named if source is not None}
        read |= {give.source.key for give in loop.gives}
    made = [(stage.name, info.name) for stage in wiring.stages for info in stage.outputs]
    made += [(loop.name, give.name) for loop in wiring.loops for give in loop.gives]
    for name, output in made:
        if (name, output) not in read:
            yield f"output {output!r} of component {name!r} is read by nobody"


def _exchanged(stage: Stage, wiring: Wiring) -> Iterator[str]:
    """Pairs of equal type of which each has the other's name, and neither its own."""
    modalities = {port.info.name: port.modality for port in wiring.inputs}
    plain = [(info, it) for info, it in stage.inputs if isinstance(it, TensorSource)]
    for (one, first), (other, second) in combinations(plain, 2):
        if not _alike(one, other):
            continue
        here, there = _words(one.name), _words(other.name)
        common = here & there
        here, there = here - common, there - common
        from_one, from_other = _of(first, modalities), _of(second, modalities)
        crossed = here & from_other and there & from_one
        if crossed and not (here & from_one) and not (there & from_other):
            yield (
                f"inputs {one.name!r} and {other.name!r} of component {stage.name!r} look exchanged: they "
                f"come from {first} and {second}; exchange them, or rename what is right as it is"
            )


def _alike(one: TensorInfo, other: TensorInfo) -> bool:
    return one.dtype == other.dtype and len(one.shape) == len(other.shape)


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", name.lower()) if word}


def _of(source: TensorSource, modalities: dict[str, str]) -> set[str]:
    words = _words(str(source))
    if source.component is None:
        words |= _words(modalities.get(source.tensor, ""))
    return words
