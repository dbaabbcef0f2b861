"""Predictions beside the candidates of a plan, and beside what was measured in a report."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edgesdk.cli.app import app
from edgesdk.deployment import preview
from edgesdk.evidence import Evidence
from edgesdk.measure.result import Latency
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.report import words
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.html import render_html
from edgesdk.report.terminal import render_terminal

SPEEDS = """
schema = 1
extends = "x86-amx"
name = "probed"

[[speeds]]
name = "ort conv"
backend = "onnxruntime"
precision = "fp32"
op = "conv"
threads = 1
source = "edgesdk probe"
date = 2026-11-22
points = [[256, 3, 16, 9, 20.0], [64, 16, 32, 1, 5.0], [1024, 32, 32, 9, 300.0]]
"""


@pytest.fixture
def probed(tmp_path: Path) -> str:
    path = tmp_path / "probed.toml"
    path.write_text(SPEEDS, encoding="utf-8")
    return str(path)


def test_a_plan_says_what_each_candidate_of_a_probed_engine_would_take(
    small_cnn: Path, probed: str
) -> None:
    made = preview(small_cnn, profile=probed)
    named = {name for name, _ in made.predictions}
    assert ORIGINAL in named
    assert {c.name for c in made.candidates if c.single.backend == "onnxruntime"} <= named
    assert not any(name.startswith("openvino") for name in named)
    for _, item in made.predictions:
        assert item.evidence is Evidence.ESTIMATED
        assert 0 < item.low < item.latency_ms < item.high
        assert item.peak_mib > 0


def test_predicting_leaves_the_order_of_a_plan_alone(small_cnn: Path, probed: str) -> None:
    foreseen = preview(small_cnn, profile=probed)
    plain = preview(small_cnn, profile="x86-amx")
    assert plain.predictions == ()
    assert [c.name for c in foreseen.candidates] == [c.name for c in plain.candidates]
    assert "predicted" not in json.dumps(plain.to_json())


def test_the_command_shows_and_prints_predictions(small_cnn: Path, probed: str) -> None:
    asked = ["plan", str(small_cnn), "--profile", probed]
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    predicted = document["baseline_predicted"]
    assert predicted["evidence"] == "estimated"
    assert predicted["low"] < predicted["latency_ms"] < predicted["high"]
    assert any("predicted" in item for item in document["candidates"])
    said = CliRunner().invoke(app, asked, env={"COLUMNS": "200"}).stdout
    assert "latency" in said
    assert "MiB" in said
    assert "estimated" in said


def latency(ms: float) -> Latency:
    return Latency(count=1, mean_ms=ms, p50_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms)


def report(**predicted: float) -> DeployReport:
    row = Row(name="original", status="passed", latency=latency(2.0), evidence=Evidence.MEASURED)
    return DeployReport(
        title="net",
        headline="done",
        created="2026-11-22T00:00:00Z",
        edgesdk="0.1.0",
        model={},
        profile="x86",
        baseline="original",
        chosen="original",
        rows=(replace(row, **predicted),),  # type: ignore[arg-type]
    )


def printed(document: DeployReport) -> str:
    console = Console(width=200, file=io.StringIO(), force_terminal=False)
    console.print(render_terminal(document))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_has_the_prediction_beside_the_truth() -> None:
    foreseen = report(predicted_ms=2.5, predicted_peak_mib=80.0)
    assert foreseen.rows[0].prediction_error == pytest.approx(0.25)
    assert words.predicted(foreseen.rows[0]) == "2.50 (+25%)"
    assert "2.50 (+25%)" in printed(foreseen)
    assert "predicted ms" in render_html(foreseen)
    assert DeployReport.from_json(foreseen.to_json()) == foreseen


def test_a_report_without_predictions_says_nothing_of_them() -> None:
    assert report().rows[0].prediction_error is None
    assert "predicted" not in printed(report())
    assert "predicted ms" not in render_html(report())
    old = report().to_json()
    for key in ("predicted_ms", "predicted_peak_mib"):
        del old["rows"][0][key]
    assert DeployReport.from_json(old) == report()
