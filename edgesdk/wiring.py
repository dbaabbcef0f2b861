"""How components are wired: which tensor each takes from where, what runs in loops, what may be missing.

Plain values that a pipeline, a bundle and the executor share. Standard library only, so a device can
use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgesdk.signature import TensorInfo

TOKEN = "token"
"""The tensor of a loop that holds the token chosen in a step: int64[batch, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A tensor of one value.

    Attributes:
        value: of every element; cast to the dtype of the input that gets it.
        shape: lengths; a text is a free axis of the pipeline's inputs, and is as long as that one.
    """

    value: float | int | bool
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSource:
    """Where a tensor comes from.

    Attributes:
        component: a component or, outside of it, a loop; None for an input of the pipeline.
        tensor: its output's name, or the input's.
        fill: what is taken in its place when it is not there; None if nothing can be.
    """

    component: str | None
    tensor: str
    fill: Fill | None = None

    @property
    def key(self) -> Key:
        """The tensor without what replaces it."""
        return self.component, self.tensor

    def __str__(self) -> str:
        return self.tensor if self.component is None else f"{self.component}.{self.tensor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether a tensor is there: ones of this shape if it is, else zeros."""

    of: TensorSource
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A state of a loop: `start` in the first step, then what the step before makes of it.

    Exactly one of `next`, `append` and `advance` says how.

    Attributes:
        start: from outside of the loop; a fill may have an axis of length 0.
        next: the tensor of the step before that it becomes.
        append: what is put behind it along `axis` after each step.
        axis: counted from the front.
        advance: it becomes its own last element along the last axis, plus this much.
    """

    start: TensorSource | Fill
    next: TensorSource | None = None
    append: TensorSource | Fill | None = None
    axis: int = 0
    advance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A piece of a tensor from outside of the loop, the following one in each step.

    Attributes:
        of: the tensor.
        axis: along which it is cut; counted from the front.
        length: of a piece; the axis stays.
    """

    of: TensorSource
    axis: int = 0
    length: int = 1


Origin = TensorSource | Fill | Presence | Carried | Slice
"""What a component's input is given; a plain `Fill` is a constant."""
Key = tuple[str | None, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPort:
    """An input of the pipeline.

    Attributes:
        info: name, dtype and shape.
        modality: what kind of thing it is: `image`, `text`, `audio`, …; empty where nobody said.
        optional: it may be left out.
        fill: what is taken in its place then; None where its readers do with their own fills, or are
            skipped.
    """

    info: TensorInfo
    modality: str = ""
    optional: bool = False
    fill: Fill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPort:
    """An output of the pipeline.

    Attributes:
        info: name, dtype and shape.
        source: what it is.
        optional: it is left out when what makes it was skipped.
    """

    info: TensorInfo
    source: TensorSource
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Something that runs: a component, or a processing step of the app."""

    name: str
    inputs: tuple[tuple[TensorInfo, Origin], ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Give:
    """What a loop gives.

    Attributes:
        name: under which it is read outside, as a tensor of the loop.
        source: a tensor of a step.
        join: axis along which those of all steps are put together; None for that of the last step.
    """

    name: str
    source: TensorSource
    join: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Stages that run again and again.

    It ends when a `Slice` has no piece left, after `steps` steps, or when every row has had one of the
    tokens in `end`.

    Attributes:
        stages: names, in the order in which they run.
        gives: what is seen of it outside.
        steps: the most steps; None for as many as there are pieces.
        token: logits [batch, vocabulary] or [batch, length, vocabulary], of which the largest of the last
            position is the step's token; or whole numbers [batch] or [batch, length], the last of which is.
        token_start: the same from outside: a token that is there before the first step, and counts as one
            of the `steps`.
        end: tokens.
    """

    name: str
    stages: tuple[str, ...]
    gives: tuple[Give, ...]
    steps: int | None = None
    token: TensorSource | None = None
    token_start: TensorSource | None = None
    end: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """A whole pipeline without its models; `stages` in the order in which they run."""

    inputs: tuple[InputPort, ...]
    stages: tuple[Stage, ...]
    outputs: tuple[OutputPort, ...]
    loops: tuple[Loop, ...] = ()

    def stage(self, name: str) -> Stage:
        """The stage of that name; a KeyError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def loop_of(self, stage: str) -> Loop | None:
        """The loop that a stage runs in."""
        return next((loop for loop in self.loops if stage in loop.stages), None)

    def parts(self) -> Iterator[Stage | Loop]:
        """Single stages and whole loops, in the order in which they run."""
        seen: set[str] = set()
        for stage in self.stages:
            loop = self.loop_of(stage.name)
            if loop is None:
                yield stage
            elif loop.name not in seen:
                seen.add(loop.name)
                yield loop


def reads(origin: Origin) -> Iterator[TensorSource]:
    """Every tensor that an origin names; of a presence, the tensor it asks about."""
    if isinstance(origin, TensorSource):
        yield origin
    elif isinstance(origin, Presence | Slice):
        yield origin.of
    elif isinstance(origin, Carried):
        for part in (origin.start, origin.next, origin.append):
            if isinstance(part, TensorSource):
                yield part


def needs(origin: Origin) -> Iterator[TensorSource]:
    """The tensors from before a step without which nothing can be given."""
    if isinstance(origin, Carried):
        origin = origin.start
    if isinstance(origin, Slice):
        origin = origin.of
    if isinstance(origin, TensorSource) and origin.fill is None:
        yield origin


def tensor_json(info: TensorInfo) -> dict[str, Any]:
    """A tensor as in `manifest.json`."""
    return {"name": info.name, "dtype": info.dtype, "shape": list(info.shape)}


def origin_json(origin: Origin) -> dict[str, Any]:
    """An origin as in `manifest.json`, where `docs/bundle.md` explains it."""
    match origin:
        case TensorSource():
            plain: dict[str, Any] = {"component": origin.component, "tensor": origin.tensor}
            return plain | ({"fill": origin_json(origin.fill)} if origin.fill else {})
        case Fill():
            return {"value": origin.value, "shape": list(origin.shape)}
        case Presence():
            return {"present": origin_json(origin.of), "shape": list(origin.shape)}
        case Slice():
            return {"each": origin_json(origin.of), "axis": origin.axis, "length": origin.length}
    after: Mapping[str, Any] = {"advance": origin.advance}
    if origin.next is not None:
        after = {"next": origin_json(origin.next)}
    elif origin.append is not None:
        after = {"append": origin_json(origin.append), "axis": origin.axis}
    return {"start": origin_json(origin.start), **after}


def loop_json(loop: Loop) -> dict[str, Any]:
    """A loop as in `manifest.json`."""
    return {
        "name": loop.name,
        "components": list(loop.stages),
        "steps": loop.steps,
        "token": origin_json(loop.token) if loop.token else None,
        "token_start": origin_json(loop.token_start) if loop.token_start else None,
        "end": list(loop.end),
        "gives": [
            {"name": give.name, "from": origin_json(give.source), "join": give.join}
            for give in loop.gives
        ],
    }


TOKEN_INFO = TensorInfo(name=TOKEN, dtype="int64", shape=(None, 1))


def give_info(give: Give, inner: TensorInfo) -> TensorInfo:
    """What a give looks like outside, from what it is in one step."""
    shape = list(inner.shape)
    if give.join is not None and give.join < len(shape):
        shape[give.join] = None
    return TensorInfo(name=give.name, dtype=inner.dtype, shape=tuple(shape))
