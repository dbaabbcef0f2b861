"""Code that the user brings by name: `module:function` or `path/to/file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from edgesdk.errors import SamplesError


def is_reference(source: str) -> bool:
    """True for `module:function` and `file.py:function`; a path on disk is never one."""
    place, colon, attribute = source.rpartition(":")
    return bool(colon and place and attribute.isidentifier()) and not Path(source).exists()


def absolute_reference(name: str) -> str:
    """A `file.py:function` with its file named in full, so that other processes find it too.

    Anything else comes back as it is.
    """
    place, colon, attribute = name.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}" if colon and Path(place).is_file() else name


def load_object(reference: str) -> Any:
    """The object that a reference names; a `.py` file is loaded by path, a module is imported.

    Modules are looked for in the working directory too, as `python -m` does.

    Raises:
        SamplesError: the reference is malformed, the module does not import or lacks the name.
    """
    if not is_reference(reference):
        raise SamplesError(
            f"{reference!r} names no code; write module:function or path/to/file.py:function"
        )
    place, _, attribute = reference.rpartition(":")
    with user_code(reference):
        module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    try:
        return getattr(module, attribute)
    except AttributeError as exc:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise SamplesError(
            f"{reference}: {place} has no {attribute!r}{did_you_mean(attribute, public)}"
        ) from exc


def guarded(reference: str) -> Callable[..., Any]:
    """The function that a reference names; when it fails, the `SamplesError` shows its line."""
    function = load_object(reference)

    def call(*arguments: Any) -> Any:
        with user_code(reference):
            return function(*arguments)

    return call


@contextmanager
def user_code(reference: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a `SamplesError` that shows the line.

    This is a border like that of a process: nothing is known about the code beyond it, so every
    `Exception` is caught, and kept as the cause.

    Raises:
        SamplesError: with the reference, the exception and the innermost line of the user's code.
    """
    try:
        yield
    except SamplesError:
        raise
    except Exception as exc:
        ours = str(Path(__file__).parent)
        frames = [
            frame
            for frame in traceback.extract_tb(exc.__traceback__)
            if not frame.filename.startswith((ours, "<frozen"))
        ]
        frames = [frame for frame in frames if "site-packages" not in frame.filename] or frames
        where = (
            f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
        )
        raise SamplesError(f"{reference} failed{where} ({type(exc).__name__}: {exc})") from exc


def did_you_mean(word: str, legal: list[str] | tuple[str, ...]) -> str:
    """The end of a sentence: `; did you mean 'x'?` with the nearest legal word, else a stop."""
    near = get_close_matches(word, legal, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SamplesError(f"no file {path}; write module:function or path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SamplesError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Neighbours of the file import as they do when it is run as a script.
    with _importable(path.parent):
        spec.loader.exec_module(module)
    return module


def _import(name: str) -> ModuleType:
    with _importable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
