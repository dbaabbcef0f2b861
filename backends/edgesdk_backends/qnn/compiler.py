"""Compiling in a process of its own: `python -m edgesdk_backends.qnn.compiler FOLDER`.

The vendor's compiler says why it leaves a node to the CPU only in its log, which is standard error, and
may crash. `request.json` in the folder has `model`, `program` and `target`; `response.json` gets
`placed`, a list of [provider, node, operator], or `error`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesdk.errors import EdgeSdkError, StepFailed
from edgesdk.files import read_json, write_json
from edgesdk.process import Child, ended_badly, hold_leash
from edgesdk_backends.qnn.engine import VERBOSE, open_engine
from edgesdk_backends.qnn.target import Target

TIMEOUT_S = 1500.0
"""A text encoder of 90 MB takes seconds; the step around this has a limit of its own."""
_POLL_S = 0.2
_REQUEST, _RESPONSE, _LOG = "request.json", "response.json", "log.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where the runtime puts a node."""

    provider: str
    node: str
    op: str


def run_compiler(
    model: Path, program: Path, target: Target, folder: Path
) -> tuple[tuple[Placed, ...], str]:
    """Compile a graph; its assignment to providers, and the log.

    Args:
        model: the artifact.
        program: the file to write; its binary goes beside it.
        target: what to compile for.
        folder: an empty one for what passes between the processes.

    Raises:
        StepFailed: the compiler refuses the model, crashed or hung.
    """
    paths = {"model": str(model.resolve()), "program": str(program.resolve())}
    write_json(folder / _REQUEST, {**paths, "target": asdict(target)})
    with Child(__name__, str(folder.resolve()), log=folder / _LOG) as child:
        deadline = time.monotonic() + TIMEOUT_S
        while not child.ended(_POLL_S):
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"the HTP compiler did not end within {TIMEOUT_S:g} s",
                    kind="timeout",
                    log=child.log_tail(),
                )
        code, tail = child.kill(), child.log_tail()
    if code != 0 or not (folder / _RESPONSE).is_file():
        raise ended_badly("the HTP compiler", code, tail)
    answer: Mapping[str, Any] = read_json(folder / _RESPONSE)
    log = (folder / _LOG).read_text(encoding="utf-8", errors="replace")
    if "error" in answer:
        raise StepFailed(f"{answer['error']}", log=tail)
    return tuple(Placed(provider=p, node=n, op=o) for p, n, o in answer["placed"]), log


def _compile(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        engine = open_engine(
            Path(request["model"]),
            Target(**request["target"]),
            level=VERBOSE,
            settings={
                "ep.context_enable": "1",
                "ep.context_embed_mode": "0",
                "ep.context_file_path": request["program"],
            },
        )
    except EdgeSdkError as exc:
        return {"error": str(exc)}
    placed = [
        (part.ep_name, node.name or f"{node.op_type}_{number}", node.op_type)
        for part in engine.get_provider_graph_assignment_info()
        for number, node in enumerate(part.get_nodes())
    ]
    return {"placed": placed}


def _main(folder: Path) -> None:
    hold_leash()
    write_json(folder / _RESPONSE, _compile(read_json(folder / _REQUEST)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing of the vendor's library is left to its destructors


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
