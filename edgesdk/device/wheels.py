"""Wheels for another machine, unpacked here: what its Python needs and has not got."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgesdk.backend import load_backend
from edgesdk.cache import Cache
from edgesdk.device.payload import pack_folder
from edgesdk.errors import BackendUnavailable, DeviceError

NUMPY = "numpy"

_ZIP = "wheels.zip"
_TIMEOUT_S = 900.0
_OLDEST_GLIBC = 17
"""The minor version of glibc 2 that the oldest wheels of today ask for (PEP 599, manylinux2014)."""


def distributions_of(backends: Sequence[str]) -> tuple[str, ...]:
    """What opening artifacts of these backends needs, by its names on the package index."""
    found = {NUMPY: None}
    for name in backends:
        try:
            found |= dict.fromkeys(load_backend(name).distributions)
        except BackendUnavailable:
            continue
    return tuple(found)


def pinned(names: Iterable[str]) -> tuple[str, ...]:
    """Each in the version that is installed here, so that only the machine differs."""
    found = []
    for name in names:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            found.append(name)
    return tuple(found)


def unpacked_wheels(
    cache: Cache,
    pins: Sequence[str],
    *,
    arch: str,
    python: str,
    glibc: int,
    wheelhouse: Path | None = None,
) -> Path:
    """A folder for the import path of a Python of another machine. Dependencies are not followed.

    Args:
        cache: keeps it.
        pins: requirements, as `numpy==2.4.0`.
        arch: `aarch64` or `x86_64`.
        python: version of its CPython, as `3.11`.
        glibc: minor version of its glibc 2.
        wheelhouse: a folder of wheels to take them from; None for the package index.

    Raises:
        DeviceError: there is no pip here, no such wheel, or the index is not reached.
    """
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(glibc, _OLDEST_GLIBC - 1, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [
        part for name in (*platforms, f"manylinux2014_{arch}") for part in ("--platform", name)
    ]
    command += ["--no-index", "--find-links", str(wheelhouse)] if wheelhouse else []

    def build(folder: Path) -> None:
        _run([*command, "--target", str(folder), *pins], pins, f"Python {python} on {arch}")

    key = cache.key(
        "wheels",
        arch=arch,
        python=python,
        glibc=glibc,
        pins=list(pins),
        wheelhouse=sorted(item.name for item in wheelhouse.iterdir()) if wheelhouse else None,
    )
    return cache.folder(key, build)


def wheels_zip(cache: Cache, pins: Sequence[str], **machine: Any) -> Path:
    """The same as one zip file, to be sent. Takes and raises what `unpacked_wheels` does."""
    folder = unpacked_wheels(cache, pins, **machine)

    def build(target: Path) -> None:
        pack_folder(folder, target / _ZIP)

    return cache.folder(cache.key("wheels-zip", wheels=folder.name), build) / _ZIP


def _run(command: list[str], pins: Sequence[str], where: str) -> None:
    what = f"{', '.join(pins)} for {where}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"pip did not get {what} within {_TIMEOUT_S:g} s") from None
    if done.returncode:
        told = (done.stdout + done.stderr)[-1500:].strip()
        raise DeviceError(
            f"pip did not get {what}; install that on the device yourself, or name a folder of "
            f"wheels (?wheelhouse=FOLDER): {told}"
        )
