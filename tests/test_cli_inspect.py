"""`edgesdk inspect`, through its own command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import typer
from rich.console import Console
from typer.testing import CliRunner

from edgesdk.cli.inspect import inspect, render_model
from edgesdk.model import read_model

app = typer.Typer()
app.command()(inspect)


def test_costs_follow_from_the_shape_given(small_mlp: Path) -> None:
    done = CliRunner().invoke(app, [str(small_mlp), "--shape", "x=2,64", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["macs"] == 2 * (64 * 128 + 128 * 8)


def test_unknown_costs_say_what_to_give(small_mlp: Path) -> None:
    done = CliRunner().invoke(app, [str(small_mlp)])
    assert done.exit_code == 0
    assert "(--shape NAME=" in " ".join(done.stdout.split())
    assert "Gemm 2" in done.stdout


def test_a_shape_that_does_not_parse_and_a_bad_file_exit_2(small_mlp: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(small_mlp), "--shape", "x=2,a", "--json"])
    assert done.exit_code == 2
    assert "does not parse" in json.loads(done.stdout)["error"]["message"]
    (tmp_path / "words.onnx").write_text("words")
    done = CliRunner().invoke(app, [str(tmp_path / "words.onnx"), "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["type"] == "ModelError"


def test_what_a_file_says_cannot_steer_the_terminal(small_mlp: Path, tmp_path: Path) -> None:
    proto = onnx.load(small_mlp)
    proto.producer_name = "\x1b[2J[bold]mean[/bold]"
    path = tmp_path / "mean.onnx"
    path.write_bytes(proto.SerializeToString())
    console = Console(record=True, width=100)
    console.print(render_model(read_model(path)))
    shown = console.export_text()
    assert "\x1b" not in shown
    assert "[bold]mean[/bold]" in shown
