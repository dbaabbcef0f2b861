"""From nodes to what an engine executes: patterns collapsed, element-wise tails absorbed; pure.

Engines fuse a decomposed LayerNormalization, GELU or swish into one kernel, and what follows a
convolution or product element by element into that. How much such a tail still costs is measured
(`conv>add` in `edgesdk.profile_speeds`), so here it only has to be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgesdk.onnxfile.work import GraphWork, Tensor, Work
from edgesdk.plan.kinds import rows_of, sized
from edgesdk.profile_speeds import ELEMENTWISE

ANCHORS = frozenset({"conv", "depthwise", "product", "batched"})
"""Kinds that absorb what follows element by element."""
_ALIASES = frozenset({"Identity", "Dropout"})
_PADDED = ("Conv", "MaxPool", "AveragePool")
"""What takes a Pad before it into its own borders."""


@dataclass(slots=True, kw_only=True)
class Task:
    """What an engine executes as one kernel.

    Attributes:
        node: name of the first node in it.
        op: its operator.
        kind, sizes: of `edgesdk.profile_speeds.KINDS`.
        tail: kinds absorbed after it, each with its elements.
        reads: run-time tensors it takes, those of its tail included.
        writes: name of what it puts out.
        elements: of the output.
        weight_elements: of stored operands.
    """

    node: str
    op: str
    kind: str
    sizes: tuple[float, ...]
    tail: list[tuple[str, float]] = field(default_factory=list)
    reads: list[Tensor] = field(default_factory=list)
    writes: set[str] = field(default_factory=set)
    elements: float = 0.0
    weight_elements: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Nodes that are one operation, named by what computes the result."""

    kind: str
    nodes: frozenset[int]
    source: Tensor


def tasks_of(graph: GraphWork) -> tuple[Task, ...]:
    """The kernels that an engine would run, in order."""
    net = _Net(graph)
    groups = {max(group.nodes): group for group in _patterns(net)}
    covered = {index for group in groups.values() for index in group.nodes}
    tasks: list[Task] = []
    makers: dict[str, Task] = {}
    ends: dict[str, Task] = {}
    for index, node in enumerate(net.nodes):
        group = groups.get(index)
        if group is None and index in covered:
            continue
        if _vanishes(net, index):
            before, after = node.operands[0].name, node.outputs[0].name
            if before in makers:
                makers[after] = makers[before]
                makers[before].writes.add(after)
            if before in ends and net.readers(before) == {index} and node.op in _ALIASES:
                ends[after] = ends[before]
            continue
        members = group.nodes if group else frozenset({index})
        reads = [group.source] if group else list(node.operands)
        task = _task(node, group)
        if task is None:
            continue
        host = _host(net, members, reads, ends, task) if _absorbable(task.kind) else None
        if host is None:
            task.reads = reads
            task.writes = {tensor.name for tensor in node.outputs}
            makers |= dict.fromkeys(task.writes, task)
            tasks.append(task)
            if task.kind in ANCHORS:
                ends[node.outputs[0].name] = task
            continue
        if not _is_bias(node, task.kind, host):
            host.tail.append((task.kind, task.sizes[0]))
        host.reads += [tensor for tensor in reads if tensor.name not in host.writes]
        host.writes.add(node.outputs[0].name)
        makers[node.outputs[0].name] = ends[node.outputs[0].name] = host
    return tuple(tasks)


class _Net:
    """Who makes and who reads each tensor."""

    def __init__(self, graph: GraphWork) -> None:
        self.nodes = graph.nodes
        self._maker = {
            tensor.name: index for index, node in enumerate(graph.nodes) for tensor in node.outputs
        }
        self._readers: dict[str, set[int]] = {}
        for index, node in enumerate(graph.nodes):
            for tensor in node.operands:
                self._readers.setdefault(tensor.name, set()).add(index)
        for tensor in graph.outputs:
            self._readers.setdefault(tensor.name, set()).add(-1)

    def readers(self, name: str) -> set[int]:
        """Nodes that read a tensor; -1 stands for the caller."""
        return self._readers.get(name, set())

    def before(self, tensor: Tensor | None, *ops: str) -> int | None:
        """The node that makes a tensor, if it is one of these."""
        index = self._maker.get(tensor.name) if tensor else None
        return index if index is not None and self.nodes[index].op in ops else None

    def after(self, index: int | None, *ops: str) -> int | None:
        """The only node that reads a node's result, if it is one of these."""
        if index is None:
            return None
        readers = self.readers(self.nodes[index].outputs[0].name)
        (only,) = readers if len(readers) == 1 else (-1,)
        return only if only >= 0 and self.nodes[only].op in ops else None


def _vanishes(net: _Net, index: int) -> bool:
    """Whether an engine drops a node, or takes it into the next one."""
    node = net.nodes[index]
    if not node.operands or not node.outputs:
        return False
    return node.op in _ALIASES or (node.op == "Pad" and net.after(index, *_PADDED) is not None)


def _task(node: Work, group: _Group | None) -> Task | None:
    kind, sizes = sized(node)
    if group is not None:
        out = node.outputs[0]
        kind = group.kind
        sizes = rows_of(out) if kind == "norm" else (float(max(out.elements, 1)),)
    if not kind:
        return None
    return Task(
        node=node.name,
        op=node.op,
        kind=kind,
        sizes=sizes,
        elements=float(sum(tensor.elements for tensor in node.outputs)),
        weight_elements=sum(tensor.elements for tensor in node.weights),
    )


def _absorbable(kind: str) -> bool:
    return kind in ELEMENTWISE


def _host(
    net: _Net,
    members: frozenset[int],
    reads: Sequence[Tensor],
    ends: dict[str, Task],
    task: Task,
) -> Task | None:
    """The kernel that an operand leaves whom nobody else needs: of the last such operand.

    Not where that is spread over a larger one, as the gate of squeeze and excitation is.
    """
    hosts = [
        ends[tensor.name]
        for tensor in reads
        if tensor.name in ends
        and net.readers(tensor.name) <= members
        and tensor.elements >= task.elements
    ]
    return hosts[-1] if hosts else None


def _is_bias(node: Work, kind: str, host: Task) -> bool:
    """A stored addend or factor for each channel right after the product is part of it."""
    return not host.tail and (kind == "scale" or node.op == "BatchNormalization")


def _patterns(net: _Net) -> Iterator[_Group]:
    for index, node in enumerate(net.nodes):
        found = None
        if node.op == "Sqrt":
            found = _layer_norm(net, index)
        elif node.op == "Erf":
            found = _gelu(net, index)
        elif node.op in ("Sigmoid", "HardSigmoid"):
            found = _gated(net, index)
        elif node.op == "Clip":
            found = _hard_swish(net, index)
        if found is not None:
            yield found


def _layer_norm(net: _Net, root: int) -> _Group | None:
    """A value less its mean, over the root of its mean square, and where there are, the scale and bias."""
    eps = net.before(net.nodes[root].operands[0], "Add")
    variance = eps is not None and net.before(net.nodes[eps].operands[0], "ReduceMean")
    if eps is None or variance is None or variance is False:
        return None
    square = net.before(net.nodes[variance].operands[0], "Pow", "Mul")
    centred = square is not None and net.before(net.nodes[square].operands[0], "Sub")
    if square is None or centred is None or centred is False:
        return None
    parts = {root, eps, variance, square, centred}
    for operand in net.nodes[centred].operands:
        mean = net.before(operand, "ReduceMean")
        parts |= {mean} if mean is not None else set()
    last = net.after(root, "Div", "Reciprocal")
    while last is not None:
        parts.add(last)
        following = net.after(last, "Mul", "Add")
        last = following if following is not None and net.nodes[following].weights else None
    return _Group("norm", frozenset(parts), net.nodes[centred].operands[0])


def _gelu(net: _Net, erf: int) -> _Group | None:
    """A value x over sqrt(2) through erf, plus 1, times x, times a half somewhere."""
    scaled = net.before(net.nodes[erf].operands[0], "Div", "Mul")
    plus = net.after(erf, "Add")
    times = net.after(plus, "Mul")
    if scaled is None or plus is None or times is None:
        return None
    source = net.nodes[scaled].operands[0]
    parts = {scaled, erf, plus, times}
    for operand in net.nodes[times].operands:
        half = net.before(operand, "Mul")
        if half is not None and half != plus and source in net.nodes[half].operands:
            parts.add(half)
    last = net.after(times, "Mul")
    if last is not None and net.nodes[last].weights:
        parts.add(last)
    return _Group("gelu", frozenset(parts), source)


def _gated(net: _Net, gate: int) -> _Group | None:
    """A value times its own sigmoid, or that of itself times a stored factor."""
    times = net.after(gate, "Mul")
    source = net.nodes[gate].operands[0]
    if times is None:
        return None
    gated = {tensor.name for tensor in net.nodes[times].operands}
    factor = net.before(source, "Mul")
    if source.name not in gated and factor is not None and net.nodes[factor].weights:
        inner = net.nodes[factor].operands[0]
        return (
            _Group("swish", frozenset({factor, gate, times}), inner)
            if inner.name in gated
            else None
        )
    if source.name not in gated:
        return None
    return _Group("swish", frozenset({gate, times}), source)


def _hard_swish(net: _Net, clip: int) -> _Group | None:
    """A value x times clip(x + 3, 0, 6) over 6, the division anywhere."""
    plus = net.before(net.nodes[clip].operands[0], "Add")
    if plus is None or not net.nodes[plus].weights:
        return None
    source = net.nodes[plus].operands[0]
    parts = {plus, clip}
    last = net.after(clip, "Mul", "Div")
    gated = False
    while last is not None and len(parts) < 4:
        operands = {tensor.name for tensor in net.nodes[last].operands}
        scaling = bool(net.nodes[last].weights)
        if not scaling and (gated or source.name not in operands):
            break
        gated = gated or not scaling
        parts.add(last)
        last = net.after(last, "Mul", "Div")
    return _Group("hardswish", frozenset(parts), source) if gated else None
