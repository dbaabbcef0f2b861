"""Options that several commands share, declared once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; progress goes to standard error.")
]
Profile = Annotated[
    str, typer.Option("--profile", "-p", help="Device profile: an installed name or a .toml file.")
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where it is done: local (default), simulated, emulated:CORE, ssh://user@host or "
        "adb://SERIAL.",
    ),
]
Samples = Annotated[
    str | None,
    typer.Option(
        "--samples",
        "-s",
        help="Real inputs: an .npz file, a folder of .npz files, or module:function.",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option("--calibration", help="Calibrate on these instead of a part of the samples."),
]
TrainingTime = Annotated[
    str | None,
    typer.Option(
        "--training-time",
        help="Time for each training: 90s, 10m or 1h; default: until it gets no better.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads in one run; default: all cores.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", "-m", help="Task metric: a built-in name or module:function. Repeatable."
    ),
]
BudgetText = Annotated[
    str | None, typer.Option("--budget", "-b", help="Limits: latency=20ms,memory=200MB,size=10MB.")
]
Objective = Annotated[
    str | None,
    typer.Option("--objective", help="latency (default), size, memory or quality."),
]
Floors = Annotated[
    list[str] | None,
    typer.Option("--floor", "-f", help="Quality floor: top1=-1%, cosine=0.99. Repeatable."),
]
Backends = Annotated[
    list[str] | None, typer.Option("--backend", help="Only this backend. Repeatable.")
]
Recipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", help="Only this recipe, or backend/recipe. Repeatable."),
]
Lengths = Annotated[
    list[str] | None,
    typer.Option(
        "--length",
        help="Without samples: length of an open axis, as tokens=128 or x.3=320. Repeatable.",
    ),
]
MaxFallback = Annotated[
    str | None,
    typer.Option(
        "--max-fallback",
        help="Most of a run that may be elsewhere than on the profile's unit: 5% or 0.05.",
    ),
]
ModelFile = Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)]
ModelOrPipeline = Annotated[
    Path,
    typer.Argument(help="An ONNX file, or the `.toml` file of a pipeline.", show_default=False),
]
