"""Is a wiring one that can be run? Standard library only: readers of bundles ask as well as pipelines.

Rules that need no more than names, dtypes, ranks and fixed lengths; `edgesdk.pipeline_shapes` follows
free axes through the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgesdk.errors import PipelineError
from edgesdk.signature import TensorInfo
from edgesdk.wiring import (
    TOKEN,
    TOKEN_INFO,
    Carried,
    Fill,
    Give,
    Key,
    Loop,
    Origin,
    Presence,
    Slice,
    Stage,
    TensorSource,
    Wiring,
    give_info,
    needs,
)
from edgesdk.wiring_fits import FLOATS, INTEGERS, check_dtype, check_fill, check_shape, near

MOST_STEPS = 1 << 20
"""Of a loop that ends by its length or a token."""


def check_wiring(wiring: Wiring) -> None:
    """Do nothing when every tensor comes from somewhere, in time, and fits, and every loop ends.

    Raises:
        PipelineError: names the component and the tensor, and says what to do.
    """
    _check_names(wiring)
    visit = _Visit(wiring)
    for part in wiring.parts():
        if isinstance(part, Stage):
            visit.stage(part, None)
        else:
            visit.loop(part)
    visit.outputs()


def _check_names(wiring: Wiring) -> None:
    if not wiring.stages:
        raise PipelineError("components is empty; must hold at least one")
    names: set[str] = set()
    for kind, name in (
        *(("component", stage.name) for stage in wiring.stages),
        *(("loop", loop.name) for loop in wiring.loops),
    ):
        if name in names:
            raise PipelineError(f"two components are named {name!r}; a {kind} needs its own name")
        names.add(name)
    for name in _twice(port.info.name for port in wiring.inputs):
        raise PipelineError(f"tensor {name!r} of inputs appears twice; name one otherwise")
    outputs = [port.info.name for port in wiring.outputs]
    if not outputs or len(set(outputs)) != len(outputs):
        raise PipelineError(f"outputs are {outputs}; must be at least one, each name once")
    looped: set[str] = set()
    order = [stage.name for stage in wiring.stages]
    for loop in wiring.loops:
        for name in loop.stages:
            if name not in order:
                raise PipelineError(
                    f"loop {loop.name!r}: there is no component {name!r}{near(name, order)}"
                )
            if name in looped:
                raise PipelineError(f"component {name!r} is in two loops; it can be in one")
            looped.add(name)
        if not loop.stages:
            raise PipelineError(f"loop {loop.name!r} runs nothing; name its components")
        first = order.index(loop.stages[0])
        if tuple(order[first : first + len(loop.stages)]) != loop.stages:
            raise PipelineError(
                f"loop {loop.name!r}: its components {list(loop.stages)} do not stand together, in this "
                f"order, among {order}"
            )


def _twice(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


class _Visit:
    """What is known on the way through the stages."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.known: dict[Key, TensorInfo] = {(None, p.info.name): p.info for p in wiring.inputs}
        always = [port.info.shape for port in wiring.inputs if not port.optional]
        self.free = {dim for shape in always for dim in shape if isinstance(dim, str)}
        self.absent: dict[Key, str] = {}
        """Tensors that may not be there, and the input whose absence makes them so."""
        for port in wiring.inputs:
            name = port.info.name
            if port.fill:
                check_fill(port.fill, port.info, f"the fill of input {name!r}", self.free)
            elif port.optional:
                self.absent[None, name] = name

    def stage(self, stage: Stage, loop: Loop | None) -> None:
        """Check what a stage takes, and know what it gives."""
        for name in _twice(info.name for info, _ in stage.inputs):
            raise PipelineError(f"component {stage.name!r}: input {name!r} has two sources")
        for info, origin in stage.inputs:
            what = f"input {info.name!r} of component {stage.name!r}"
            self._check_origin(origin, info, what, loop)
            for source in needs(origin):
                if source.key in self.absent:
                    for out in stage.outputs:
                        self.absent.setdefault((stage.name, out.name), self.absent[source.key])
        for info in stage.outputs:
            if (stage.name, info.name) in self.known:
                raise PipelineError(f"tensor {info.name!r} of {stage.name} appears twice")
            self.known[stage.name, info.name] = info

    def loop(self, loop: Loop) -> None:
        """Check a loop and its stages; afterwards only what it gives is known."""
        what = f"loop {loop.name!r}"
        before = set(self.known)
        inner: dict[Key, TensorInfo] = {
            (name, info.name): info
            for name in loop.stages
            for info in self.wiring.stage(name).outputs
        }
        missing = [
            self.absent[source.key]
            for name in loop.stages
            for _, origin in self.wiring.stage(name).inputs
            for source in needs(origin)
            if source.key in self.absent
        ]
        if loop.token_start is not None and loop.token_start.key in self.absent:
            missing.append(self.absent[loop.token_start.key])
        self._check_end(loop, what)
        for name in loop.stages:
            self.stage(self.wiring.stage(name), loop)
        if loop.token is not None:
            inner[loop.name, TOKEN] = TOKEN_INFO
        gives: dict[Key, TensorInfo] = {}
        for give in loop.gives:
            gives[loop.name, give.name] = self._given(loop, give, inner)
        for key in set(self.known) - before:
            del self.known[key]
            self.absent.pop(key, None)
        self.known |= gives
        if missing:
            self.absent |= dict.fromkeys(gives, missing[0])

    def outputs(self) -> None:
        """Check what the pipeline gives."""
        for port in self.wiring.outputs:
            what = f"output {port.info.name!r}"
            self._check_source(port.source, port.info, what)
            key = port.source.key
            if key in self.absent and port.source.fill is None and not port.optional:
                raise PipelineError(
                    f"{what} is not there when input {self.absent[key]!r} is missing, because "
                    f"component {port.source.component!r} is skipped then; mark it optional, or say "
                    "what the component gets in that input's place"
                )

    def _check_origin(self, origin: Origin, info: TensorInfo, what: str, loop: Loop | None) -> None:
        match origin:
            case TensorSource():
                self._check_source(origin, info, what)
            case Fill():
                check_fill(origin, info, what, self.free)
            case Presence():
                self._find(origin.of, what)
                check_fill(Fill(value=1, shape=origin.shape), info, what, self.free)
            case Carried():
                self._check_carried(origin, info, what, _inside(loop, what, "is carried"))
            case Slice():
                self._check_slice(origin, info, what, _inside(loop, what, "takes pieces"))

    def _check_source(self, source: TensorSource, info: TensorInfo, what: str) -> None:
        found = self._find(source, what)
        if source.fill:
            check_fill(source.fill, info, f"the fill of {what}", self.free)
        check_dtype(found, info, what)
        check_shape(found, info, what, "it comes from")

    def _find(self, source: TensorSource, what: str) -> TensorInfo:
        found = self.known.get(source.key)
        if found is not None:
            return found
        loops = [loop for loop in self.wiring.loops if source.component in loop.stages]
        if loops:
            names = [give.name for give in loops[0].gives]
            raise PipelineError(
                f"{what} comes from tensor {source.tensor!r} of component {source.component!r}, which "
                f"runs in loop {loops[0].name!r}; outside, read what the loop gives: "
                f"{', '.join(f'{loops[0].name}.{name}' for name in names) or 'nothing so far'}; inside, "
                "carry what comes from the step before"
            )
        owner = f"component {source.component!r}" if source.component else "the pipeline's inputs"
        raise PipelineError(
            f"{what} comes from tensor {source.tensor!r} of {owner}, not there before it"
            f"{self._hint(source)}; components are listed in the order in which they run"
        )

    def _hint(self, source: TensorSource) -> str:
        names = {stage.name for stage in self.wiring.stages}
        names |= {loop.name for loop in self.wiring.loops}
        if source.component is not None and source.component not in names:
            return near(source.component, sorted(names))
        there = [tensor for component, tensor in self.known if component == source.component]
        return near(source.tensor, there) if source.tensor not in there else ""

    def _check_carried(self, origin: Carried, info: TensorInfo, what: str, loop: Loop) -> None:
        ways = (origin.next, origin.append, origin.advance)
        if sum(way is not None for way in ways) != 1:
            raise PipelineError(f"{what} is carried; it takes one of next, append and advance")
        if isinstance(origin.start, Fill):
            check_fill(origin.start, info, f"the start of {what}", self.free)
        elif origin.start.key == (loop.name, TOKEN) and loop.token_start is not None:
            check_dtype(TOKEN_INFO, info, f"the start of {what}")
        else:
            self._check_source(origin.start, info, f"the start of {what}")
        if origin.next is not None:
            found = self._inner(origin.next, loop, f"the next {what}")
            check_dtype(found, info, f"the next {what}")
            check_shape(found, info, f"the next {what}", "the state does not fit: it comes from")
        if origin.append is not None:
            if not 0 <= origin.axis < len(info.shape):
                raise PipelineError(
                    f"{what} grows along axis {origin.axis}; it has {len(info.shape)} axes"
                )
            if isinstance(info.shape[origin.axis], int):
                raise PipelineError(
                    f"{what} grows along axis {origin.axis}, whose length {info} fixes; export the "
                    "component with that axis free"
                )
            if isinstance(origin.append, Fill):
                check_fill(origin.append, info, f"what is appended to {what}", self.free)
            else:
                found = self._inner(origin.append, loop, f"what is appended to {what}")
                check_dtype(found, info, f"what is appended to {what}")
        if origin.advance is not None and info.dtype not in INTEGERS:
            raise PipelineError(f"{what} is {info.dtype}; only whole numbers advance")

    def _check_slice(self, origin: Slice, info: TensorInfo, what: str, loop: Loop) -> None:
        if origin.of.component in loop.stages:
            raise PipelineError(
                f"{what} takes pieces of {origin.of}, which the loop {loop.name!r} itself makes; take "
                "pieces of what is there before it"
            )
        found = self._find(origin.of, what)
        check_dtype(found, info, what)
        if not 0 <= origin.axis < len(found.shape) or origin.length < 1:
            raise PipelineError(
                f"{what} takes pieces of length {origin.length} along axis {origin.axis} of {found}; "
                f"legal: length 1 and above, axis 0 to {len(found.shape) - 1}"
            )
        shape = list(found.shape)
        shape[origin.axis] = origin.length
        piece = TensorInfo(name=found.name, dtype=found.dtype, shape=tuple(shape))
        check_shape(piece, info, what, "it comes from a piece of")

    def _inner(self, source: TensorSource, loop: Loop, what: str) -> TensorInfo:
        """A tensor of a step of this loop."""
        if source.key == (loop.name, TOKEN):
            if loop.token is None:
                raise PipelineError(
                    f"{what} comes from the token of loop {loop.name!r}, which chooses none; say which "
                    "logits it is chosen from: token = 'component.tensor'"
                )
            return TOKEN_INFO
        if source.component not in loop.stages:
            raise PipelineError(
                f"{what} comes from {source}, which no component of loop {loop.name!r} makes"
                f"{near(str(source.component), loop.stages)}"
            )
        outputs = self.wiring.stage(str(source.component)).outputs
        for info in outputs:
            if info.name == source.tensor:
                return info
        names = [info.name for info in outputs]
        raise PipelineError(
            f"{what} comes from tensor {source.tensor!r} of component {source.component!r}, which has "
            f"no such output{near(source.tensor, names)}"
        )

    def _check_end(self, loop: Loop, what: str) -> None:
        slices = any(
            isinstance(origin, Slice)
            for name in loop.stages
            for _, origin in self.wiring.stage(name).inputs
        )
        if loop.steps is None and not slices:
            hint = ", because its end token may never come" if loop.end else ""
            raise PipelineError(
                f"{what} with component {loop.stages[-1]!r} may never end: it has no length{hint}; add "
                "steps = 128, or as many as you want at most"
            )
        if loop.steps is not None and not 1 <= loop.steps <= MOST_STEPS:
            raise PipelineError(f"{what}: steps = {loop.steps}; legal: 1 to {MOST_STEPS}")
        if loop.end and loop.token is None:
            raise PipelineError(
                f"{what} ends at a token but chooses none; say token = 'component.logits'"
            )
        if loop.token_start is not None and loop.token is None:
            raise PipelineError(f"{what} has a token_start but no token; add token")
        if loop.token is not None:
            self._check_token(self._inner(loop.token, loop, f"the token of {what}"), what)
        if loop.token_start is not None:
            found = self._find(loop.token_start, f"the first token of {what}")
            self._check_token(found, what)

    def _check_token(self, info: TensorInfo, what: str) -> None:
        floats = info.dtype in FLOATS and len(info.shape) in (2, 3)
        if not floats and not (info.dtype in INTEGERS and len(info.shape) in (1, 2)):
            raise PipelineError(
                f"{what}: a token is chosen from logits float[batch, vocabulary] or float[batch, length, "
                f"vocabulary], or is an integer[batch] or integer[batch, length]; this is {info}"
            )

    def _given(self, loop: Loop, give: Give, inner: dict[Key, TensorInfo]) -> TensorInfo:
        what = f"{give.name!r} of loop {loop.name!r}"
        if give.name == TOKEN or sum(other.name == give.name for other in loop.gives) > 1:
            raise PipelineError(f"{what}: that name is taken; choose another")
        found = self._inner(give.source, loop, what)
        if give.join is not None and not 0 <= give.join < len(found.shape):
            raise PipelineError(
                f"{what} joins along axis {give.join}; {found} has axes 0 to {len(found.shape) - 1}"
            )
        return give_info(give, inner.get(give.source.key, found))


def _inside(loop: Loop | None, what: str, does: str) -> Loop:
    if loop is None:
        raise PipelineError(
            f"{what} {does}, but its component runs in no loop; add the loop, [loops.NAME]"
        )
    return loop
