"""`edgesdk plan`: what a deploy would try, without trying it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table

from edgesdk.cli.options import Backends, BudgetText, Json, Lengths, Objective, Recipes, Samples
from edgesdk.cli.options import Profile as ProfileOption
from edgesdk.cli.output import emit, reported_errors
from edgesdk.cli.progress import live_view

if TYPE_CHECKING:
    from edgesdk.plan.candidate import Plan


def plan(
    profile: ProfileOption,
    model: Annotated[
        Path | None,
        typer.Argument(help="An ONNX file; default: the one that edgesdk.toml here names."),
    ] = None,
    samples: Samples = None,
    budget: BudgetText = None,
    objective: Objective = None,
    backends: Backends = None,
    recipes: Recipes = None,
    lengths: Lengths = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Say why each is tried or ruled out: the line of the profile or the fact behind it, "
            "where that is from, and the command for the nearest form that works.",
        ),
    ] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Simulate on the samples what each node costs in quality at each planned precision.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="With --sensitivity: also write it as a page to this file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what deploy would try on a device, in which order, and what is ruled out and why."""
    from edgesdk.cli.settle import settle_request
    from edgesdk.deployment import preview, simulate
    from edgesdk.files import write_text
    from edgesdk.report.explanation import explained, explanation_view
    from edgesdk.report.sensitivity import sensitivity_view
    from edgesdk.report.sensitivity_page import render_sensitivity

    with reported_errors(as_json=as_json):
        _check_page(html, sensitivity=sensitivity)
        settled = settle_request(
            model=model,
            samples=samples,
            calibration=None,
            metrics=None,
            budget=budget,
            floors=None,
            objective=objective,
            backends=backends,
            recipes=recipes,
            threads=None,
            lengths=lengths,
        )
        if sensitivity:
            with live_view() as listen:
                table = simulate(**settled, profile=profile, listen=listen)
            if html:
                write_text(html, render_sensitivity(table, Path(settled["model"]).name))
            emit(table.to_json(), sensitivity_view(table), as_json=as_json)
            return
        made = preview(**settled, profile=profile)
        if explain:
            command = _deploy_command(model, profile, samples)
            emit(explained(made, command), explanation_view(made, command), as_json=as_json)
            return
        tried = _candidates(made)
        out = Table("ruled out", "because", title="ruled out")
        for item in made.rejected:
            out.add_row(item.name, item.reason)
        emit(made.to_json(), Group(tried, out, *made.notes), as_json=as_json)


def _check_page(html: Path | None, *, sensitivity: bool) -> None:
    """Refuse the place of the page now rather than after the simulation."""
    from edgesdk.errors import InputError, OutputError

    if html is None:
        return
    if not sensitivity:
        raise InputError("--html writes what --sensitivity finds; give both")
    if html.exists():
        raise OutputError(f"{html} exists; choose another --html")


def _deploy_command(model: Path | None, profile: str, samples: str | None) -> tuple[str, ...]:
    """The words of the deploy that this plan is for."""
    named = () if model is None else (str(model),)
    given = () if samples is None else ("--samples", samples)
    return ("edgesdk", "deploy", *named, "--profile", profile, *given)


def _candidates(made: Plan) -> Table:
    """The candidates in order, with what they are expected to take where that is known."""
    from edgesdk.plan.candidate import ORIGINAL
    from edgesdk.report import words

    foreseen = {
        name: (f"{words.milliseconds(item.latency_ms)} ms", words.mebibytes(item.peak_mib))
        for name, item in made.predictions
    }
    titles = ("latency", "memory") if foreseen else ()
    tried = Table("#", "candidate", *titles, "why", title="would try, in this order")
    for number, candidate in enumerate(made.candidates, start=1):
        figures = foreseen.get(candidate.name, (words.ABSENT,) * 2) if foreseen else ()
        tried.add_row(str(number), candidate.name, *figures, candidate.why)
    if ORIGINAL in foreseen:
        tried.caption = (
            f"predicted from the profile's speeds (estimated); "
            f"the original: {', '.join(foreseen[ORIGINAL])}"
        )
    return tried
