"""Tools whose requirements conflict with ours: each in a virtual environment that edgesdk looks after.

An environment is made when it is first needed, from exact pins and nothing else, and kept in the
user's cache under their hash: whole or not at all, once for any number of processes, and made anew
where something in it was damaged. A tool is a program of ours that such an environment runs; it has
`edgesdk` neither installed nor on its path, and talks through two JSON files.

    request.json    what it is asked; the program's only argument is this file
    response.json   beside it: what it answers, or {"error": "…"}
"""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgesdk.cache import Cache
from edgesdk.errors import BackendUnavailable, StepFailed
from edgesdk.files import read_json, write_json
from edgesdk.process import child_environment, ended_badly

INSTALL_TIMEOUT_S = 600.0

_REQUEST, _RESPONSE = "request.json", "response.json"
_PYTHON = Path("env") / "bin" / "python"
_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
"""Variables that would let our own packages into the environment."""
_STDERR = 2
_TOLD = 600
"""Characters of pip's own words that an error repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolset:
    """What an environment holds.

    Attributes:
        name: what it is for, in a word that can be part of a file name.
        pins: `package==version` of every package in it. Nothing is resolved: what is not named is not
            there, and what a package says about its own requirements is not asked.
    """

    name: str
    pins: tuple[str, ...]


def environment(tools: Toolset, cache: Cache | None = None) -> Path:
    """The Python program of the environment, which is made now where it is not there.

    Args:
        tools: what it holds.
        cache: where it is kept; by default the user's.

    Raises:
        BackendUnavailable: it cannot be made: no pip, no package index, or a package that this
            machine has no wheel for.
        OutputError: the disk is full, or the cache cannot be written.
    """
    store = cache or Cache()
    key = store.key(
        "tools",
        name=tools.name,
        pins=sorted(tools.pins),
        python=[sys.version, sys.base_prefix],
    )
    return store.folder(key, lambda folder: _make(tools, folder)) / _PYTHON


def run_tool(
    tools: Toolset,
    program: Path,
    request: dict[str, Any],
    folder: Path,
    *,
    timeout_s: float,
    cache: Cache | None = None,
) -> dict[str, Any]:
    """What a program answers that runs in an environment of its own.

    What it prints goes to our standard error, which is the log where this is called in a step.

    Args:
        tools: what the environment holds.
        program: a file of Python code.
        request: JSON values; give paths as absolute text.
        folder: its working directory; must exist.
        timeout_s: wall-clock limit.
        cache: where environments are kept; by default the user's.

    Raises:
        StepFailed: the program said why it cannot, crashed or hung.
        BackendUnavailable, OutputError: as `environment`.
    """
    python = environment(tools, cache)
    response = folder / _RESPONSE
    response.unlink(missing_ok=True)
    write_json(folder / _REQUEST, request)
    with subprocess.Popen(
        # -P and -s: neither the working directory nor the user's own packages are importable.
        [str(python), "-P", "-s", str(program), str((folder / _REQUEST).resolve())],
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,
        stderr=_STDERR,
        cwd=folder,
        env=_environment(),
    ) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            process.kill()
            raise StepFailed(
                f"{tools.name} did not end within {timeout_s:g} s", kind="timeout"
            ) from exc
        except BaseException:
            process.kill()
            raise
    if code != 0 or not response.is_file():
        raise ended_badly(tools.name, code, "")
    answer: dict[str, Any] = read_json(response)
    if "error" in answer:
        raise StepFailed(f"{tools.name}: {answer['error']}")
    return answer


def _make(tools: Toolset, folder: Path) -> None:
    ours = find_spec("pip") is not None
    if not ours and find_spec("ensurepip") is None:
        raise BackendUnavailable(
            f"{tools.name} needs an environment of its own, and this Python has no pip to make it "
            "with; install pip or python3-venv"
        )
    venv.create(folder / "env", with_pip=not ours, symlinks=True)
    python = str(folder / _PYTHON)
    pip = [sys.executable, "-m", "pip", "--python", python] if ours else [python, "-m", "pip"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    exact = ["--no-deps", "--ignore-requires-python", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*pip, "install", *quiet, *exact, *tools.pins],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT_S,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _cannot(tools, f"pip did not end within {INSTALL_TIMEOUT_S:g} s") from exc
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise _cannot(tools, said[-_TOLD:])


def _cannot(tools: Toolset, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{tools.name} runs in an environment of its own with {len(tools.pins)} packages, which "
        "edgesdk makes once, with pip. That failed: let this machine reach a package index once, or "
        f"have pip find the wheels in a folder (PIP_FIND_LINKS, PIP_NO_INDEX). pip said: {why}"
    )


def _environment() -> dict[str, str]:
    return {name: value for name, value in child_environment(None).items() if name not in _OURS}
