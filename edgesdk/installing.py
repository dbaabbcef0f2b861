"""Making a bundle ready on the device that it is for: what has to be built there is built now.

Engines such as TensorRT's hold for one version, GPU and driver, so they cannot ship. They are built
once, before the app starts, never at its first inference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesdk.backend import require_backend
from edgesdk.bundle.manifest import ComponentEntry
from edgesdk.bundle.read import read_manifest
from edgesdk.bundle.verify import verify
from edgesdk.errors import BundleError
from edgesdk.runtime import load


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was done for a bundle.

    Attributes:
        built: by component, what its engine said; a component without anything to build is not there.
        works: the golden samples come out as recorded.
        detail: how far off they are.
    """

    built: Mapping[str, tuple[str, ...]]
    works: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)


def install_bundle(bundle: Path, *, threads: int | None = None) -> Installed:
    """Build on this machine what the bundle's engines need here, then run its golden samples.

    Doing it again is cheap: what was built for this machine is found.

    Args:
        bundle: a folder; where an app will load it from.
        threads: threads inside one run; None for what the bundle was measured with.

    Raises:
        BundleError: a zip, or damaged.
        BackendUnavailable: an engine is not usable here.
        ProfileError: this is another device than the bundle is for.
        StepFailed: an engine could not be built.
    """
    if not bundle.is_dir():
        raise BundleError(f"{bundle} is no folder; unpack it where the app will load it from")
    verify(bundle)
    manifest = read_manifest(bundle)
    built = {
        component.name: notes
        for component in manifest.components
        if (notes := _build(component, bundle))
    }
    with load(bundle, threads=threads) as session:
        found = session.self_test()
    return Installed(built=built, works=found.ok, detail=str(found))


def _build(component: ComponentEntry, bundle: Path) -> tuple[str, ...]:
    backend = require_backend(component.engine.name)
    if not (backend.compiles_on_device and component.target):
        return ()
    with tempfile.TemporaryDirectory(prefix="edgesdk-install-") as scratch:
        done = backend.compile(bundle / component.main, component.target, Path(scratch))
    return done.notes or (f"{backend.name} compiled it",)
