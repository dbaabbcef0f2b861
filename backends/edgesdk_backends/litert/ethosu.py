"""Arm Ethos-U: LiteRT's integer form of a model, compiled by Vela for the NPU.

The folder of a compiled artifact holds

    model_vela.tflite   the program: for TensorFlow Lite Micro or a Linux driver, on the device
    model.tflite        what it was made of, which any TFLite interpreter computes
    interface.json      how the model's inputs and outputs become integers, for both
    placement.json      where Vela puts each operation, and why
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgesdk.backend import Compiled, NodePlacement, OpenOptions, Session
from edgesdk.errors import BackendUnavailable, RecipeError, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.files import read_json, write_json
from edgesdk.recipe import Recipe
from edgesdk_backends.litert import vela
from edgesdk_backends.litert.backend import FILE, LiteRtBackend, finished
from edgesdk_backends.litert.engine import Engine, Operation, operations
from edgesdk_backends.litert.interface import Interface, Port, read_interface
from edgesdk_backends.litert.session import LiteRtSession, precision_of

if TYPE_CHECKING:
    from edgesdk.compress.calibration import SampleSet

PROGRAM, PLACEMENT = "model_vela.tflite", "placement.json"

_CUSTOM = "ethos-u"
"""Vela's name of the operation that stands for all that runs on the NPU between two others."""
_INTEGERS = ("int8", "int16")
_ESTIMATE = (
    "Cycles, time and memory are Vela's analytical estimate. Arm states that its numbers let the compiler "
    "decide, and should not be taken as real performance; use an FPGA, or approximately its virtual platform."
)


class EthosUBackend(LiteRtBackend):
    """Ethos-U55, -U65 and -U85 through Arm's compiler Vela."""

    name: ClassVar[str] = "ethos-u"
    install: ClassVar[str] = "pip install 'edgesdk[ethos-u]'"
    distributions: ClassVar[tuple[str, ...]] = ()
    simulation: ClassVar[Evidence | None] = Evidence.ESTIMATED
    """No numeric model of the NPU is public as a package: LiteRT's reference kernels stand in for it."""

    def unavailable(self) -> str | None:
        """Why the interpreter or the compiler is not here, if so."""
        problem = super().unavailable()
        if problem is None and find_spec("ethosu") is None:
            return f"Arm's compiler ethos-u-vela is not installed; {self.install}"
        return problem

    def version(self) -> str:
        """Of the compiler, whose figures and placements change with it."""
        return version("ethos-u-vela")

    def rejects(self, recipe: Recipe) -> str | None:
        """Anything but float for the CPU, and 8-bit weights with fixed integer activations."""
        return super().rejects(recipe) or _against(recipe)

    def quantize(
        self, artifact: Path, recipe: Recipe, out: Path, calibration: SampleSet | None
    ) -> Path:
        """Quantize a file that `convert` wrote, its inputs and outputs included.

        A session rounds what goes in and scales what comes out, so that it still takes and gives the
        model's types. Raises as for `litert`.
        """
        from edgesdk_backends.litert.quantizing import quantize

        refusal = self.rejects(recipe)
        if refusal:
            raise RecipeError(f"{recipe}: {refusal}")
        interface = read_interface(artifact)
        quantize(artifact, out / FILE, recipe, interface, calibration, integer_ends=True)
        return finished(out, _with_integer_ends(out / FILE, interface))

    def compiles(self, target: Mapping[str, str]) -> bool:
        """Always: the NPU runs nothing else."""
        del target
        return True

    def compile(
        self, artifact: Path, target: Mapping[str, str], out: Path, *, simulate: bool = False
    ) -> Compiled:
        """Compile for `{"accelerator_config": …, "system_config": …, "memory_mode": …}`.

        `config` may name a configuration file of one's own. Vela needs no device, so `simulate` changes
        nothing. A float file is compiled too: all of it stays on the CPU, which has no estimate.

        Raises:
            StepFailed: Vela does not take the file, or the file has open shapes.
            ProfileError: the target lacks a key, or has a value that Vela does not know.
        """
        del simulate
        wanted = vela.Target.read(target)
        interface = read_interface(artifact)
        _check_static(interface)
        with tempfile.TemporaryDirectory(prefix="edgesdk-vela-") as scratch:
            report = vela.compile_file(artifact, wanted, Path(scratch))
            shutil.copyfile(report.program, out / PROGRAM)
        shutil.copyfile(artifact, out / FILE)
        finished(out, interface)
        placed = _placed(
            operations(out / FILE), operations(out / PROGRAM), report, interface, wanted
        )
        _write_placement(placed, out)
        program = out / PROGRAM
        aside = tuple(file for file in out.iterdir() if file != program)
        left = [item for item in placed if item.unit == "cpu"]
        if len(left) == len(placed):
            note = "No operation runs on the NPU: Vela leaves all of them to the CPU, and estimates nothing."
            return Compiled(program=program, placement=placed, aside=aside, notes=(note,))
        return Compiled(
            program=program,
            placement=placed,
            aside=aside,
            estimate_ms=report.estimate_ms,
            cycles=report.cycles,
            memory_bytes=report.memory.get("SRAM"),
            notes=_notes(report, left, wanted),
        )

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Compute what a program computes, with LiteRT's reference kernels on this machine.

        Raises:
            BackendUnavailable: without `simulate`, since no process of this machine reaches an Ethos-U.
            StepFailed: a file is missing, damaged or belongs to another.
        """
        self.check_options(options)
        if not options.simulate:
            raise BackendUnavailable(
                f"{artifact.name} runs on a board with an Ethos-U, under TensorFlow Lite Micro or its Linux "
                "driver, and not in this process; open it with simulate=True to compute here what it should"
            )
        return EthosUSession(artifact, options)


class EthosUSession(LiteRtSession):
    """The integers of a program computed by the kernels that define TFLite's operations."""

    def __init__(self, artifact: Path, options: OpenOptions) -> None:
        """Load the file behind a program, or one that is not compiled yet.

        Raises:
            StepFailed: a file is missing, damaged or belongs to another.
        """
        source = artifact.with_name(FILE)
        self._placed: tuple[NodePlacement, ...] | None = None
        if artifact.name == PROGRAM:
            self._placed = _read_placement(artifact)
        # What stays float runs on the CPU, where kernels are as fast as they can be.
        computed = any(op.kinds[:1] and op.kinds[0] in _INTEGERS for op in operations(source))
        super().__init__(source, options, reference=computed)

    def placement(self) -> tuple[NodePlacement, ...]:
        """Where Vela puts the operations; before it is asked, where they run here."""
        if self._placed is None or self.closed:
            return super().placement()
        return self._placed


def _against(recipe: Recipe) -> str | None:
    if recipe == Recipe():
        return None
    if recipe.mode != "static":
        return (
            "an Ethos-U computes integers whose ranges are fixed when it is compiled for; all else runs on "
            "the CPU; take w8a8-static or w8a16-static"
        )
    if recipe.weight_bits != 8:
        return "Vela takes weights of 8 bits only"
    if recipe.weighted_only:
        return "what stays float between the weighted operations would run on the CPU; leave out -weighted"
    return None


def _with_integer_ends(file: Path, interface: Interface) -> Interface:
    """The interface of a float file for its quantized form.

    Raises:
        StepFailed: an end has another name, or integers that are not told what they mean.
    """
    engine = Engine(file, reference=True)
    try:
        ends = {**engine.inputs, **engine.outputs}
    finally:
        engine.close()

    def quantized(port: Port) -> Port:
        if not port.tensor:
            return port
        tensor = ends.get(port.tensor)
        told = tensor is not None and (tensor.dtype == port.dtype or tensor.scale)
        if tensor is None or not told:
            raise StepFailed(f"the quantizer changed {port.tensor!r} ({port.dtype}) of the file")
        if tensor.dtype == port.dtype:
            return port
        return replace(port, dtype=tensor.dtype, scale=tensor.scale, zero_point=tensor.zero_point)

    return replace(
        interface,
        inputs=tuple(map(quantized, interface.inputs)),
        outputs=tuple(map(quantized, interface.outputs)),
    )


def _check_static(interface: Interface) -> None:
    for port in interface.inputs:
        if not port.info.is_static:
            raise StepFailed(
                f"input {port.info} has an open shape, and Vela plans memory for fixed ones; give samples "
                "that all have one shape, so that it is fixed"
            )


def _placed(
    asked: Sequence[Operation],
    got: Sequence[Operation],
    report: vela.Report,
    interface: Interface,
    target: vela.Target,
) -> tuple[NodePlacement, ...]:
    """What the program still has as an operation runs on the CPU; the rest went into the NPU's."""
    on_cpu = {name for op in got if op.name != _CUSTOM for name in op.outputs}
    made = {name for op in asked for name in op.outputs}
    added = [op for op in got if op.name != _CUSTOM and not made.intersection(op.outputs)]
    placed = []
    for number, op in enumerate((*asked, *added)):
        stays = bool(on_cpu.intersection(op.outputs))
        why = next((report.reasons[name] for name in op.outputs if name in report.reasons), "")
        origin = dict.fromkeys(o for name in op.outputs for o in interface.origins.get(name, ()))
        placed.append(
            NodePlacement(
                node=op.outputs[0] if op.outputs and op.outputs[0] else f"{op.name}_{number}",
                op=op.name,
                unit="cpu" if stays else "npu",
                provider="TFLite" if stays else target.accelerator,
                precision=precision_of(op.kinds),
                origin=tuple(origin),
                why=(why or "Vela gives no reason") if stays else "",
            )
        )
    return tuple(placed)


def _notes(
    report: vela.Report, left: Sequence[NodePlacement], target: vela.Target
) -> tuple[str, ...]:
    sizes = ", ".join(f"{size / 1024:,.1f} KiB of {name}" for name, size in report.memory.items())
    notes = [
        f"Compiled for {target.accelerator} in the system {target.system} with the memory mode "
        f"{target.memory}, where it takes {sizes}, weights included.",
        _ESTIMATE,
    ]
    if left:
        ops = ", ".join(sorted({item.op for item in left}))
        notes.append(
            f"{len(left)} operations run on the CPU ({ops}); the estimate counts nothing for them."
        )
    return tuple(notes)


def _write_placement(placed: Sequence[NodePlacement], folder: Path) -> None:
    size = (folder / PROGRAM).stat().st_size
    write_json(folder / PLACEMENT, {"program_bytes": size, "nodes": [asdict(p) for p in placed]})


def _read_placement(program: Path) -> tuple[NodePlacement, ...]:
    beside = program.with_name(PLACEMENT)
    try:
        found = read_json(beside)
        size, told = program.stat().st_size, int(found["program_bytes"])
        placed = tuple(
            NodePlacement(**{**node, "origin": tuple(node["origin"])}) for node in found["nodes"]
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StepFailed(
            f"{program} or the {PLACEMENT} beside it is missing or damaged: {exc}"
        ) from exc
    if size != told:
        raise StepFailed(f"{program} has {size:,} bytes; {PLACEMENT} says {told:,}")
    return placed
