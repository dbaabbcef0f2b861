"""What a device is given of edgesdk: its own sources and those of the adapters, as one folder.

The folder goes on the import path of a Python that has numpy and an engine. It holds only `.py`
files and the entry points by which adapters are found, so it fits any architecture.
"""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

from edgesdk import __version__
from edgesdk.backend import ENTRY_POINT_GROUP
from edgesdk.cache import Cache
from edgesdk.errors import DeviceError
from edgesdk.files import sha256_file, sha256_json

_ZIP = "payload.zip"
_TIME = (2020, 1, 1, 0, 0, 0)
_INFO = f"edgesdk-{__version__}.dist-info"


def payload_key() -> str:
    """Hash of everything that `write_payload` would write."""
    return sha256_json(
        [[str(place), sha256_file(file)] for place, file in _sources()] + [_entry_text()]
    )


def write_payload(folder: Path) -> None:
    """Copy the sources into a new or empty folder.

    Raises:
        DeviceError: a package is not on the disk as plain files.
    """
    for place, file in _sources():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / place)
    info = folder / _INFO
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: edgesdk\nVersion: {__version__}\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(_entry_text(), encoding="utf-8")


def payload_zip(cache: Cache) -> Path:
    """The same as one zip file, from which Python imports as from a folder."""

    def build(folder: Path) -> None:
        write_payload(folder / "payload")
        pack_folder(folder / "payload", folder / _ZIP)
        shutil.rmtree(folder / "payload")

    return cache.folder(cache.key("payload-zip", sources=payload_key()), build) / _ZIP


def pack_folder(folder: Path, target: Path) -> None:
    """A zip file of all files in a folder; equal contents are an equal file."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(str(file.relative_to(folder)), _TIME)
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 6)


def _sources() -> list[tuple[Path, Path]]:
    """Each source file with its place in the folder, sorted by place."""
    found = []
    for package in ("edgesdk", *sorted(_adapter_packages())):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DeviceError(
                f"package {package} is not there as plain files, so no device can be given it; "
                "install it from a wheel"
            )
        root = Path(next(iter(spec.submodule_search_locations)))
        found += [(package / file.relative_to(root), file) for file in root.rglob("*.py")]
    return sorted(found)


def _adapter_packages() -> set[str]:
    return {entry.module.partition(".")[0] for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _entry_text() -> str:
    lines = sorted(
        f"{entry.name} = {entry.value}" for entry in entry_points(group=ENTRY_POINT_GROUP)
    )
    return "\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""])
