"""`edgesdk compress`: apply one recipe by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesdk.cli.options import Calibration, Json, ModelFile, Samples, TrainingTime
from edgesdk.cli.output import emit, reported_errors
from edgesdk.cli.progress import live_view


def compress(
    model: ModelFile,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="What to do, by name: w8a8-static, prune30+fp32, …",
        ),
    ],
    samples: Samples = None,
    calibration: Calibration = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A new folder; default: the model's name and the recipe's."
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Profile of the device that it is for.")
    ] = "x86",
    fix_shapes: Annotated[
        bool,
        typer.Option("--fix-shapes", help="Fix the inputs to the shapes of the samples."),
    ] = False,
    training_time: TrainingTime = None,
    as_json: Json = False,
) -> None:
    """Apply one recipe to a model, as deploy would, and write the ONNX file. Nothing is measured.

    To see what it does to speed and quality: edgesdk compare MODEL FOLDER/model.onnx --samples …
    """
    from edgesdk.clock import parse_duration
    from edgesdk.compressing import compress_model
    from edgesdk.report.comparing import compression_view

    with reported_errors(as_json=as_json), live_view(quiet=as_json) as listen:
        found = compress_model(
            model,
            recipe,
            profile=profile,
            samples=samples,
            calibration=calibration,
            training_s=None
            if training_time is None
            else parse_duration(training_time, "training time"),
            out=out,
            fix_shapes=fix_shapes,
            listen=listen,
        )
    emit(found.to_json(), compression_view(found), as_json=as_json)
