"""`edgesdk deploy`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from edgesdk.cli.options import (
    Backends,
    BudgetText,
    Calibration,
    Device,
    Floors,
    Json,
    Lengths,
    MaxFallback,
    Metrics,
    Objective,
    Recipes,
    Samples,
    Threads,
    TrainingTime,
)
from edgesdk.cli.output import emit, error_document, reported_errors
from edgesdk.cli.progress import live_view


def deploy(
    profile: Annotated[
        list[str],
        typer.Option(
            "--profile",
            "-p",
            help="Device profile: an installed name or a .toml file. Repeatable with --farm.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Argument(
            help="An ONNX file, or the `.toml` file of a pipeline; default: what edgesdk.toml here names."
        ),
    ] = None,
    device: Device = None,
    farm: Annotated[
        str | None,
        typer.Option(
            "--farm",
            help="Run candidates on many devices at once: the address of a Dask scheduler.",
        ),
    ] = None,
    samples: Samples = None,
    calibration: Calibration = None,
    metrics: Metrics = None,
    budget: BudgetText = None,
    floors: Floors = None,
    objective: Objective = None,
    max_fallback: MaxFallback = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder: new or empty.")
    ] = None,
    backends: Backends = None,
    recipes: Recipes = None,
    threads: Threads = None,
    dynamic_shapes: Annotated[
        bool,
        typer.Option("--dynamic-shapes", help="Keep dynamic shapes even if all samples agree."),
    ] = False,
    structure: Annotated[
        bool,
        typer.Option(
            "--structure",
            help="Also remove and factor parameters, as far as the check allows and speed repays.",
        ),
    ] = False,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Also find the nodes that had better stay float; longer."),
    ] = False,
    accept_undecided: Annotated[
        bool,
        typer.Option("--accept-undecided", help="Let a candidate win whose quality is undecided."),
    ] = False,
    step_timeout: Annotated[
        float, typer.Option("--step-timeout", min=1.0, help="Seconds that one step may take.")
    ] = 1800.0,
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            help="Time for the whole search: 90s, 10m or 1h; takes the best found until then.",
        ),
    ] = None,
    training_time: TrainingTime = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            "--memory-limit", help="Memory one step may take, as 8GB; default: 80 % of it."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier output folder of edgesdk.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Run every step again; ignore cached results.")
    ] = False,
    lengths: Lengths = None,
    as_json: Json = False,
) -> None:
    """Find the form of a model that fits a device and a budget, prove it, measure it, bundle it.

    A pipeline's components are planned together; a floor may name a modality: image=-1%.

    With --farm and several profiles: for each of them, on the farm's devices that come closest to it.

    Exits 1 when nothing meets the budget, 2 on wrong input, 3 when the environment fails.
    """
    from edgesdk.cli.settle import settle_request
    from edgesdk.deployment import REPORT_HTML
    from edgesdk.deployment import deploy as deploy_model
    from edgesdk.errors import BudgetNotMet
    from edgesdk.report.document import DeployReport
    from edgesdk.report.terminal import render_terminal
    from edgesdk.workshop import Limits

    with reported_errors(as_json=as_json):
        is_pipeline = model is not None and model.suffix.lower() == ".toml"
        settled = settle_request(
            model=model,
            device=device,
            samples=samples,
            calibration=calibration,
            metrics=metrics,
            budget=budget,
            floors=None if is_pipeline else floors,
            objective=objective,
            max_fallback=max_fallback,
            backends=backends,
            recipes=recipes,
            threads=threads,
            lengths=lengths,
            time_budget=time_budget,
            training_time=training_time,
        )
        settled |= {
            "out": out,
            "limits": Limits(timeout_s=step_timeout, memory_bytes=_bytes(memory_limit)),
            "force": force,
            "refresh": refresh,
            "fix_shapes": not dynamic_shapes,
            "structure": structure,
            "refine": refine,
            "accept_undecided": accept_undecided,
            "farm": farm,
        }
        if is_pipeline:
            _deploy_pipeline(profile, {**settled, "floors": tuple(floors or ())}, as_json=as_json)
            return
        if len(profile) > 1:
            _deploy_fleet(profile, settled, as_json=as_json)
            return
        try:
            with live_view() as listen:
                done = deploy_model(**settled, profile=profile[0], listen=listen)
        except BudgetNotMet as exc:
            if not isinstance(exc.report, DeployReport):
                raise
            emit(exc.report.to_json(), render_terminal(exc.report), as_json=as_json)
            raise typer.Exit(exc.exit_code) from exc
        page = Text(f"report  {done.folder / REPORT_HTML}")
        view = Group(render_terminal(done.report), page)
        emit(done.report.to_json(), view, as_json=as_json)


def _deploy_pipeline(profiles: list[str], settled: dict[str, Any], *, as_json: bool) -> None:
    from edgesdk.deployment import REPORT_HTML
    from edgesdk.errors import BudgetNotMet, InputError
    from edgesdk.joint.deployment import deploy_pipeline
    from edgesdk.joint.document import PipelineReport
    from edgesdk.joint.terminal import render_pipeline

    if len(profiles) > 1:
        raise InputError(
            f"profiles {', '.join(profiles)}: a pipeline is deployed for one at a time"
        )
    try:
        with live_view() as listen:
            done = deploy_pipeline(**settled, profile=profiles[0], listen=listen)
    except BudgetNotMet as exc:
        if not isinstance(exc.report, PipelineReport):
            raise
        emit(exc.report.to_json(), render_pipeline(exc.report), as_json=as_json)
        raise typer.Exit(exc.exit_code) from exc
    page = Text(f"report  {done.folder / REPORT_HTML}")
    emit(done.report.to_json(), Group(render_pipeline(done.report), page), as_json=as_json)


def _deploy_fleet(profiles: list[str], settled: dict[str, Any], *, as_json: bool) -> None:
    """All of them, one after the other in what is printed; exits with the worst of their codes."""
    from edgesdk.deployment import Deployment
    from edgesdk.errors import BudgetNotMet, EdgeSdkError, InputError
    from edgesdk.fleet import deploy_fleet
    from edgesdk.report.document import DeployReport
    from edgesdk.report.terminal import render_terminal

    if settled["farm"] is None:
        raise InputError(f"profiles {', '.join(profiles)}: only one without --farm")
    with live_view() as listen:
        fleet = deploy_fleet(**settled, profiles=profiles, listen=listen)
    document: dict[str, Any] = {}
    views: list[RenderableType] = []
    code = 0
    for profile, done in fleet.items():
        report = done.report if isinstance(done, Deployment | BudgetNotMet) else None
        views.append(Text(f"\n{profile}", style="bold"))
        if isinstance(done, EdgeSdkError):
            code = max(code, done.exit_code)
            document[profile] = error_document(type(done).__name__, str(done), done.exit_code)
            views.append(Text(str(done)))
        if isinstance(report, DeployReport):
            document[profile] = report.to_json()
            views.append(render_terminal(report))
    emit(document, Group(*views), as_json=as_json)
    if code:
        raise typer.Exit(code)


def _bytes(text: str | None) -> int | None:
    """Bytes of `8GB`, in the units of a budget."""
    from edgesdk.budget import parse_budget

    return None if text is None else int(parse_budget(f"memory={text}")[0].maximum)
