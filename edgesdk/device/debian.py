"""Debian packages of any architecture, unpacked into a folder: no root, nothing is installed.

`apt-get` runs with lists, status and cache of its own, on the mirror that this machine's sources
name, and checks signatures as usual; `dpkg-deb` unpacks. Maintainer scripts are never run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgesdk.errors import DeviceError

_TIMEOUT_S = 600.0
_TAIL = 1500


def unpack_packages(suite: str, architecture: str, packages: Sequence[str], folder: Path) -> None:
    """Download packages with all that they depend on, and unpack them.

    Args:
        suite: Debian's code name of the release.
        architecture: Debian's word for it: `amd64`, `arm64`.
        packages: their names.
        folder: takes the files; made where missing.

    Raises:
        DeviceError: this is no Debian, the mirror is not reached, or has no such suite.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DeviceError(
                f"emulated devices are set up from Debian packages, and {tool} is not here; "
                "use a Debian machine or container, or a real device (--device ssh://…)"
            )
    with tempfile.TemporaryDirectory() as scratch:
        options = _private(Path(scratch), suite, architecture)
        _run(["apt-get", *options, "update"], f"the package lists of Debian {suite}")
        _run(
            ["apt-get", *options, "install", "-y", "--download-only", *packages],
            f"{', '.join(packages)} of Debian {suite} for {architecture}",
        )
        folder.mkdir(parents=True, exist_ok=True)
        for package in sorted((Path(scratch) / "cache/archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(folder)], package.name)


def host_architecture() -> str:
    """Debian's word for this machine's architecture.

    Raises:
        DeviceError: this is no Debian.
    """
    if shutil.which("dpkg") is None:
        raise DeviceError("emulated devices are set up from Debian packages, and dpkg is not here")
    return _run(["dpkg", "--print-architecture"], "the architecture of this machine").strip()


def _private(scratch: Path, suite: str, architecture: str) -> list[str]:
    """Options that keep apt away from the machine's own state."""
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (scratch / name).mkdir(parents=True)
    (scratch / "status").touch()
    mirrors = _mirrors()
    if not mirrors:
        raise DeviceError(
            "apt's sources on this machine name no mirror to take Debian packages from"
        )
    sources = scratch / "sources.list"
    sources.write_text(
        "".join(f"deb {signed}{uri} {suite} main\n" for uri, signed in mirrors[:1]),
        encoding="utf-8",
    )
    settings = {
        "Dir::State": f"{scratch}/state",
        "Dir::State::status": f"{scratch}/status",
        "Dir::Cache": f"{scratch}/cache",
        "Dir::Etc::sourcelist": str(sources),
        "Dir::Etc::sourceparts": f"{scratch}/parts",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": str(os.geteuid()) if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _mirrors() -> list[tuple[str, str]]:
    """Mirrors of this machine's sources, with `[signed-by=…] ` where one is stated."""
    text = _run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)\t$(SIGNED_BY)",
            "Created-By: Packages",
        ],
        "apt's sources",
    )
    found = {}
    for line in text.splitlines():
        uri, _, key = line.partition("\t")
        if "security" not in uri:
            found[uri] = f"[signed-by={key}] " if key.startswith("/") else ""
    # Where there are others beside it, Debian's own is the one that says so.
    return sorted(found.items(), key=lambda mirror: "debian" not in mirror[0])


def _run(command: list[str], what: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{command[0]} did not get {what} within {_TIMEOUT_S:g} s") from None
    if done.returncode:
        tail = (done.stdout + done.stderr)[-_TAIL:].strip()
        raise DeviceError(f"{command[0]} did not get {what}: {tail}")
    return done.stdout
