"""The adapter: rewrite by the HTP's rules, compile a context binary, run on the unit or in its simulator."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgesdk.backend import Backend, Compiled, NodePlacement, OpenOptions, Session
from edgesdk.errors import BackendUnavailable, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.recipe import Recipe
from edgesdk_backends.qnn.about import FILE, PROGRAM, About, write_about
from edgesdk_backends.qnn.compiler import Placed, run_compiler
from edgesdk_backends.qnn.engine import CPU, PROVIDER, errors, is_board
from edgesdk_backends.qnn.graph import CONVERSIONS
from edgesdk_backends.qnn.recipes import against
from edgesdk_backends.qnn.session import QnnSession
from edgesdk_backends.qnn.target import Target

if TYPE_CHECKING:
    import onnx

_FILE = "model.onnx"
_UNITS = {PROVIDER: "npu", CPU: "cpu"}
_COPY = re.compile(r"_token_\d+$")
"""What the runtime appends to a node that it laid out anew."""


class QnnBackend(Backend):
    """Qualcomm's Hexagon tensor processor, through onnxruntime's QNN provider."""

    name: ClassVar[str] = "qnn"
    install: ClassVar[str] = "pip install 'edgesdk[qnn]'"
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-qnn")
    executions: ClassVar[frozenset[str]] = frozenset({"fp32", "fp16"})
    simulation: ClassVar[Evidence | None] = Evidence.SIMULATED

    def unavailable(self) -> str | None:
        """Why onnxruntime or its QNN provider does not import, if so."""
        try:
            import onnxruntime  # noqa: F401
            import onnxruntime_qnn  # noqa: F401
        except ImportError as exc:
            return f"onnxruntime with its QNN provider does not import ({exc}); {self.install}"
        return None

    def version(self) -> str:
        """Of onnxruntime-qnn, which has the compiler."""
        import onnxruntime_qnn

        return str(onnxruntime_qnn.__version__)

    def rejects(self, recipe: Recipe) -> str | None:
        """Besides the float type: what the HTP lacks, or what gains nothing there."""
        return super().rejects(recipe) or against(recipe)

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Rewrite by the HTP's rules, and load the result once on the CPU.

        Raises:
            StepFailed: an input has an open shape, or the graph does not load.
        """
        from edgesdk.compress import onnx_io
        from edgesdk.onnxfile.open import open_onnx
        from edgesdk_backends.qnn.rules import adapt

        del recipe
        open_onnx(model)  # says what is wrong with a damaged file
        proto = onnx_io.read_whole(model)
        _check_static(proto)
        adapt(proto)
        artifact = onnx_io.write(proto, out / _FILE)
        _load(artifact)
        return artifact

    def compiles(self, target: Mapping[str, str]) -> bool:
        """Always: the HTP runs compiled programs only."""
        del target
        return True

    def compile(
        self, artifact: Path, target: Mapping[str, str], out: Path, *, simulate: bool = False
    ) -> Compiled:
        """Compile for a generation of the HTP, on any machine; the compiler needs no unit.

        What it leaves to the CPU stays in the program as ordinary nodes.

        Raises:
            ProfileError: the target lacks a key or has an unknown value.
            StepFailed: it takes no node at all, it fails, or V68 is to compute with floats.
        """
        from edgesdk.compress import onnx_io
        from edgesdk_backends.qnn.precision import precisions
        from edgesdk_backends.qnn.reasons import read_reasons

        del simulate
        wanted = Target.read(target)
        out.mkdir(parents=True, exist_ok=True)
        program = out / PROGRAM
        with tempfile.TemporaryDirectory(prefix="edgesdk-qnn-") as scratch:
            placed, log = run_compiler(artifact, program, wanted, Path(scratch))
        types = precisions(onnx_io.read_structure(artifact))
        placement = _placement(placed, types, read_reasons(log))
        files = {
            file.name: file.stat().st_size
            for file in sorted(out.glob(f"{program.stem}*"))
            if file.name != FILE
        }
        about = About(target=wanted, version=self.version(), placement=placement, files=files)
        _check_worth(about, program)
        write_about(about, out)
        return Compiled(program=program, placement=placement, notes=_notes(placement))

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load a program that `compile` wrote: on a board, or in the simulator if asked to.

        The program brings its target, so that none need be given again.
        """
        self.check_options(options)
        if options.simulate and is_board():
            raise BackendUnavailable("the HTP simulator runs on x86-64 only; open it on the unit")
        if not options.simulate and not is_board():
            raise BackendUnavailable(
                "this machine has no Hexagon processor; qnn needs the device, or simulates it"
            )
        return QnnSession(artifact, options)


def _check_static(proto: onnx.ModelProto) -> None:
    stored = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and not all(dim.HasField("dim_value") for dim in dims):
            shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
            raise StepFailed(
                f"the HTP takes no open shapes, and input {value.name!r} is {shape}; give samples "
                "that agree in their shapes, and deploy fixes them"
            )


def _load(artifact: Path) -> None:
    """See that onnxruntime loads what was rewritten."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(artifact), options, providers=[CPU])
    except errors() as exc:
        raise StepFailed(f"onnxruntime cannot load {artifact.name}: {exc}") from exc


def _placement(
    placed: Sequence[Placed], types: Mapping[str, str], reasons: Mapping[str, str]
) -> tuple[NodePlacement, ...]:
    """Nodes with their unit; conversions on the HTP are left out, being types of its tensors."""
    from edgesdk_backends.qnn.reasons import reason_for

    found = []
    for item in placed:
        unit = _UNITS[item.provider]
        if unit == "npu" and item.op in CONVERSIONS:
            continue
        origin = _COPY.sub("", item.node)
        is_known = origin in types or item.op in CONVERSIONS
        found.append(
            NodePlacement(
                node=item.node,
                op=item.op,
                unit=unit,
                provider=item.provider,
                precision=types.get(origin, "") if unit == "npu" else "",
                origin=(origin,) if is_known else (),
                why=reason_for(item.node, item.op, reasons) if unit == "cpu" else "",
            )
        )
    return tuple(found)


def _check_worth(about: About, program: Path) -> None:
    """Refuse what would be no program for this HTP.

    Raises:
        StepFailed: nothing of it runs there, or float operations are to run on V68.
    """
    fallen = [item for item in about.placement if item.unit == "cpu"]
    if not program.is_file() or len(fallen) == len(about.placement):
        told = "; ".join(f"{item.node} ({item.op}): {item.why}" for item in fallen[:5])
        raise StepFailed(f"nothing of this model runs on the HTP: {told}")
    if about.halves and not about.target.has_half:
        raise StepFailed(
            f"V68 computes in integers only, and {len(about.halves)} operations are float "
            f"({', '.join(about.halves[:3])}); quantize them all, or take V69 or later"
        )


def _notes(placement: Sequence[NodePlacement]) -> tuple[str, ...]:
    """What fell back to the CPU, apart from the conversions at the ends."""
    fallen = [item for item in placement if item.unit == "cpu" and item.op not in CONVERSIONS]
    if not fallen:
        return ()
    total = sum(item.op not in CONVERSIONS for item in placement)
    ops = ", ".join(f"{count} {op}" for op, count in Counter(i.op for i in fallen).most_common(4))
    return (f"{len(fallen)} of {total} nodes fall back to the CPU: {ops}",)
