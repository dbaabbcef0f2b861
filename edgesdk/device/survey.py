"""What a device is and which engines it has: looked at there, told as JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesdk.backend import load_backend
from edgesdk.device.base import Device, EngineThere
from edgesdk.errors import BackendUnavailable
from edgesdk.machine import Machine, detect

_STEP = "edgesdk.device.survey:survey"
_TIMEOUT_S = 300.0


def survey(request: dict[str, Any]) -> dict[str, Any]:
    """`backends` -> `machine`, and for each backend its `version` or why it is `unavailable`."""
    found = {name: look_at_engine(name) for name in request["backends"]}
    return {
        "machine": detect().to_json(),
        "engines": {name: [item.version, item.unavailable] for name, item in found.items()},
    }


def survey_device(
    device: Device, backends: Sequence[str]
) -> tuple[Machine, dict[str, EngineThere]]:
    """What another machine is, and which of these backends' engines it has.

    Raises:
        DeviceError: it cannot be reached or used.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = {"backends": list(backends)}
        found = device.run_step(_STEP, request, folder=Path(folder), timeout_s=_TIMEOUT_S)
    data = found.response
    machine = Machine(**{**data["machine"], "features": frozenset(data["machine"]["features"])})
    engines = {
        name: EngineThere(version=version, unavailable=why)
        for name, (version, why) in data["engines"].items()
    }
    return machine, engines


def look_at_engine(name: str) -> EngineThere:
    """Whether the engine of a backend can be used by this process, and its version."""
    try:
        backend = load_backend(name)
    except BackendUnavailable as exc:
        return EngineThere(version="", unavailable=str(exc))
    problem = backend.unavailable()
    return EngineThere(version="" if problem else backend.version(), unavailable=problem)
