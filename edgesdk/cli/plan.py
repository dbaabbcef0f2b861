"""`edgesdk plan`: what a deploy would try, without trying it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from edgesdk.cli.options import Backends, Json, Lengths, Recipes, Samples
from edgesdk.cli.options import Profile as ProfileOption
from edgesdk.cli.output import emit, reported_errors


def plan(
    profile: ProfileOption,
    model: Annotated[
        Path | None,
        typer.Argument(help="An ONNX file; default: the one that edgesdk.toml here names."),
    ] = None,
    samples: Samples = None,
    backends: Backends = None,
    recipes: Recipes = None,
    lengths: Lengths = None,
    as_json: Json = False,
) -> None:
    """Say what deploy would try on a device, in which order, and what is ruled out and why."""
    from edgesdk.cli.settle import settle_request
    from edgesdk.deployment import preview

    with reported_errors(as_json=as_json):
        settled = settle_request(
            model=model,
            samples=samples,
            calibration=None,
            metrics=None,
            budget=None,
            floors=None,
            objective=None,
            backends=backends,
            recipes=recipes,
            threads=None,
            lengths=lengths,
        )
        made = preview(**settled, profile=profile)
        tried = Table("#", "candidate", "why", title="would try, in this order")
        for number, candidate in enumerate(made.candidates, start=1):
            tried.add_row(str(number), candidate.name, candidate.why)
        out = Table("ruled out", "because", title="ruled out")
        for item in made.rejected:
            out.add_row(item.name, item.reason)
        emit(made.to_json(), Group(tried, out, *made.notes), as_json=as_json)
