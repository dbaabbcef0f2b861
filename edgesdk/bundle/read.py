"""From the bytes of `manifest.json` to a `Manifest`, believing nothing. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgesdk.bundle.container import Container, open_container
from edgesdk.bundle.fields import Field, parse_json
from edgesdk.bundle.manifest import (
    EXECUTIONS,
    FEATURES,
    FORMAT,
    VERDICTS,
    ComponentEntry,
    Engine,
    Figure,
    FileEntry,
    Golden,
    Identity,
    Manifest,
    Port,
    Quality,
)
from edgesdk.bundle.paths import LEGAL, MANIFEST, MANIFEST_SHA256, RESERVED, clash, path_problem
from edgesdk.bundle.wires import (
    NAME,
    read_fill,
    read_inputs,
    read_loop,
    read_shape,
    read_source,
    read_step,
    read_tensor,
)
from edgesdk.errors import BundleError, PipelineError
from edgesdk.evidence import Evidence
from edgesdk.wiring_checks import check_wiring

MANIFEST_LIMIT = 16 << 20
"""Bytes. A pipeline of 100 components with 100 files each needs about 3 MB."""


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle, folder or zip; does not look at the other files.

    Raises:
        BundleError: no bundle, damaged, or of a newer major format; names the key or file.
    """
    with open_container(path) as container:
        return manifest_of(container)


def manifest_of(container: Container) -> Manifest:
    """The manifest of an opened bundle, its digest checked."""
    for name in (MANIFEST, MANIFEST_SHA256):
        if name not in container.sizes:
            raise BundleError(
                f"{container.path}: no {name} at its top; not a bundle, or not all of one"
            )
    if container.sizes[MANIFEST] > MANIFEST_LIMIT:
        raise BundleError(
            f"{container.path}: {MANIFEST} has {container.sizes[MANIFEST]} bytes; "
            f"at most {MANIFEST_LIMIT}"
        )
    data = container.read(MANIFEST, MANIFEST_LIMIT)
    said = container.read(MANIFEST_SHA256, 256)
    if said != digest_line(data):
        raise BundleError(
            f"{container.path}: {MANIFEST} does not match {MANIFEST_SHA256}; one is damaged"
        )
    return parse_manifest(data)


def digest_line(manifest: bytes) -> bytes:
    """The content of `manifest.sha256`: one line in the form of the `sha256sum` tool."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def parse_manifest(data: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises:
        BundleError: names the key, the value seen and what is legal.
    """
    root = parse_json(data, MANIFEST)
    version = _format(root)
    components = tuple(_component(item) for item in root["components"].items())
    loops, steps, order = (root.get(key) for key in ("loops", "processing", "order"))
    manifest = Manifest(
        format=version,
        edgesdk=root["edgesdk"].text(),
        created=root["created"].match(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a UTC time such as 2026-11-21T22:00:00Z"
        ),
        model=_identity(root["model"]),
        profile=_identity(root["profile"]),
        samples_fingerprint=root["samples"]["fingerprint"].text(empty=True),
        inputs=tuple(_port(item, output=False) for item in root["inputs"].items()),
        outputs=tuple(_port(item, output=True) for item in root["outputs"].items()),
        components=components,
        golden=Golden(
            samples=tuple(_path(item) for item in root["golden"]["samples"].items()),
            tolerance={
                name: item.number(0.0) for name, item in root["golden"]["tolerance"].pairs()
            },
        ),
        measured=tuple(_figure(item) for item in root["measured"].items()),
        quality=_quality(root["quality"]),
        environment={name: item.text(empty=True) for name, item in root["environment"].pairs()},
        files=tuple(_file(item) for item in root["files"].items()),
        loops=tuple(read_loop(item) for item in loops.items()) if loops else (),
        processing=tuple(read_step(item) for item in steps.items()) if steps else (),
        order=tuple(item.text() for item in order.items()) if order else (),
        document=root.value,
    )
    _check_features(root, manifest)
    _check_wiring(manifest)
    _check_files(manifest)
    return manifest


def _format(root: Field) -> str:
    field = root["format"]
    version = field.match(r"\d{1,4}\.\d{1,4}", f"a version such as {FORMAT!r}")
    ours = FORMAT.split(".")[0]
    if version.split(".")[0] != ours:
        raise BundleError(
            f"the bundle has format {version}; this edgesdk reads {ours}.x: install one that "
            "reads it, or deploy again"
        )
    for feature in root["requires"].items():
        if feature.text() in FEATURES:
            continue
        raise BundleError(
            f"the bundle needs {feature.text()!r}, unknown to this edgesdk: install a newer one"
        )
    return version


def _identity(field: Field) -> Identity:
    return Identity(name=field["name"].text(), sha256=field["sha256"].sha256())


def _port(field: Field, *, output: bool) -> Port:
    modality, optional, fill = (field.get(key) for key in ("modality", "optional", "fill"))
    return Port(
        info=read_tensor(field),
        original_shape=read_shape(field["original_shape"]),
        source=read_source(field["from"]) if output else None,
        modality=modality.text() if modality else "",
        optional=optional.flag() if optional else False,
        fill=read_fill(fill) if fill and not output else None,
    )


def _component(field: Field) -> ComponentEntry:
    backend, artifact, recipe = field["backend"], field["artifact"], field["recipe"]
    kept, unit, target = recipe.get("kept"), field.get("unit"), field.get("target")
    return ComponentEntry(
        name=field["name"].match(NAME, "letters, digits, _ and -"),
        original_sha256=field["original_sha256"].sha256(),
        recipe=recipe["name"].text(),
        settings={name: _setting(item) for name, item in recipe["settings"].pairs()},
        engine=Engine(
            name=backend["name"].match(NAME, "letters, digits, _ and -"),
            tested=backend["tested"].text(),
            minimum=backend["minimum"].text(),
        ),
        main=_path(artifact["main"]),
        files=tuple(_path(item) for item in artifact["files"].items()),
        execution=field["execution"].one_of(EXECUTIONS),
        threads=field["threads"].integer(1),
        inputs=read_inputs(field["inputs"]),
        outputs=tuple(read_tensor(item) for item in field["outputs"].items()),
        kept=tuple(item.text() for item in kept.items()) if kept else (),
        unit=unit.text() if unit else "",
        target={name: item.text() for name, item in target.pairs()} if target else {},
    )


def _setting(field: Field) -> str | int | bool | None:
    value = field.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return field.integer()
    return field.text(empty=True)


def _figure(field: Field) -> Figure:
    return Figure(
        name=field["name"].text(),
        of=field["of"].text(empty=True),
        value=field["value"].number(),
        low=field["low"].number_or_none(),
        high=field["high"].number_or_none(),
        unit=field["unit"].text(empty=True),
        evidence=Evidence(field["evidence"].one_of([str(kind) for kind in Evidence])),
    )


def _quality(field: Field) -> Quality:
    return Quality(
        verdict=field["verdict"].one_of(VERDICTS),
        reason=field["reason"].text(empty=True),
        figures=tuple(_figure(item) for item in field["figures"].items()),
    )


def _path(field: Field) -> str:
    path = field.text()
    if path_problem(path) or path in RESERVED:
        raise field.wrong(f"{LEGAL}, and none of {', '.join(sorted(RESERVED))}")
    return path


def _file(field: Field) -> FileEntry:
    return FileEntry(
        path=_path(field["path"]),
        bytes=field["bytes"].integer(),
        sha256=field["sha256"].sha256(),
    )


def _check_wiring(manifest: Manifest) -> None:
    """Every tensor comes from somewhere that is there by then, and fits."""
    names = [component.name for component in manifest.components]
    names += [step.name for step in manifest.processing]
    order = list(manifest.order or [component.name for component in manifest.components])
    if len(set(names)) == len(names) and sorted(order) != sorted(names):
        raise BundleError(
            f"{MANIFEST}: order is {order}; must be all of {names}, each once, as they run"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BundleError(f"{MANIFEST}: two components are named {twice!r}")
    try:
        check_wiring(manifest.wiring)
    except PipelineError as exc:
        raise BundleError(f"{MANIFEST}: {exc}") from exc
    outputs = [port.info.name for port in manifest.outputs]
    if manifest.golden.samples and set(manifest.golden.tolerance) != set(outputs):
        raise BundleError(
            f"{MANIFEST}: golden.tolerance is for {sorted(manifest.golden.tolerance)}; "
            f"must be for the outputs: {sorted(outputs)}"
        )


def _check_features(root: Field, manifest: Manifest) -> None:
    """What a reader that does not know it would run wrongly has to be announced."""
    declared = {item.text() for item in root["requires"].items()}
    for feature in manifest.features:
        if feature not in declared:
            raise BundleError(
                f"{MANIFEST}: it uses {feature!r}, which requires does not name; it is "
                f"{sorted(declared)}"
            )


def _check_files(manifest: Manifest) -> None:
    listed = [file.path for file in manifest.files]
    twin = clash([*RESERVED, *listed])
    if twin is not None:
        raise BundleError(
            f"{MANIFEST}: file {twin!r} is listed twice, differs from another only in case, or is "
            "a folder of another"
        )
    needed = [(path, "golden.samples") for path in manifest.golden.samples]
    for component in manifest.components:
        where = f"the artifact of component {component.name!r}"
        needed += [(path, where) for path in component.files]
        if component.main not in component.files:
            raise BundleError(f"{MANIFEST}: {component.main!r} is not among the files of {where}")
    for path, where in needed:
        if path not in listed:
            raise BundleError(f"{MANIFEST}: {path!r} of {where} is not among files")
