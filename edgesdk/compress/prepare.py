"""The cleaned original: deployed shapes, folded constants, fused normalisation, a usable opset.

Every step is tried on its own and kept only if the result is a valid model that loads, has the
same inputs and outputs, and still computes the same. A step that a library cannot do on this model
(control flow and recurrent cells defeat several) is undone, and its reason is among the notes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io, probe
from edgesdk.compress import shapes as fixing
from edgesdk.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

_LOWEST_OPSET = 13
"""Brought per-channel QuantizeLinear; on 11 and 12 quantizers write files that do not load."""
_TARGET_OPSET = 17
"""Has LayerNormalization as one operator, and is read by every runtime of the last years."""

_KEPT_APART = ("MatMulAddFusion",)
"""Not done ahead: it turns MatMul + Add into Reshape + Gemm + Reshape, and weight-only quantizers
then find no MatMul. Engines fuse it themselves when they load the model."""

_MOST_GROWTH = 1.05
"""Folding inside branches duplicates weights (a voice detector grew from 2.3 to 3.3 MB); engines
fold in memory when they load, so the file had better stay small."""

Step = Callable[[Path, Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What came out.

    Attributes:
        path: the model, `out/model.onnx`.
        notes: what was not done, and why; empty when all went well.
        opset: version of the standard operator set that it imports.
        fixed: True when the inputs have the shapes that were asked for; a model with a branch for
            each of several lengths can refuse them, and then stays dynamic.
    """

    path: Path
    notes: tuple[str, ...]
    opset: int
    fixed: bool


def prepare(
    model: Path,
    out: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None,
    example: Mapping[str, Array] | None = None,
    only_shapes: bool = False,
    fold: bool = True,
) -> Prepared:
    """Write the cleaned model into the folder `out`, which need not exist.

    Models whose external data exceeds `onnx_io.HEAVY_BYTES` only get their shapes fixed; their
    weights are copied as files and never read.

    Args:
        model: ONNX file; external data lies beside it.
        out: where `model.onnx` goes.
        shapes: fixed shape of each input by name, or None to keep them dynamic.
        example: one real set of inputs, on which every rewrite is compared with the original;
            without it one is made up.
        fold: fold constants and fuse operators; what an engine makes of the result can be slower.
        only_shapes: leave the graph alone otherwise; for a model on which a library crashed.

    Raises:
        SamplesError: `shapes` contradict the model.
        ModelError: the original itself does not load.
    """
    out.mkdir(parents=True, exist_ok=True)
    target = out / "model.onnx"
    structure = onnx_io.read_structure(model)
    if shapes:
        fixing.fix_input_shapes(structure, shapes)
    if only_shapes or onnx_io.external_bytes(structure) > onnx_io.HEAVY_BYTES:
        return _structure_only(model, target, structure, shapes=shapes, asked=only_shapes)
    with tempfile.TemporaryDirectory(dir=out, prefix=".steps.") as scratch:
        chain = _Chain(model, Path(scratch), shapes, example)
        fixed = bool(shapes) and chain.take(
            "input shapes fixed", partial(_fix, shapes=shapes or {})
        )
        chain.take("weights separated from inputs, absent ones dropped", _plain_inputs)
        if onnx_io.opset_of(structure) < _LOWEST_OPSET:
            chain.take(f"opset raised to {_TARGET_OPSET}", _raise_opset)
        if fold:
            chain.take("constants folded and operators fused", _fold)
        chain.take("shapes inferred", _infer)
        best = onnx_io.read_whole(chain.best)
        _name_nodes(best)
        onnx_io.write(best, target)
    return Prepared(
        path=target, notes=tuple(chain.notes), opset=onnx_io.opset_of(best), fixed=fixed
    )


def _structure_only(
    model: Path,
    target: Path,
    structure: onnx.ModelProto,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None,
    asked: bool,
) -> Prepared:
    """The graph with its shapes fixed and its weights never read."""
    import onnx

    onnx_io.copy_data_files(structure, model, target)
    onnx.save(structure, target)
    if shapes:
        onnx.shape_inference.infer_shapes_path(str(target), str(target), data_prop=True)
    done = "only its input shapes were fixed" if shapes else "it was left as it is"
    why = "as asked" if asked else "its weights exceed 1.5 GB"
    return Prepared(
        path=target,
        notes=(f"{done}: {why}",),
        opset=onnx_io.opset_of(structure),
        fixed=bool(shapes),
    )


class _Chain:
    """Rewrites one after the other, each kept only when it leaves the model what it was.

    Attributes:
        best: the last good file.
        notes: what was undone, and why.
    """

    def __init__(
        self,
        model: Path,
        scratch: Path,
        shapes: Mapping[str, tuple[int, ...]] | None,
        example: Mapping[str, Array] | None,
    ) -> None:
        self.notes: list[str] = []
        self.best = onnx_io.write(onnx_io.read_whole(model), scratch / "0.onnx")
        self._scratch = scratch
        try:
            session = probe.open_quietly(model)
        except Exception as exc:  # onnxruntime's error types share no other base
            raise ModelError(f"{model.name} does not load in onnxruntime: {_reason(exc)}") from exc
        self._signature = probe.signature(session)
        self._answer = probe.first_answer(session, shapes or {}, example)
        if self._answer is None:
            self.notes.append(
                "the model takes no made-up input: rewrites were checked by loading only"
            )

    def take(self, name: str, step: Step) -> bool:
        """Do a step; False and a note when it had to be undone."""
        attempt = self._scratch / f"{int(self.best.stem) + 1}.onnx"
        problem = self._problem(step, attempt)
        if problem:
            self.notes.append(f"not done: {name}: {problem}")
        else:
            self.best = attempt
        return problem is None

    def _problem(self, step: Step, attempt: Path) -> str | None:
        import onnx

        try:
            step(self.best, attempt)
            onnx.checker.check_model(str(attempt))
            session = probe.open_quietly(attempt)
        except Exception as exc:  # libraries raise anything here, AssertionError included
            return _reason(exc)
        grown = attempt.stat().st_size / self.best.stat().st_size
        if grown > _MOST_GROWTH:
            return f"the file would grow {grown:.2f} times"
        if probe.signature(session) != self._signature:
            return "inputs or outputs changed"
        if self._answer is None:
            return None
        feed, before = self._answer
        after = probe.run(session, feed)
        return "it no longer runs" if after is None else probe.disagreement(before, after)


def _fix(source: Path, target: Path, *, shapes: Mapping[str, tuple[int, ...]]) -> None:
    proto = onnx_io.read_whole(source)
    fixing.fix_input_shapes(proto, shapes)
    onnx_io.write(proto, target)


def _plain_inputs(source: Path, target: Path) -> None:
    """Say what goes in as plainly as can be.

    Old files list weights among the inputs, which forbids folding them. Exporters write an absent last
    input of a node as an empty name; onnxruntime then takes no Pad into the convolution behind it,
    which made an EfficientNet take 1.9 times as long.
    """
    proto = onnx_io.read_whole(source)
    stored = {tensor.name for tensor in proto.graph.initializer}
    for value in [value for value in proto.graph.input if value.name in stored]:
        proto.graph.input.remove(value)
    for node in (node for graph in onnx_io.graphs(proto.graph) for node in graph.node):
        while node.input and not node.input[-1]:
            node.input.pop()
    proto.ir_version = max(proto.ir_version, 4)
    onnx_io.write(proto, target)


def _raise_opset(source: Path, target: Path) -> None:
    from onnx import version_converter

    proto = version_converter.convert_version(onnx_io.read_whole(source), _TARGET_OPSET)
    proto.ir_version = max(proto.ir_version, 8)
    onnx_io.write(proto, target)


def _fold(source: Path, target: Path) -> None:
    """Do onnxruntime's basic rewrites: standard operators only, independent of the machine."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(_KEPT_APART)
    )
    proto = onnx_io.read_whole(target)
    _drop_unused_domains(proto)
    onnx_io.write(proto, target)


def _drop_unused_domains(proto: onnx.ModelProto) -> None:
    """Forget the domains that onnxruntime adds to every file; other readers stumble over them."""
    used = {node.domain for graph in onnx_io.graphs(proto.graph) for node in graph.node}
    used |= {node.domain for function in proto.functions for node in function.node}
    kept = [o for o in proto.opset_import if o.domain in used or o.domain in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: what is decided for single nodes refers to it."""
    taken = {node.name for graph in onnx_io.graphs(proto.graph) for node in graph.node}
    seen: set[str] = set()
    for node in (node for graph in onnx_io.graphs(proto.graph) for node in graph.node):
        if not node.name or node.name in seen:
            stem = node.name or node.op_type
            number = next(n for n in itertools.count() if f"{stem}_{n}" not in taken)
            node.name = f"{stem}_{number}"
            taken.add(node.name)
        seen.add(node.name)


def _infer(source: Path, target: Path) -> None:
    onnx_io.write(fixing.infer_shapes(onnx_io.read_whole(source)), target)


def _reason(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0][:200]}" if lines else type(exc).__name__
