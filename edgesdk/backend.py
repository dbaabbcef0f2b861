"""The adapter contract: what an engine must offer to be a backend, and how backends are found.

An adapter turns ONNX into its engine's artifact and opens it. Everything else (timing, quality,
policy, caching, isolation, reports) belongs to the core and is the same for all of them. A third
party registers its adapter under the entry point group `edgesdk.backends`, exactly as the built-in
ones do; `edgesdk.testing.BackendConformance` states what it must keep.

This module imports no engine and no third-party library: a device app loads it.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edgesdk.errors import BackendUnavailable, SamplesError
from edgesdk.evidence import Evidence
from edgesdk.signature import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.recipe import Recipe

    Array = NDArray[np.generic]
else:
    # So that adapters can import the name while this module does without numpy.
    Array = Any

ENTRY_POINT_GROUP = "edgesdk.backends"
PIPELINE = "pipeline"
"""What opens a whole pipeline whose components run on other backends; not to be chosen for a model."""
_OWN = EntryPoint(
    name=PIPELINE, value="edgesdk.assembled:AssembledBackend", group=ENTRY_POINT_GROUP
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How a session is to run.

    Attributes:
        threads: threads inside one run; at least 1.
        execution: `fp32`, `bf16` or `fp16`: the type in which float operations run. An adapter sets
            it explicitly, because engines have defaults of their own (OpenVINO takes bf16 on AMX).
        profiling: collect per-operation times for `Session.node_times`; slower, never when timing.
        simulate: compute here, as closely as this machine can, what the unit of the device would; only
            asked of a backend that states its `simulation`.
    """

    threads: int = 1
    execution: str = "fp32"
    profiling: bool = False
    simulate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlacement:
    """Where one executed node ran, read back from the runtime.

    Attributes:
        node: the engine's name of the executed (possibly fused) node.
        op: its operation.
        unit: the profile's word for the unit: `cpu`, `gpu`, `npu`.
        provider: the engine's own word (`CPUExecutionProvider`, `brgconv_avx512_amx_I8`, …).
        precision: the type it computes in, as the engine tells: `fp32`, `int8`, …; empty if untold.
        origin: names of the ONNX nodes it stands for, as far as the engine tells.
        why: why it is not on the unit that was asked for, in the engine's words.
    """

    node: str
    op: str
    unit: str
    provider: str = ""
    precision: str = ""
    origin: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What an engine's ahead-of-time compiler made of an artifact for one device.

    Attributes:
        program: the file that is opened and shipped instead of the artifact, inside the folder that
            was asked for.
        placement: where the compiler puts each node, as far as it tells.
        estimate_ms: what the compiler states as the time of a run; None where it states none.
        cycles: the same in cycles of the unit.
        memory_bytes: what it states as working memory (activations) of a run.
        aside: files beside the program that the device does not need (what simulating it takes); they
            do not count as its size.
        notes: what the user should know, in sentences.
    """

    program: Path
    placement: tuple[NodePlacement, ...] = ()
    estimate_ms: float | None = None
    cycles: int | None = None
    memory_bytes: int | None = None
    aside: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """Time spent in one executed node, averaged over the profiled runs; milliseconds a run."""

    node: str
    op: str
    ms: float
    unit: str = "cpu"
    provider: str = ""


class Session(ABC):
    """An opened artifact. A context manager; `run` may be called any number of times."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @abstractmethod
    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name for one set of inputs. The arrays belong to the caller."""

    def placement(self) -> tuple[NodePlacement, ...]:
        """Where each node runs; empty when the engine cannot tell."""
        return ()

    def node_times(self) -> tuple[NodeTime, ...]:
        """Mean time per node over the runs so far; empty unless opened with `profiling`."""
        return ()

    def close(self) -> None:
        """Give back what the engine holds. Calling it twice is harmless."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FeedCheck:
    """Refuses a feed that does not fit a session's inputs, in about half a microsecond an input.

    Engines differ in what they do with a wrong dtype or name: one raises, one casts in silence.
    Behind this all sessions refuse alike, and before native code sees the arrays.
    """

    def __init__(
        self, inputs: Sequence[TensorInfo], optional: Collection[str] = frozenset()
    ) -> None:
        """Work out beforehand what every run compares.

        Args:
            inputs: what may be fed.
            optional: names of those that may be left out.

        Raises:
            SamplesError: an input has a type that numpy cannot hold.
        """
        import numpy as np

        self._inputs = tuple(inputs)
        self._optional = frozenset(optional)
        self._ndarray = np.ndarray
        self._wanted: list[tuple[str, np.dtype[np.generic], int, tuple[tuple[int, int], ...]]] = []
        for info in inputs:
            try:
                dtype = np.dtype(info.dtype)
            except TypeError as exc:
                raise SamplesError(f"input {info}: numpy has no such type") from exc
            fixed = [(axis, dim) for axis, dim in enumerate(info.shape) if isinstance(dim, int)]
            self._wanted.append((info.name, dtype, len(info.shape), tuple(fixed)))

    def __call__(self, feed: Mapping[str, Array]) -> None:
        """Do nothing when the feed fits.

        Raises:
            SamplesError: a missing or unknown name, no numpy array, a wrong dtype or shape; the
                message has what was seen and what is expected.
        """
        left_out = 0
        for name, dtype, rank, fixed in self._wanted:
            array = feed.get(name)
            if array is None and name in self._optional:
                left_out += 1
                continue
            if not isinstance(array, self._ndarray) or array.dtype != dtype:
                raise SamplesError(self._explain(feed))
            shape = array.shape
            if len(shape) != rank:
                raise SamplesError(self._explain(feed))
            for axis, dim in fixed:
                if shape[axis] != dim:
                    raise SamplesError(self._explain(feed))
        if len(feed) + left_out != len(self._wanted):
            raise SamplesError(self._explain(feed))

    def _explain(self, feed: Mapping[str, Array]) -> str:
        legal = "; ".join(map(str, self._inputs))
        for info in self._inputs:
            if info.name not in feed:
                if info.name in self._optional:
                    continue
                return f"input {info.name!r} is missing; the model takes {legal}"
            value: Any = feed[info.name]
            if not isinstance(value, self._ndarray):
                kind = type(value).__name__
                return f"input {info.name!r} is a {kind}, expected a numpy array: {info}"
            mismatch = info.mismatch(value.dtype.name, value.shape)
            if mismatch:
                return f"input {mismatch}"
            if not value.dtype.isnative:
                return f"input {info.name!r} is in foreign byte order; expected {info}"
        unknown = ", ".join(sorted(set(feed) - {info.name for info in self._inputs}))
        return f"no input named {unknown}; the model takes {legal}"


class Backend(ABC):
    """An engine behind three verbs. Stateless: one instance serves any number of models."""

    name: ClassVar[str]
    """As in profiles, candidates and manifests; equal to the entry point's name."""
    install: ClassVar[str]
    """The line that installs the engine, for messages."""
    distributions: ClassVar[tuple[str, ...]] = ()
    """Names on the package index of what opening an artifact needs beside numpy."""
    executions: ClassVar[frozenset[str]] = frozenset({"fp32"})
    """The float types it can be told to execute in; the profile says which the device has."""
    typed_artifacts: ClassVar[bool] = False
    """The float type is part of the artifact: `convert` is told the recipe's, else always float32."""
    simulation: ClassVar[Evidence | None] = None
    """What outputs are that come of `OpenOptions.simulate`; None where it cannot simulate its unit."""
    compiles_on_device: ClassVar[bool] = False
    """Its compiler runs on the device itself; otherwise on the machine that deploys."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why the engine cannot be used here, with the install line; None when it can."""

    @abstractmethod
    def version(self) -> str:
        """The engine's version. Only called when `unavailable()` is None."""

    @abstractmethod
    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        """Turn the compressed ONNX at `model` into this engine's artifact inside the folder `out`.

        The recipe has been applied to the graph already; it is passed for what the engine itself
        must know. Returns the file to `open`, inside `out`. Raises `StepFailed` or the engine's own
        error.
        """

    @abstractmethod
    def open(self, artifact: Path, options: OpenOptions) -> Session:
        """Load an artifact for running on this machine."""

    def quantizes(self, recipe: Recipe) -> bool:
        """Whether the engine applies this recipe itself, by `quantize`. Pure; loads no engine.

        The house rule is that a recipe is applied to ONNX before an engine sees it. An engine whose
        own format has another idea of quantization is the exception.
        """
        del recipe
        return False

    def quantize(
        self, artifact: Path, recipe: Recipe, out: Path, calibration: SampleSet | None
    ) -> Path:
        """Apply a recipe to the artifact that `convert` made of the float model.

        Only called where `quantizes` says so. `calibration` are real samples where the recipe needs
        them; `-smooth` is not in the recipe, because it was applied to the float model. Returns and
        raises as `convert`.
        """
        raise NotImplementedError(f"{self.name} does not apply {recipe} to {artifact} in {out}")

    def compiles(self, target: Mapping[str, str]) -> bool:
        """Whether artifacts are compiled for such a target before they are opened. Pure."""
        del target
        return False

    def compile(
        self, artifact: Path, target: Mapping[str, str], out: Path, *, simulate: bool = False
    ) -> Compiled:
        """Compile what `convert` or `quantize` wrote for one kind of device; only where it `compiles`.

        Args:
            artifact: the file that they returned.
            target: the `target` table of the profile's runtime, such as `{"htp_arch": "73"}`.
            out: a folder to write into.
            simulate: the device is not here; prove what can be proved without it.

        Raises:
            StepFailed: the compiler refuses the model; the message names the nodes and its reasons.
            ProfileError: the target lacks a key, or has a value that the compiler does not know.
        """
        raise NotImplementedError(f"{self.name} does not compile {artifact} for {target} in {out}")

    def rejects(self, recipe: Recipe) -> str | None:
        """Why this engine cannot run a recipe on any model, or None. Pure; loads no engine."""
        if recipe.execution not in self.executions:
            return f"{self.name} does not execute in {recipe.execution}"
        if recipe.qat and self.quantizes(recipe):
            return f"{self.name} quantizes its own format, which nothing here trains through"
        return None

    def check_options(self, options: OpenOptions) -> None:
        """Refuse what no machine could make this engine do; the first line of an adapter's `open`.

        Raises:
            BackendUnavailable: a float type that the engine has not, or less than one thread.
        """
        if options.execution not in self.executions:
            legal = ", ".join(sorted(self.executions))
            raise BackendUnavailable(
                f"{self.name} does not execute in {options.execution!r}; legal: {legal}"
            )
        if options.threads < 1:
            raise BackendUnavailable(f"{options.threads} threads asked of {self.name}; legal: 1 up")
        if options.simulate and self.simulation is None:
            raise BackendUnavailable(f"{self.name} cannot simulate its unit; it needs the device")


def keep_onnx(model: Path, out: Path) -> Path:
    """`convert` for an engine that reads ONNX itself: `model.onnx` and its data files in `out`.

    Raises:
        ModelError: the file or its external data is damaged, missing or outside its folder.
    """
    from edgesdk.onnxfile.open import open_onnx

    for name in open_onnx(model).external_files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.parent / name, out / name)
    return shutil.copyfile(model, out / "model.onnx")


def backend_names() -> tuple[str, ...]:
    """Names of all registered backends, sorted; loads none of them."""
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}))


def load_backend(name: str) -> Backend:
    """The backend of that name, whether or not its engine is installed.

    Raises:
        BackendUnavailable: no backend of that name is registered, or its adapter does not import.
    """
    known = (_OWN, *entry_points(group=ENTRY_POINT_GROUP))
    found = [entry for entry in known if entry.name == name]
    if not found:
        legal = ", ".join(backend_names()) or "none"
        raise BackendUnavailable(f"no backend named {name!r}; registered: {legal}")
    try:
        adapter: Any = found[0].load()
    except ImportError as exc:
        raise BackendUnavailable(f"backend {name!r} does not import: {exc}") from exc
    backend: Backend = adapter()
    return backend


def require_backend(name: str) -> Backend:
    """The backend of that name, ready for use.

    Raises:
        BackendUnavailable: unknown, or its engine is not usable here; says how to install it.
    """
    backend = load_backend(name)
    problem = backend.unavailable()
    if problem:
        raise BackendUnavailable(f"backend {name!r}: {problem}")
    return backend
