"""`edgesdk.toml`: what to deploy, with which samples, within which budget, kept beside the model."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgesdk.budget import Budget
from edgesdk.clock import parse_duration
from edgesdk.errors import InputError
from edgesdk.metrics import own_names

FILE_NAME = "edgesdk.toml"
_KEYS = {
    "model": str,
    "samples": str,
    "calibration": str,
    "metrics": list,
    "backends": list,
    "recipes": list,
    "threads": int,
    "time_budget": str,
    "training_time": str,
    "budget": dict,
    "floors": dict,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectConfig:
    """The contents of an `edgesdk.toml`; relative paths in it are relative to its folder."""

    model: Path | None = None
    samples: str | None = None
    calibration: str | None = None
    metrics: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    threads: int | None = None
    time_budget_s: float | None = None
    training_s: float | None = None
    budget: Budget = field(default_factory=Budget)


def read_config(path: Path) -> ProjectConfig:
    """Read and check an `edgesdk.toml`.

    Raises:
        InputError: not TOML, an unknown key, or a value of the wrong type; names it.
        BudgetError: a limit, floor or time that does not parse.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InputError(f"{path}: {exc}") from exc
    for key, value in data.items():
        if key not in _KEYS:
            close = get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{path}: unknown key {key!r}{hint} Legal keys: {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise InputError(f"{path}: {key} = {value!r}; expected {_KEYS[key].__name__}")
    for key in ("metrics", "backends", "recipes"):
        bad = [item for item in data.get(key, []) if not isinstance(item, str)]
        if bad:
            raise InputError(f"{path}: {key} holds {bad[0]!r}; expected strings")
    base = path.parent
    metrics = tuple(_relative(base, name) or "" for name in data.get("metrics", []))
    return ProjectConfig(
        model=base / data["model"] if "model" in data else None,
        samples=_relative(base, data.get("samples")),
        calibration=_relative(base, data.get("calibration")),
        metrics=metrics,
        backends=tuple(data.get("backends", [])),
        recipes=tuple(data.get("recipes", [])),
        threads=data.get("threads"),
        time_budget_s=parse_duration(data["time_budget"]) if "time_budget" in data else None,
        training_s=parse_duration(data["training_time"], "training time")
        if "training_time" in data
        else None,
        budget=_budget(data, own_names(metrics)),
    )


def _budget(data: dict[str, Any], own: tuple[str, ...]) -> Budget:
    tables = {"budget": data.get("budget", {}), "floors": data.get("floors", {})}
    return Budget.from_mapping(tables, own)


def _relative(base: Path, source: str | None) -> str | None:
    """A path of the file made relative to its folder; `module:function` stays as it is."""
    if source is None:
        return None
    place = base / source.partition(":")[0]
    return str(base / source) if place.exists() else source
