"""Predicting latency and peak memory of a recipe on a device, without running it; pure.

A prediction is a sum over what an engine would execute: each kernel takes the time that was measured
for its kind at about its sizes, what is fused into it the little that this was measured to add, each
border between float and integers its own, and every run what a run with nothing in it takes. Where a
profile has no measured speeds its stated peaks stand in, and the interval says how little that means.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from edgesdk.evidence import Evidence
from edgesdk.onnxfile.work import GraphWork
from edgesdk.plan.fuse import ANCHORS, Task, tasks_of
from edgesdk.plan.interpolate import Guess
from edgesdk.plan.speeds import Speeds
from edgesdk.recipe import Recipe

_CLAMPS = frozenset({"relu"})
"""Tails that disappear in the clipping of an integer output."""
_INTEGER = frozenset({"conv", "depthwise"})
"""Kinds that take and give integers in w8a8; products give floats, and what turns their operands into
integers is part of what was measured."""
_MOVING = frozenset({"reshape", "transpose", "copy", "pool"})
"""Kinds that integers pass through as they are."""
_MODEL_SPREAD = 0.12
"""Standard deviation of the logarithm of what no series tells: caches, placement, fusion."""
_MEMORY_SPREAD = 0.3
_Z95 = 1.96
_FOOTPRINT_BYTES = 120e6
"""Interpreter, numpy and an engine, where nothing was measured: 60 to 150 MB were seen."""
_WEIGHT_COPIES = 2.0
_MIB = float(1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    """One kernel's share of a prediction.

    Attributes:
        node: name of its first node in the model.
        op: that node's operator.
        kind: the measured kind it was taken for, with its tail: `conv>add>relu`.
        precision: what it computes in.
        ms: milliseconds a run, borders included.
    """

    node: str
    op: str
    kind: str
    precision: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a recipe would take on a device.

    Attributes:
        latency_ms: of one warm run.
        low, high: an interval for it that should hold in 95 of 100 cases.
        peak_mib: peak resident memory of the whole process.
        per_node: shares of the latency, in order; their sum is less by the cost of a run itself.
        probed: the times were interpolated between measured ones; else they follow from stated peaks.
        evidence: `estimated`, always.
    """

    latency_ms: float
    low: float
    high: float
    peak_mib: float
    per_node: tuple[NodeCost, ...]
    probed: bool
    evidence: Evidence = Evidence.ESTIMATED

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {**asdict(self), "evidence": str(self.evidence)}


def predict(graph: GraphWork, recipe: Recipe, backend: str, speeds: Speeds) -> Prediction:
    """Latency and peak memory of a recipe on a backend of a device.

    Args:
        graph: the float model at the shapes of real inputs (`edgesdk.model.model_work`).
        recipe: compression settings.
        backend: name of a runtime of the profile.
        speeds: of the profile.

    Raises:
        ProfileError: the profile has no such runtime.
    """
    tasks = tasks_of(graph)
    shares, groups = [], dict[str, list[Guess]]()
    precisions = {id(task): _precision(task, recipe, backend) for task in tasks}
    made = {name: task for task in tasks for name in task.writes}
    for task in tasks:
        precision = precisions[id(task)]
        guesses = [speeds.guess(backend, precision, task.kind, task.sizes)]
        guesses += _tail(task, precision, backend, speeds)
        borders = _borders(task, made, precisions, backend)
        borders += [float(task.weight_elements)] if _left_float(task, recipe, backend) else []
        guesses += [_half_border(speeds, backend, elements) for elements in borders]
        groups.setdefault(task.kind, []).extend(guesses)
        shares.append(
            NodeCost(
                node=task.node,
                op=task.op,
                kind=">".join((task.kind, *(kind for kind, _ in task.tail))),
                precision=precision,
                ms=sum(guess.us for guess in guesses) / 1e3,
            )
        )
    moved = sum(tensor.bytes or 0 for tensor in (*graph.inputs, *graph.outputs))
    groups["run"] = [speeds.guess(backend, _float(recipe), "run", (max(float(moved), 1.0),))]
    total, spread = _total(groups)
    return Prediction(
        latency_ms=total / 1e3,
        low=total / 1e3 * math.exp(-_Z95 * spread),
        high=total / 1e3 * math.exp(_Z95 * spread),
        peak_mib=_memory(graph, recipe, backend, speeds) / _MIB,
        per_node=tuple(shares),
        probed=speeds.covers(backend),
    )


def _precision(task: Task, recipe: Recipe, backend: str) -> str:
    """What a kernel computes in under a recipe."""
    if task.kind == "lstm" and recipe.mode == "dynamic":
        return "w8-dynamic"
    if task.kind not in ANCHORS or (task.kind != "batched" and not task.weight_elements):
        return _float(recipe)
    if recipe.mode == "dynamic":
        return "w8-dynamic" if task.kind == "product" else _float(recipe)
    if recipe.mode == "only" and recipe.block and task.kind == "product":
        return f"w{recipe.weight_bits}-only"
    if recipe.mode != "static":
        return _float(recipe)
    if task.kind == "batched":
        quantized = recipe.transformer if recipe.quantizer == "nncf" else not recipe.weighted_only
        return "w8a8" if quantized else _float(recipe)
    return _float(recipe) if _left_float(task, recipe, backend) else "w8a8"


def _left_float(task: Task, recipe: Recipe, backend: str) -> bool:
    """Whether a quantized convolution is computed in float all the same.

    onnxruntime has an integer Conv only where its output is quantized at once, and NNCF quantizes
    that behind the activation function. Its weights are then dequantized in every run.
    """
    tied = backend == "onnxruntime" and recipe.quantizer == "nncf" and recipe.mode == "static"
    curved = bool(task.tail) and task.tail[0][0] not in ("relu", "add", "scale")
    return tied and curved and task.kind in ("conv", "depthwise")


def _float(recipe: Recipe) -> str:
    return recipe.execution


def _tail(task: Task, precision: str, backend: str, speeds: Speeds) -> list[Guess]:
    """What the absorbed operations add."""
    anchor = "product" if task.kind in ("product", "batched") else "conv"
    return [
        speeds.guess(backend, precision, f"{anchor}>{kind}", (elements,))
        for kind, elements in task.tail
        if not (precision == "w8a8" and kind in _CLAMPS)
    ]


def _borders(
    task: Task, made: dict[str, Task], precisions: dict[int, str], backend: str
) -> list[float]:
    """Elements of each operand that changes between float and integers on its way in.

    OpenVINO's kernels write the type that is wanted behind them; only inputs are converted there.
    """

    def integer(one: Task | None) -> bool:
        return one is not None and one.kind in _INTEGER and precisions[id(one)] == "w8a8"

    if task.kind in _MOVING or (precisions[id(task)] == "w8a8" and task.kind not in _INTEGER):
        return []
    found = []
    for tensor in task.reads:
        maker = made.get(tensor.name)
        while maker is not None and maker.kind in _MOVING and maker.reads:
            maker = made.get(maker.reads[0].name)
        fused = backend == "openvino" and maker is not None
        if integer(maker) != integer(task) and not fused:
            found.append(float(max(tensor.elements, 1)))
    return found


def _half_border(speeds: Speeds, backend: str, elements: float) -> Guess:
    whole = speeds.guess(backend, "w8a8", "border", (elements,))
    return Guess(us=whole.us / 2, spread=whole.spread)


def _total(groups: dict[str, list[Guess]]) -> tuple[float, float]:
    """The sum and the deviation of its logarithm; errors within a kind go together."""
    total = sum(guess.us for group in groups.values() for guess in group)
    variance = sum(
        sum(guess.us * guess.spread for guess in group) ** 2 for group in groups.values()
    )
    return total, math.hypot(_MODEL_SPREAD, math.sqrt(variance) / total)


def _memory(graph: GraphWork, recipe: Recipe, backend: str, speeds: Speeds) -> float:
    """The engine, its copies of the weights, and the largest set of live activations; bytes."""
    stored = {tensor.name: tensor.bytes or 0 for node in graph.nodes for tensor in node.weights}
    weights = sum(stored.values()) * _stored_bits(recipe) / 32
    footprint = speeds.footprint_bytes(backend) or _FOOTPRINT_BYTES
    copies = speeds.weight_copies(backend) or _WEIGHT_COPIES
    return footprint + copies * weights + live_bytes(graph)


def _stored_bits(recipe: Recipe) -> int:
    """Bits that a weight takes while it runs: those only stored small are restored."""
    if recipe.mode in ("static", "dynamic"):
        return 8
    return recipe.weight_bits if recipe.mode == "only" and recipe.block else 32


def live_bytes(graph: GraphWork) -> int:
    """The largest sum of run-time tensors that are needed at once, in the order of the nodes."""
    last = {
        tensor.name: index for index, node in enumerate(graph.nodes) for tensor in node.operands
    }
    end = len(graph.nodes)
    last |= {tensor.name: end for tensor in graph.outputs}
    sizes = {tensor.name: tensor.bytes or 0 for tensor in graph.inputs}
    peak = sum(sizes.values())
    for index, node in enumerate(graph.nodes):
        sizes |= {tensor.name: tensor.bytes or 0 for tensor in node.outputs}
        peak = max(peak, sum(sizes.values()))
        sizes = {name: size for name, size in sizes.items() if last.get(name, index) > index}
    return peak
