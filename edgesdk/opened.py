"""A bundle or an ONNX file as something that a device can open."""

from __future__ import annotations

from pathlib import Path

from edgesdk.backend import require_backend
from edgesdk.bundle.manifest import Manifest
from edgesdk.bundle.paths import MANIFEST
from edgesdk.bundle.read import read_manifest
from edgesdk.bundle.verify import unpack, verify
from edgesdk.errors import BackendUnavailable, InputError
from edgesdk.measure.settings import Target
from edgesdk.model import Model, read_model
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo

Opened = tuple[Target, tuple[TensorInfo, ...], Manifest | Model]
"""What to run, its threads 0 for all that there are; the inputs it takes; what it came from."""


def is_bundle(path: Path) -> bool:
    """Whether a path is meant as a bundle: a folder, or a zip file."""
    return path.is_dir() or path.suffix == ".zip"


def open_target(
    path: Path,
    scratch: Path,
    *,
    backend: str = "onnxruntime",
    execution: str = "fp32",
    threads: int | None = None,
) -> Opened:
    """The artifact in a bundle, after checking its hashes, or an ONNX file converted for a backend.

    Args:
        path: a bundle (folder or zip) or an ONNX file.
        scratch: an empty or new folder.
        backend, execution: for an ONNX file; a bundle says its own.
        threads: None for what the bundle says, or all cores.

    Raises:
        InputError: neither a bundle nor an ONNX file.
        BundleError: the bundle is damaged.
        BackendUnavailable: the engine is not usable here, or does not execute so.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if is_bundle(path):
        return _bundled(path, scratch, threads)
    model = read_model(path)
    engine = require_backend(backend)
    if execution not in engine.executions:
        legal = ", ".join(sorted(engine.executions))
        raise BackendUnavailable(
            f"{backend} does not execute in {execution!r}; it does in: {legal}"
        )
    out = scratch / "artifact"
    out.mkdir()
    artifact = engine.convert(path.resolve(), Recipe(), out)
    target = Target(backend=backend, artifact=artifact, execution=execution, threads=threads or 0)
    return target, model.inputs, model


def _bundled(path: Path, scratch: Path, threads: int | None) -> Opened:
    folder = path.resolve()
    if path.is_file():
        folder = scratch / "bundle"
        folder.mkdir()
        unpack(path, folder)
    elif not (path / MANIFEST).is_file():
        raise InputError(
            f"{path} is no bundle: it has no {MANIFEST}; name a bundle or an ONNX file"
        )
    else:
        verify(path)
    manifest = read_manifest(folder)
    check_single(manifest)
    component = manifest.components[0]
    target = Target(
        backend=component.engine.name,
        artifact=folder / component.main,
        execution=component.execution,
        threads=threads or component.threads,
    )
    return target, tuple(info for info, _ in component.inputs), manifest


def check_single(manifest: Manifest) -> None:
    """Refuse a bundle of several components, of which no single one is the whole.

    Raises:
        InputError: names them.
    """
    if len(manifest.components) != 1 or manifest.features:
        names = ", ".join(component.name for component in manifest.components)
        raise InputError(
            f"this takes a bundle of one model; this one is a pipeline of: {names}. `edgesdk run` runs it"
        )
