"""The files that another machine sent, kept by their hash, and the requests that name them.

FOLDER/files/SHA256    what was sent, whole: a file is there when its hash was right
FOLDER/tree/…          the same files by the names that requests use, as links
FOLDER/steps/…         folders of steps, until their files were fetched
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgesdk.errors import DeviceError
from edgesdk.files import sha256_file
from edgesdk.samples import SampleSet

_MARGIN_BYTES = 32 << 20
"""Of free space, which steps need for what they write."""


class Shelf:
    """One folder of such files. Whoever uses it makes sure to be the only one.

    Attributes:
        steps: where steps may have their folders.
    """

    def __init__(self, folder: Path) -> None:
        """Use `folder`; see `tidy`."""
        self._folder = folder
        self._files, self._tree, self.steps = (folder / n for n in ("files", "tree", "steps"))

    def tidy(self) -> None:
        """Make it ready: remove what somebody who was killed left half done."""
        for stale in (self._tree, self.steps):
            shutil.rmtree(stale, ignore_errors=True)
        self._files.mkdir(parents=True, exist_ok=True)
        for part in self._files.glob("*.part"):
            part.unlink()

    def place(self, files: Mapping[str, str]) -> list[str]:
        """Have files under the names that a request uses.

        Args:
            files: from names to hashes.

        Returns:
            The hashes of those that have to be put here first.
        """
        missing = []
        for name, sha256 in files.items():
            held, target = self._files / sha256, self.named(name)
            if not held.is_file():
                missing.append(sha256)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(held, target)
        return missing

    def put(
        self, body: bytes, *, sha256: str, size: int, offset: int, sender: str = "agent"
    ) -> None:
        """Take a piece of a file; the last one is checked and renamed.

        Args:
            body: the piece.
            sha256: of the whole file.
            size: of the whole file.
            offset: where in it the piece is; pieces come in order.
            sender: keeps the same file apart that somebody else is sending at the same time.

        Raises:
            DeviceError: no room, a piece out of order, or another hash than was said.
        """
        held, part = self._files / sha256, self._files / f"{sha256}.{sender}.part"
        if held.is_file():
            return
        if offset == 0:
            part.unlink(missing_ok=True)
            self._check_space(size)
        if (part.stat().st_size if part.exists() else 0) != offset:
            raise DeviceError(f"a piece of {sha256} came out of order at {offset}")
        try:
            with part.open("ab") as stream:
                stream.write(body)
        except OSError as exc:
            part.unlink(missing_ok=True)
            raise DeviceError(f"the device cannot keep a file: {exc.strerror}") from exc
        if offset + len(body) == size:
            found = sha256_file(part)
            if found != sha256:
                part.unlink()
                raise DeviceError(f"a file of {size:,} bytes came damaged: {found}, not {sha256}")
            part.rename(held)

    def keep(self, files: Iterable[Path]) -> list[tuple[Path, str]]:
        """Keep files that were made here, as later requests may read them; with their hashes."""
        found = []
        for file in files:
            sha256 = sha256_file(file)
            if not (self._files / sha256).exists():
                os.link(file, self._files / sha256)
            found.append((file, sha256))
        return found

    def mapped(self, value: Any) -> Any:
        """A request of `edgesdk.device.requests.placed`, with the files that lie here."""
        if isinstance(value, dict):
            if value.keys() == {"placed"}:
                return self.named(value["placed"])
            items = {key: self.mapped(item) for key, item in value.items()}
            return SampleSet.from_json(items) if items.keys() == {"folder", "rows"} else items
        if isinstance(value, list):
            return [self.mapped(item) for item in value]
        return value

    def named(self, name: str) -> Path:
        """Where a file of that name is placed.

        Raises:
            DeviceError: outside of the folder.
        """
        place = (self._tree / name.lstrip("/")).resolve()
        if not place.is_relative_to(self._tree.resolve()):
            raise DeviceError(f"{name!r} lies outside of the agent's folder")
        return place

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if size + _MARGIN_BYTES > free:
            raise DeviceError(
                f"the device's disk is full: a file of {size / 1e6:,.1f} MB, and "
                f"{_MARGIN_BYTES / 1e6:,.0f} MB to work, do not fit into the "
                f"{free / 1e6:,.1f} MB free in {self._folder}"
            )
