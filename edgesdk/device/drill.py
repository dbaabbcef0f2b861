"""Steps that misbehave on purpose: what a device does about them is tried, not assumed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from edgesdk.errors import ModelError
from edgesdk.files import sha256_file


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Any request -> the same, with the process that answered; leaves a file behind in its folder."""
    with open("left.txt", "w", encoding="utf-8") as stream:  # noqa: PTH123 - the step's own folder
        stream.write("done\n")
    return {**request, "pid": os.getpid()}


def digest(request: dict[str, Any]) -> dict[str, Any]:
    """`file`, optional `seconds` -> its `sha256` as it is on the device, after that long."""
    time.sleep(request.get("seconds", 0.0))
    return {"sha256": sha256_file(Path(request["file"]))}


def swell(request: dict[str, Any]) -> dict[str, Any]:
    """`mib` -> take that much memory, and keep it."""
    kept = [bytearray(b"x" * (1 << 20)) for _ in range(request["mib"])]
    time.sleep(60)
    return {"kept": len(kept)}


def refuse(request: dict[str, Any]) -> dict[str, Any]:
    """`message` -> an error of ours."""
    raise ModelError(request["message"])


def crash(_: dict[str, Any]) -> dict[str, Any]:
    """Die as native code does."""
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)
    return {}


def hang(_: dict[str, Any]) -> dict[str, Any]:
    """Never answer."""
    while True:
        time.sleep(60)
