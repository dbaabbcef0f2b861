"""What a device is and which engines it has: looked at there, told as JSON."""

from __future__ import annotations

from typing import Any

from edgesdk.backend import load_backend
from edgesdk.device.base import EngineThere
from edgesdk.errors import BackendUnavailable
from edgesdk.machine import Machine, detect

SURVEY = "edgesdk.device.survey:survey"
"""The step that `survey_from_json` reads."""


def survey(request: dict[str, Any]) -> dict[str, Any]:
    """`backends` -> `machine`, and for each backend its `version` or why it is `unavailable`."""
    found = {name: look_at_engine(name) for name in request["backends"]}
    return {
        "machine": detect().to_json(),
        "engines": {name: [item.version, item.unavailable] for name, item in found.items()},
    }


def survey_from_json(data: dict[str, Any]) -> tuple[Machine, dict[str, EngineThere]]:
    """What `survey` told."""
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
