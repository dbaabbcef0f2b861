"""Nothing missing, nothing more, nothing changed: a bundle against its manifest. Stdlib only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgesdk.bundle.container import Container, open_container
from edgesdk.bundle.manifest import FileEntry, Manifest
from edgesdk.bundle.paths import RESERVED
from edgesdk.bundle.read import MANIFEST_LIMIT, manifest_of
from edgesdk.errors import BundleError, OutputError

_CHUNK = 1 << 20


def verify(path: Path) -> None:
    """Read every byte of a bundle, folder or zip, and compare it with the manifest.

    Raises:
        BundleError: a file is missing, unlisted, changed, of the wrong size, a link, out of the
            folder, twice in the zip, or the manifest is damaged; names the file or key.
    """
    with open_container(path) as container:
        _check(container, None)


def unpack(path: Path, into: Path) -> Manifest:
    """Unpack a zip bundle into a folder, verifying every byte on the way; the folder is one too.

    Raises:
        BundleError: as `verify`; what was unpacked so far is the caller's to remove.
        OutputError: not enough space.
    """
    with open_container(path) as container:
        import shutil

        need, free = sum(container.sizes.values()), shutil.disk_usage(into).free
        if need > free:
            raise OutputError(f"{path} needs {need} bytes in {into}; {free} are free")
        manifest = _check(container, into)
        for name in RESERVED:
            (into / name).write_bytes(container.read(name, MANIFEST_LIMIT))
        return manifest


def _check(container: Container, copy_to: Path | None) -> Manifest:
    manifest = manifest_of(container)
    listed = {file.path for file in manifest.files}
    found = set(container.sizes) - RESERVED
    if missing := sorted(listed - found):
        raise BundleError(f"{container.path}: missing: {_shown(missing)}")
    if extra := sorted(found - listed):
        raise BundleError(
            f"{container.path}: not in the manifest: {_shown(extra)}; a bundle has no other files"
        )
    for file in manifest.files:
        _check_file(container, file, copy_to)
    return manifest


def _shown(names: list[str]) -> str:
    """The first few; escaped, because a folder may hold names that no terminal can print."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(ascii(name) for name in names[:5]) + more


def _check_file(container: Container, file: FileEntry, copy_to: Path | None) -> None:
    size = container.sizes[file.path]
    if size != file.bytes:
        raise BundleError(
            f"{container.path}: {file.path} has {size} bytes, the manifest says {file.bytes}"
        )
    digest = hashlib.sha256()
    left = file.bytes
    sink = None
    try:
        if copy_to is not None:
            target = copy_to / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            sink = target.open("xb")
        with container.explained(file.path), container.open(file.path) as stream:
            while piece := stream.read(_CHUNK):
                left -= len(piece)
                digest.update(piece)
                if sink is not None:
                    sink.write(piece)
    finally:
        if sink is not None:
            sink.close()
    if left != 0 or digest.hexdigest() != file.sha256:
        raise BundleError(
            f"{container.path}: {file.path} was changed: its SHA-256 is not the manifest's"
        )
