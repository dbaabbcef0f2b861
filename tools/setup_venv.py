"""Make the virtual environment that `make` works in; quick when nothing changed.

    python3 tools/setup_venv.py FOLDER [--vendors]

`--vendors` adds what the tests need under its vendors' own licences, and PyTorch, which is large.

Run from the repository's root, with nothing but the standard library. Versions come from
`constraints.txt`, packages from `pyproject.toml`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

OLDEST = (3, 11)
INPUTS = ("pyproject.toml", "constraints.txt")
INSTALL = ("--editable", ".[all]", "--group", "dev")
VENDORS = ("--editable", ".[tensorrt,qnn,train]")
QUIET = ("--quiet", "--disable-pip-version-check")


def fingerprint() -> str:
    """Hash of all that decides what the environment holds; an editable install has a path."""
    digest = hashlib.sha256()
    for part in (
        sys.version,
        str(Path.cwd()),
        *INSTALL,
        *VENDORS,
        *(Path(name).read_text() for name in INPUTS),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def make(folder: Path) -> None:
    """Create the environment from nothing and install into it.

    Raises:
        subprocess.CalledProcessError: pip failed; its own message is on the terminal.
    """
    shutil.rmtree(folder, ignore_errors=True)
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None  # Debian keeps it apart
    venv.create(folder, with_pip=has_ensurepip)
    python = str(folder / "bin" / "python")
    pinned = next(
        line for line in Path("constraints.txt").read_text().split() if line.startswith("pip==")
    )
    if has_ensurepip:
        first = [python, "-m", "pip", "install", *QUIET, pinned]
    else:
        first = [sys.executable, "-m", "pip", "--python", python, "install", *QUIET, pinned]
    subprocess.run(first, check=True)
    install(folder, INSTALL)


def install(folder: Path, what: tuple[str, ...]) -> None:
    """Add packages in the versions of `constraints.txt`.

    Raises:
        subprocess.CalledProcessError: pip failed; its own message is on the terminal.
    """
    # The isolated build of this package takes its versions from the same file.
    environment = os.environ | {"PIP_BUILD_CONSTRAINT": "constraints.txt"}
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", *QUIET, "--constraint", "constraints.txt", *what]
    subprocess.run(command, check=True, env=environment)


def main() -> int:
    """Make the environment unless it is up to date; 3 when this machine cannot."""
    if sys.version_info < OLDEST:
        have, need = sys.version.split()[0], ".".join(map(str, OLDEST))
        print(f"Python {need} or newer is needed, this is {have}; make PYTHON=...", file=sys.stderr)
        return 3
    folder = Path(sys.argv[1])
    stamps = [folder / ".installed", *([folder / ".vendors"] if "--vendors" in sys.argv else [])]
    wanted = fingerprint()
    try:
        for stamp in stamps:
            if stamp.is_file() and stamp.read_text() == wanted:
                continue
            print(f"installing into {folder} (once; a few minutes)", flush=True)
            if stamp.name == ".installed":
                make(folder)
            else:
                install(folder, VENDORS)
            stamp.write_text(wanted)
    except subprocess.CalledProcessError as exc:
        print(f"setting up {folder} failed: {' '.join(exc.cmd)}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
