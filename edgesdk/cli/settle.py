"""Options of the command line over the settings of `edgesdk.toml`: the options win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesdk.budget import (
    Budget,
    parse_budget,
    parse_floor,
    parse_max_fallback,
    parse_objective,
)
from edgesdk.clock import parse_duration
from edgesdk.config import FILE_NAME, ProjectConfig, read_config
from edgesdk.errors import InputError
from edgesdk.metrics import own_names


def settle_request(
    *,
    model: Path | None,
    samples: str | None,
    calibration: str | None,
    metrics: list[str] | None,
    budget: str | None,
    floors: list[str] | None,
    objective: str | None,
    backends: list[str] | None,
    recipes: list[str] | None,
    threads: int | None,
    lengths: list[str] | None,
    time_budget: str | None = None,
    training_time: str | None = None,
    device: str | None = None,
    max_fallback: str | None = None,
) -> dict[str, Any]:
    """Arguments for `edgesdk.deployment.deploy` or `edgesdk.deployment.preview`.

    An `edgesdk.toml` counts only when no model is named: it describes one model's deployment.

    Raises:
        InputError: no model is named and there is no `edgesdk.toml` here that names one.
    """
    config = ProjectConfig()
    if model is None:
        here = Path(FILE_NAME)
        if not here.exists():
            raise InputError(
                f"no model given, and no {FILE_NAME} in this folder; "
                "name an ONNX file, or run: edgesdk init MODEL"
            )
        config = read_config(here)
        if config.model is None:
            raise InputError(f'{here} names no model; add: model = "FILE.onnx"')
    return {
        "model": model or config.model,
        "samples": samples or config.samples,
        "calibration": calibration or config.calibration,
        "metrics": tuple(metrics or config.metrics),
        "budget": _settle_budget(
            config.budget,
            budget,
            floors,
            objective,
            max_fallback,
            own_names(metrics or config.metrics),
        ),
        "backends": tuple(backends or config.backends),
        "recipes": tuple(recipes or config.recipes),
        "threads": threads or config.threads,
        "device": device or "local",
        "lengths": tuple(map(_length, lengths or ())),
        "time_budget_s": config.time_budget_s
        if time_budget is None
        else parse_duration(time_budget),
        "training_s": config.training_s
        if training_time is None
        else parse_duration(training_time, "training time"),
    }


def _length(text: str) -> tuple[str, int]:
    """`tokens=128` as a name and a length."""
    name, _, value = text.rpartition("=")
    if not name or not value.isdigit() or int(value) < 1:
        raise InputError(f"--length {text!r}; expected NAME=LENGTH with a length of at least 1")
    return name, int(value)


def _settle_budget(
    base: Budget,
    limits: str | None,
    floors: list[str] | None,
    objective: str | None,
    max_fallback: str | None,
    own: tuple[str, ...],
) -> Budget:
    if limits is not None:
        base = replace(base, limits=parse_budget(limits))
    if floors:
        base = replace(base, floors=parse_floor(",".join(floors), own))
    if objective is not None:
        base = replace(base, objective=parse_objective(objective))
    if max_fallback is not None:
        base = replace(base, max_fallback=parse_max_fallback(max_fallback))
    return base
