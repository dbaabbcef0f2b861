"""Load a bundle and run it, whole or step by step.

Everything but the standard library's basics is imported on use: an app that starts this module has
not paid for reading bundles yet, let alone for numpy or an engine.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgesdk.errors import BackendUnavailable, BundleError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgesdk.backend import Backend
    from edgesdk.backend import Session as EngineSession
    from edgesdk.bundle.manifest import ComponentEntry, Manifest
    from edgesdk.executor.run import Executor, Stream
    from edgesdk.runtime.selftest import SelfTest
    from edgesdk.signature import TensorInfo

    Array = NDArray[np.generic]
    Processing = Mapping[str, Callable[[Mapping[str, Array]], Any]]
    """Steps of the app by name: arrays by name in, arrays by name out."""


class Session:
    """A loaded bundle; a context manager. One thread at a time may call `run`.

    Attributes:
        manifest: what the bundle says about itself.
        inputs, outputs: what `run` takes and gives.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        engines: tuple[EngineSession, ...],
        held: ExitStack,
        processing: Processing | None = None,
    ) -> None:
        from edgesdk.backend import FeedCheck

        self.manifest = manifest
        self.inputs: tuple[TensorInfo, ...] = tuple(port.info for port in manifest.inputs)
        self.outputs: tuple[TensorInfo, ...] = tuple(port.info for port in manifest.outputs)
        self._folder = folder
        # A finalizer, so that unpacked files also go when the session is dropped without `close`.
        self._release = weakref.finalize(self, held.close)
        self._check = FeedCheck(self.inputs)
        self._direct = engines[0] if _is_direct(manifest) else None
        self._executor: Executor | None = None
        if self._direct is None:
            self._executor = _executor_of(manifest, engines, processing or {})

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name for one set of inputs.

        Raises:
            InputError: a name, dtype or shape does not fit `inputs`, or the session is closed.
        """
        if self._direct is not None:
            self._check(feed)
            return self._direct.run(feed)
        return self._wired().run(feed)

    def stream(
        self, feed: Mapping[str, Array], more: Iterable[Mapping[str, Array]] | None = None
    ) -> Stream:
        """The steps of a bundle with loops one by one, each computed when it is asked for.

        Args:
            feed: as for `run`; with `more`, inputs that a loop takes piece by piece may be left out.
            more: further pieces of these inputs, as they come: frames of a microphone, say.

        Returns:
            Iterable of `edgesdk.executor.run.Step`; its `outputs` are there after the last step.

        Raises:
            InputError: as `run`, there or while it goes on; or the bundle has no loop.
        """
        if self._direct is not None:
            raise InputError("this bundle is one model without a loop, so it has no steps; use run")
        return self._wired().stream(feed, more)

    def _wired(self) -> Executor:
        if self._executor is None:
            raise InputError("the session is closed; load the bundle again")
        return self._executor

    def self_test(self) -> SelfTest:
        """Run the golden samples and compare with what was recorded; raises nothing on deviation.

        Raises:
            BundleError: a golden sample cannot be read; never after a load with `verify`.
        """
        from edgesdk.bundle.golden import read_golden
        from edgesdk.runtime.selftest import OutputCheck, SelfTest

        golden = self.manifest.golden
        inputs = [info.name for info in self.inputs]
        outputs = [info.name for info in self.outputs]
        ports = (*self.manifest.inputs, *self.manifest.outputs)
        optional = {port.info.name for port in ports if port.optional}
        checks = []
        for name in golden.samples:
            sample = read_golden(self._folder / name, inputs, outputs, optional)
            got = self.run(sample.inputs)
            checks += [
                OutputCheck(
                    sample=name,
                    output=output,
                    deviation=_apart(got.get(output), sample.expected.get(output)),
                    tolerance=golden.tolerance[output],
                    from_reference=_apart(got.get(output), sample.reference.get(output)),
                )
                for output in outputs
                if output in got or output in sample.expected
            ]
        return SelfTest(checks=tuple(checks))

    def close(self) -> None:
        """Give back the engine's memory and the unpacked files. Calling it twice is harmless."""
        self._direct = self._executor = None
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify: bool = True,
    backend: str | None = None,
    simulate: bool = False,
    processing: Processing | None = None,
) -> Session:
    """Load a bundle, a folder or a zip of it, ready to run.

    Args:
        path: the bundle. A zip is unpacked into a private folder that goes with the session.
        threads: threads inside one run; None for what the bundle was measured with.
        verify: compare every file with the manifest first. Without it a folder's files are opened
            unread, which saves one pass over the weights; a zip is always verified while unpacking.
        backend: run the artifacts on another backend that opens the same kind of file.
        simulate: compute here what the unit of the bundle's device would; see the backend's docs for
            how close that comes.
        processing: for a bundle whose pipeline has steps that the app does itself, these functions by
            name; each takes a dict of arrays and returns one. No code is ever read from a bundle.

    Raises:
        BundleError: damaged, incomplete, or of a newer format.
        BackendUnavailable: the engine is not installed or older than the bundle needs.
        InputError: `threads` below 1; a processing step is missing, or the bundle has none of that name.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads={threads}; must be at least 1")
    place = Path(path)
    held = ExitStack()
    try:
        folder, manifest = _opened(place, verify, held)
        _check_processing(manifest, processing or {})
        engines = tuple(
            _open_component(component, folder, threads, backend, held, simulate=simulate)
            for component in manifest.components
        )
    except BaseException:
        held.close()
        raise
    return Session(manifest, folder, engines, held, processing)


def _check_processing(manifest: Manifest, processing: Processing) -> None:
    wanted = [step.name for step in manifest.processing]
    for step in manifest.processing:
        if step.name not in processing:
            takes = ", ".join(str(info) for info, _ in step.inputs)
            gives = ", ".join(map(str, step.outputs))
            raise InputError(
                f"this bundle leaves step {step.name!r} to the app: it makes {gives} of {takes}; load "
                f"it with processing={{{step.name!r}: function}}"
            )
    for name in processing:
        if name not in wanted:
            raise InputError(f"the bundle has no processing step {name!r}; it has: {wanted}")


def _executor_of(
    manifest: Manifest, engines: tuple[EngineSession, ...], processing: Processing
) -> Executor:
    from edgesdk.executor.app import checked_step
    from edgesdk.executor.run import Executor

    runs = {
        component.name: engine.run
        for component, engine in zip(manifest.components, engines, strict=True)
    }
    steps = {step.name: checked_step(step, processing[step.name]) for step in manifest.processing}
    return Executor(manifest.wiring, {**runs, **steps})


def _apart(got: Array | None, want: Array | None) -> float:
    """How far apart they are; infinitely where only one of them is there."""
    from edgesdk.bundle.golden import deviation

    return float("inf") if got is None or want is None else deviation(got, want)


def _opened(path: Path, verify: bool, held: ExitStack) -> tuple[Path, Manifest]:
    """The folder with the files, and the manifest."""
    from edgesdk.bundle.read import read_manifest
    from edgesdk.bundle.verify import unpack
    from edgesdk.bundle.verify import verify as verify_bundle

    if path.is_file():
        import shutil
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="edgesdk-bundle-"))
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder, unpack(path, folder)
    if verify:
        verify_bundle(path)
    return path, read_manifest(path)


def _open_component(
    component: ComponentEntry,
    folder: Path,
    threads: int | None,
    backend: str | None,
    held: ExitStack,
    *,
    simulate: bool,
) -> EngineSession:
    from edgesdk.backend import OpenOptions, require_backend

    engine = require_backend(backend or component.engine.name)
    if backend is None:
        _check_version(engine, component)
    artifact = folder / component.main
    if not artifact.is_file():
        raise BundleError(f"{artifact} is missing; load with verify=True to see all that is")
    options = OpenOptions(
        threads=threads or component.threads, execution=component.execution, simulate=simulate
    )
    return held.enter_context(engine.open(artifact, options))


def _check_version(engine: Backend, component: ComponentEntry) -> None:
    have, need = engine.version(), component.engine.minimum
    if _numbers(have) < _numbers(need):
        raise BackendUnavailable(
            f"component {component.name!r} needs {engine.name} {need} or newer, proven with "
            f"{component.engine.tested}; installed: {have}; {engine.install}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2026.4.1-22982` gives (2026, 4, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _is_direct(manifest: Manifest) -> bool:
    """True when the pipeline's inputs and outputs are those of its one component by name."""
    from edgesdk.wiring import TensorSource

    if len(manifest.components) != 1 or manifest.features:
        return False
    (component,) = manifest.components
    return (
        all(
            isinstance(source, TensorSource) and source.tensor == info.name
            for info, source in component.inputs
        )
        and all(p.source is not None and p.source.tensor == p.info.name for p in manifest.outputs)
        and len(component.inputs) == len(manifest.inputs)
        and len(component.outputs) == len(manifest.outputs)
    )
