"""The adapter: ONNX by TensorRT's rules, proved without a GPU, and an engine built on the device."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgesdk.backend import Backend, Compiled, OpenOptions, Session, keep_onnx
from edgesdk.cache import default_root
from edgesdk.errors import BackendUnavailable, ProfileError, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.recipe import Recipe
from edgesdk_backends.tensorrt import blocks, halving, placing, rules
from edgesdk_backends.tensorrt.engines import Origin, Shelf, artifact_hash
from edgesdk_backends.tensorrt.gpu import find_gpu

if TYPE_CHECKING:
    import onnx

OLDEST = "10.3"
"""The TensorRT that artifacts are written for: that of JetPack 6.1 and 6.2."""
_IR_VERSIONS = {halving.OPSET: 9, blocks.OPSET: 10}
"""The IR that came with an opset, by the ONNX project's document "Versioning"."""
_CAPABILITY = "compute_capability"
_ON_DEVICE, _ON_HOST = ("tensorrt", "polygraphy"), ("tensorrt_rtx_bindings", "onnxruntime")
_ENDS = frozenset(("float32", "float16", "int8", "int32", "int64", "uint8", "bool"))


class TensorRtBackend(Backend):
    """NVIDIA's TensorRT on a Jetson; without one, TensorRT-RTX as its proof."""

    name: ClassVar[str] = "tensorrt"
    install: ClassVar[str] = "pip install 'edgesdk[tensorrt]'"
    distributions: ClassVar[tuple[str, ...]] = ("polygraphy",)
    executions: ClassVar[frozenset[str]] = frozenset({"fp32", "fp16"})
    simulation: ClassVar[Evidence | None] = Evidence.ESTIMATED
    typed_artifacts: ClassVar[bool] = True
    compiles_on_device: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """What is missing for a device with TensorRT, and for a host that proves without one."""
        device, host = _lacking(_ON_DEVICE), _lacking(_ON_HOST)
        if not device or not host:
            return None
        return (
            f"a device lacks {', '.join(device)}, and a host {', '.join(host)}; "
            f"TensorRT comes with JetPack, the rest with {self.install}"
        )

    def version(self) -> str:
        """TensorRT's; on a host, the one that artifacts are written for and what proves them."""
        if not _lacking(_ON_DEVICE):
            return str(_tensorrt().__version__)
        from edgesdk_backends.tensorrt.preflight import library

        return f"{OLDEST}+rtx.{library().__version__}"

    def rejects(self, recipe: Recipe) -> str | None:
        """Besides the float type: what TensorRT's explicit quantization does not have."""
        return super().rejects(recipe) or rules.against(recipe)

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Write ONNX that obeys TensorRT's rules; onnxruntime proves that it still is a model.

        Raises:
            StepFailed: open shapes, a type that TensorRT does not take or give, or quantizers that
                it does not know.
            ModelError: the file is damaged.
        """
        from edgesdk_backends.tensorrt.simulated import SimulatedSession

        artifact = keep_onnx(model, out)
        with SimulatedSession(artifact, OpenOptions()) as session:
            _check_ends(session)
        if recipe.mode != "float":
            _rewrite(artifact, recipe)
            SimulatedSession(artifact, OpenOptions()).close()
        return artifact

    def compiles(self, target: Mapping[str, str]) -> bool:
        """For every GPU that the profile tells the compute capability of."""
        return _CAPABILITY in target

    def compile(
        self, artifact: Path, target: Mapping[str, str], out: Path, *, simulate: bool = False
    ) -> Compiled:
        """Prove here that an engine can be built, or build it on the device that this is.

        The program is the portable ONNX in both cases. An engine stays on the machine that built it,
        in its cache, where `open` finds it.

        Raises:
            StepFailed: the parser or builder refuses the model; names nodes and reasons.
            ProfileError: `compute_capability` is missing or unknown, or not that of the GPU here.
            BackendUnavailable: TensorRT, or TensorRT-RTX for the proof, is not installed.
        """
        from edgesdk_backends.tensorrt.preflight import parse_capability

        capability = target.get(_CAPABILITY)
        if capability is None:
            raise ProfileError(f"the target lacks {_CAPABILITY!r}, as in '8.7' for Jetson Orin")
        parse_capability(capability)
        program = _beside(artifact, out)
        return self._prove(program, capability) if simulate else _build_here(program, capability)

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load the engine that was built of an artifact on this machine; it is never built now.

        Raises:
            BackendUnavailable: there is none for this TensorRT, GPU and driver.
            StepFailed: it does not load.
        """
        self.check_options(options)
        if options.simulate:
            from edgesdk_backends.tensorrt.simulated import SimulatedSession

            return SimulatedSession(artifact, options)
        from edgesdk_backends.tensorrt.session import TensorRtSession

        trt = _tensorrt()
        if not artifact.is_file():
            raise StepFailed(f"there is no artifact {artifact}")
        origin = Origin(tensorrt=str(trt.__version__), gpu=find_gpu())
        return TensorRtSession(trt, find_engine(_shelf(), artifact, origin), options)

    def _prove(self, program: Path, capability: str) -> Compiled:
        from edgesdk_backends.tensorrt.preflight import prove

        try:
            return prove(program, capability)
        except ImportError as exc:
            raise BackendUnavailable(f"TensorRT-RTX is not there ({exc}); {self.install}") from exc


def find_engine(shelf: Shelf, artifact: Path, origin: Origin) -> Path:
    """The engine of an artifact for this machine.

    Raises:
        BackendUnavailable: none was built; says in what those that are there differ.
    """
    digest = artifact_hash(artifact)
    plan = shelf.find(digest, origin)
    if plan is None:
        there = "; ".join(f"one has {text}" for text in shelf.others(digest, origin))
        wanted = ", ".join(f"{name} {value}" for name, value in origin.facts.items())
        raise BackendUnavailable(
            f"no engine of this model for {wanted}{f' ({there})' if there else ''}; "
            "build it once on this machine: edgesdk install BUNDLE"
        )
    return plan


def _build_here(program: Path, capability: str) -> Compiled:
    from edgesdk_backends.tensorrt.building import build, to_stderr
    from edgesdk_backends.tensorrt.session import inspect, load_engine

    trt = _tensorrt()
    gpu = find_gpu()
    if gpu.capability != capability:
        raise ProfileError(
            f"the profile's target has compute_capability = {capability!r}, and the GPU here "
            f"({gpu.name}) {gpu.capability!r}; choose the profile of this device"
        )
    label = f"TensorRT {trt.__version__}"
    origin = Origin(tensorrt=str(trt.__version__), gpu=gpu)
    shelf, digest = _shelf(), artifact_hash(program)
    plan = shelf.find(digest, origin)
    if plan is not None:
        with suppress(StepFailed):  # damaged: it is built anew
            placement = inspect(trt, load_engine(trt, plan))
            notes = (f"an engine for {gpu.name} and {label} was there",)
            return Compiled(program=program, placement=placement, notes=notes)
    built = build(trt, program, label=label, timing=shelf.learned(origin), listen=to_stderr)
    shelf.learn(origin, built.timing)
    plan = shelf.keep(digest, origin, built.engine)
    made = f"an engine of {len(built.engine)} bytes for {gpu.name} in {built.seconds:.0f} s"
    return Compiled(
        program=program,
        placement=inspect(trt, load_engine(trt, plan)),
        notes=(f"{label} built {made}",),
    )


def _lacking(modules: Sequence[str]) -> list[str]:
    """Those of some modules that do not import here."""
    found = []
    for name in modules:
        try:
            import_module(name)
        except (ImportError, OSError):  # a native library that does not load may raise either
            found.append(name)
    return found


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as exc:
        raise BackendUnavailable(
            f"TensorRT does not import ({exc}); it comes with JetPack, for the Python that its "
            "module was made for"
        ) from exc
    return tensorrt


def _shelf() -> Shelf:
    return Shelf(root=default_root() / "tensorrt")


def _beside(artifact: Path, out: Path) -> Path:
    """The artifact with all files of its folder inside `out`."""
    if artifact.parent.resolve() != out.resolve():
        shutil.copytree(artifact.parent, out, dirs_exist_ok=True)
    return out / artifact.name


def _check_ends(session: Session) -> None:
    ends = (*session.inputs, *session.outputs)
    open_ends = [str(info) for info in session.inputs if not info.is_static]
    if open_ends:
        raise StepFailed(
            f"TensorRT plans an engine for fixed lengths, and open are {'; '.join(open_ends)}; "
            "give samples of one shape, or fix the shapes in the model"
        )
    foreign = [str(info) for info in ends if info.dtype not in _ENDS]
    if foreign:
        legal = ", ".join(sorted(_ENDS))
        raise StepFailed(f"TensorRT takes and gives {legal}, and not {'; '.join(foreign)}")


def _rewrite(artifact: Path, recipe: Recipe) -> None:
    """Apply TensorRT's rules to a quantized model, in its folder."""
    from edgesdk.compress import onnx_io

    proto = onnx_io.read_whole(artifact)
    for name in onnx_io.external_files(onnx_io.read_structure(artifact)):
        (artifact.parent / name).unlink(missing_ok=True)
    blocks.spread_blocks(proto)
    placing.place_quantizers(proto)
    proto = _raised(proto, recipe)
    if recipe.execution == "fp16":
        halving.halve(proto, artifact)
    else:
        onnx_io.write(proto, artifact)


def _raised(proto: onnx.ModelProto, recipe: Recipe) -> onnx.ModelProto:
    """The model in the opset that its quantizers need."""
    from onnx import version_converter

    from edgesdk.compress.onnx_io import opset_of

    needed = 0
    if recipe.execution == "fp16":
        needed = halving.OPSET
    if recipe.weight_bits == 4:
        needed = blocks.OPSET
    if opset_of(proto) >= needed:
        return proto
    raised: onnx.ModelProto = version_converter.convert_version(proto, needed)
    raised.ir_version = max(raised.ir_version, _IR_VERSIONS[needed])
    return raised
