"""Writing a bundle: whole or not at all, and the same contents give the same bytes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from edgesdk.bundle.golden import GoldenSample, tolerance, write_golden
from edgesdk.bundle.manifest import (
    FORMAT,
    ComponentEntry,
    Engine,
    Figure,
    FileEntry,
    Golden,
    Identity,
    Manifest,
    Port,
    Quality,
    to_json,
)
from edgesdk.bundle.paths import MANIFEST, MANIFEST_SHA256, path_problem
from edgesdk.bundle.read import digest_line, parse_manifest
from edgesdk.bundle.verify import verify
from edgesdk.errors import BundleError, OutputError
from edgesdk.files import new_folder
from edgesdk.recipe import Recipe
from edgesdk.signature import Dim, TensorInfo
from edgesdk.structural import Structure, form_name
from edgesdk.wiring import Loop, Origin, Stage, TensorSource, Wiring

_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time a zip can say: a real one would make equal bundles differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledComponent:
    """One component as it is to be shipped.

    Attributes:
        original_sha256: digest of the ONNX file it was made from.
        engine: the backend's name, its version when proven, and the oldest that will do.
        artifact: the file that the engine opens, anywhere below `folder`.
        folder: holds the artifact's files and nothing else.
        inputs: what it takes, each with what it is given.
        kept: names of nodes that the recipe spared.
        structure: steps that came before the recipe.
        unit: the unit that the profile wants it to run on.
        target: what the engine's compiler is told of the device; empty where nothing is compiled.
    """

    name: str
    original_sha256: str
    recipe: Recipe
    engine: Engine
    artifact: Path
    folder: Path
    threads: int
    inputs: tuple[tuple[TensorInfo, Origin], ...]
    outputs: tuple[TensorInfo, ...]
    kept: tuple[str, ...] = ()
    structure: Structure = ()
    unit: str = ""
    target: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleContents:
    """Everything that goes into a bundle.

    Attributes:
        golden: recorded runs; may be empty, then `self_test` has nothing to compare.
        tolerance: largest healthy deviation per output; derived from `golden` where absent.
        created: `2026-11-21T22:00:00Z`; empty for now.
        loops: components that run again and again.
        processing: steps that the app itself does.
        order: names of components and processing steps as they run; empty for the components' order.
    """

    model: Identity
    profile: Identity
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    components: tuple[BundledComponent, ...]
    quality: Quality
    golden: tuple[GoldenSample, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[Figure, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    samples_fingerprint: str = ""
    created: str = ""
    loops: tuple[Loop, ...] = ()
    processing: tuple[Stage, ...] = ()
    order: tuple[str, ...] = ()


def single_model(
    component: BundledComponent,
    *,
    original_inputs: tuple[tuple[Dim, ...], ...] | None = None,
    original_outputs: tuple[tuple[Dim, ...], ...] | None = None,
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a pipeline that is one component, shapes before fixing where given."""
    given = original_inputs or tuple(info.shape for info, _ in component.inputs)
    gives = original_outputs or tuple(info.shape for info in component.outputs)
    inputs = tuple(
        Port(info=info, original_shape=shape)
        for (info, _), shape in zip(component.inputs, given, strict=True)
    )
    outputs = tuple(
        Port(
            info=info,
            original_shape=shape,
            source=TensorSource(component=component.name, tensor=info.name),
        )
        for info, shape in zip(component.outputs, gives, strict=True)
    )
    return inputs, outputs


def wired_ports(
    deployed: Wiring, original: Wiring | None = None
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a pipeline, shapes before fixing from the original wiring where given."""
    before = original or deployed
    shapes = {port.info.name: port.info.shape for port in before.inputs}
    made = {port.info.name: port.info.shape for port in before.outputs}
    inputs = tuple(
        Port(
            info=port.info,
            original_shape=shapes.get(port.info.name, port.info.shape),
            modality=port.modality,
            optional=port.optional,
            fill=port.fill,
        )
        for port in deployed.inputs
    )
    outputs = tuple(
        Port(
            info=port.info,
            original_shape=made.get(port.info.name, port.info.shape),
            source=port.source,
            optional=port.optional,
        )
        for port in deployed.outputs
    )
    return inputs, outputs


def write_bundle(contents: BundleContents, out: Path) -> Manifest:
    """Write a bundle to the new folder `out` and read it back.

    Raises:
        BundleError: the contents contradict each other, or a file's name is not portable.
        OutputError: `out` is taken, not writable or full; nothing is left behind.
    """
    with new_folder(out) as folder:
        entries = [_copy_artifact(component, folder) for component in contents.components]
        golden = _write_golden(contents, folder)
        manifest = Manifest(
            format=FORMAT,
            edgesdk=version("edgesdk"),
            created=contents.created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model=contents.model,
            profile=contents.profile,
            samples_fingerprint=contents.samples_fingerprint,
            inputs=contents.inputs,
            outputs=contents.outputs,
            components=tuple(entry for entry, _ in entries),
            golden=golden,
            measured=contents.measured,
            quality=contents.quality,
            environment=contents.environment,
            files=_files(entries, golden, folder),
            loops=contents.loops,
            processing=contents.processing,
            order=contents.order,
        )
        data = _manifest_bytes(manifest)
        (folder / MANIFEST).write_bytes(data)
        (folder / MANIFEST_SHA256).write_bytes(digest_line(data))
        verify(folder)
        return parse_manifest(data)


def _manifest_bytes(manifest: Manifest) -> bytes:
    try:
        text = json.dumps(to_json(manifest), indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")
    except ValueError as exc:
        raise BundleError(
            f"{MANIFEST} cannot hold what it was given (NaN, broken Unicode): {exc}"
        ) from exc


def _copy_artifact(
    component: BundledComponent, folder: Path
) -> tuple[ComponentEntry, list[FileEntry]]:
    sources = sorted(file for file in component.folder.rglob("*") if file.is_file())
    if component.artifact not in sources:
        raise BundleError(f"{component.artifact} is no file below {component.folder}")
    prefix = f"components/{component.name}/"
    paths = {file: prefix + file.relative_to(component.folder).as_posix() for file in sources}
    copied = [_copy(file, folder, path) for file, path in paths.items()]
    entry = ComponentEntry(
        name=component.name,
        original_sha256=component.original_sha256,
        recipe=form_name(component.structure, component.recipe),
        settings=_settings(component),
        engine=component.engine,
        main=paths[component.artifact],
        files=tuple(paths.values()),
        execution=component.recipe.execution,
        threads=component.threads,
        inputs=component.inputs,
        outputs=component.outputs,
        kept=component.kept,
        unit=component.unit,
        target=component.target,
    )
    return entry, copied


def _settings(component: BundledComponent) -> dict[str, str | int | bool | None]:
    """What the recipe's name decodes to; the names of structural steps where there are any."""
    steps = "+".join(step.name for step in component.structure)
    return {**asdict(component.recipe), **({"structure": steps} if steps else {})}


def _copy(source: Path, folder: Path, path: str) -> FileEntry:
    """Copy and digest in one pass, so that what is recorded is what was written."""
    problem = path_problem(path)
    if problem:
        raise BundleError(f"{source} cannot be in a bundle: {path!r} {problem}")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while piece := reader.read(_CHUNK):
            digest.update(piece)
            writer.write(piece)
            size += len(piece)
    return FileEntry(path=path, bytes=size, sha256=digest.hexdigest())


def _write_golden(contents: BundleContents, folder: Path) -> Golden:
    inputs = [port.info.name for port in contents.inputs]
    outputs = [port.info.name for port in contents.outputs]
    optional = frozenset(p.info.name for p in (*contents.inputs, *contents.outputs) if p.optional)
    names = []
    for index, sample in enumerate(contents.golden):
        name = f"golden/{index:04d}.npz"
        (folder / "golden").mkdir(exist_ok=True)
        write_golden(folder / name, sample, inputs, outputs, optional)
        names.append(name)
    healthy = {
        name: contents.tolerance[name]
        if name in contents.tolerance
        else tolerance(contents.golden, name)
        for name in outputs
    }
    return Golden(samples=tuple(names), tolerance=healthy)


def _files(
    entries: list[tuple[ComponentEntry, list[FileEntry]]], golden: Golden, folder: Path
) -> tuple[FileEntry, ...]:
    files = [file for _, copied in entries for file in copied]
    for name in golden.samples:
        data = (folder / name).read_bytes()
        files.append(FileEntry(path=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    return tuple(sorted(files, key=lambda file: file.path))


def zip_bundle(folder: Path, file: Path) -> None:
    """Pack a verified bundle into a zip; the same bundle gives the same bytes.

    Raises:
        BundleError: the folder is no healthy bundle.
        OutputError: the file exists or cannot be written; nothing is left behind.
    """
    verify(folder)
    if file.exists():
        raise OutputError(f"{file} exists; choose another name or remove it")
    names = sorted(
        item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file()
    )
    # The manifest comes first: a reader of a stream sees it before the weights.
    names.sort(key=lambda name: name not in (MANIFEST, MANIFEST_SHA256))
    part = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name in names:
                info = zipfile.ZipInfo(name, _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.create_system = 3
                info.external_attr = 0o100644 << 16
                info.file_size = (folder / name).stat().st_size
                with (folder / name).open("rb") as reader, archive.open(info, "w") as writer:
                    while piece := reader.read(_CHUNK):
                        writer.write(piece)
        part.replace(file)
    except OSError as exc:
        raise OutputError(f"{file} cannot be written: {exc.strerror}; nothing was kept") from exc
    finally:
        part.unlink(missing_ok=True)
