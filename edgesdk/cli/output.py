"""What every command prints: people read standard output, or programs one JSON document."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType

from edgesdk.errors import EdgeSdkError

INTERNAL_ERROR = 3


def progress_console() -> Console:
    """Where progress and warnings go, so that standard output stays clean."""
    return Console(stderr=True)


def emit(document: Any, view: RenderableType, *, as_json: bool) -> None:
    """Print the result: the JSON document alone, or the view for people."""
    if as_json:
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    Console().print(view)


@contextmanager
def reported_errors(*, as_json: bool) -> Iterator[None]:
    """Turn an error into a message and its exit code; this is the process border.

    With `--json` the error is the one document on standard output: `{"error": {type, message}}`.
    """
    try:
        yield
    except EdgeSdkError as exc:
        _fail(type(exc).__name__, str(exc), exc.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        _fail("Interrupted", "stopped; finished steps are cached", 130, as_json=as_json)
    except Exception as exc:  # the border: whatever is left is a defect of ours, cause kept
        traceback.print_exc()
        message = f"{type(exc).__name__}: {exc} (a defect in edgesdk; the traceback is above)"
        _fail("InternalError", message, INTERNAL_ERROR, as_json=as_json)


def error_document(kind: str, message: str, code: int) -> dict[str, Any]:
    """An error as what `--json` prints of it."""
    return {"error": {"type": kind, "message": message, "exit_code": code}}


def _fail(kind: str, message: str, code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        json.dump(error_document(kind, message, code), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        console = progress_console()
        console.print(f"[bold red]{kind}[/bold red]: ", end="", highlight=False)
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)
