"""`edgesdk compress` and `edgesdk compare`: a recipe by hand, and models beside each other."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from edgesdk.arrays import save_arrays
from edgesdk.cli.app import app
from edgesdk.comparing import Beside, compare_targets
from edgesdk.report.comparing import BesideView, _short_names
from edgesdk.testing.quick import QUICK


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Images with a label each."""
    rng = np.random.default_rng(0)
    path = tmp_path / "samples.npz"
    images = rng.normal(size=(40, 3, 32, 32)).astype(np.float32)
    save_arrays(path, {"image": images, "label": rng.integers(0, 10, 40)})
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_a_recipe_by_hand_is_compared_with_its_original(
    small_cnn: Path, samples: Path, tmp_path: Path
) -> None:
    done = call(
        "compress", small_cnn, "--recipe", "w8a8-static", "--samples", samples, "--out", "small"
    )
    assert done.exit_code == 0, done.output
    made = tmp_path / "small/model.onnx"
    onnx.checker.check_model(made, full_check=True)
    record = json.loads((tmp_path / "small/compression.json").read_text())
    assert record["recipe"] == "w8a8-static"
    assert record["after"]["bytes"] == made.stat().st_size
    assert record["after"]["macs"] == record["before"]["macs"] > 0

    found = compare_targets(
        [small_cnn, made], samples=str(samples), metrics=["top1"], settings=QUICK
    )
    first, second = json.loads(json.dumps(found.to_json()))["entries"]
    assert first["measurement"]["speedup"]["value"] == 1
    assert first["quality"]["closeness"][0]["cosine"] == pytest.approx(1)
    assert 0.9 < second["quality"]["closeness"][0]["cosine"] < 1
    assert second["quality"]["scores"][0]["reference"] == first["quality"]["scores"][0]["candidate"]
    assert second["holds"]["bytes"] == record["after"]["bytes"]
    assert second["measurement"]["latency"]["count"] > 10


def test_what_does_not_run_is_said_and_the_others_are_shown(
    small_cnn: Path, samples: Path, tmp_path: Path
) -> None:
    model = onnx.load(small_cnn)
    model.graph.output[0].name = "other"
    model.graph.node[-1].output[0] = "other"
    onnx.save(model, tmp_path / "renamed.onnx")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/model.onnx").write_bytes(small_cnn.read_bytes())
    targets = [small_cnn, *map(Path, ("renamed.onnx", "copy/model.onnx"))]
    found = compare_targets(targets, samples=str(samples), settings=QUICK)
    assert [entry.problem is None for entry in found.entries] == [True, False, True]
    page = printed(found, width=80)
    assert "! renamed.onnx: output logits: " in page
    assert re.search(r"copy +\d[\d,]+ .* 1\.00000", page)
    assert "95 % interval" not in page
    assert "95 % interval" in printed(found, width=140)


def printed(found: Beside, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(BesideView(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_makes_no_sense_is_refused(small_cnn: Path, samples: Path, tmp_path: Path) -> None:
    refused(call("compare", small_cnn, "--samples", samples), "InputError", "at least two")
    elsewhere = ("--samples", samples, "--device", "emulated:cortex-a76")
    refused(call("compare", small_cnn, small_cnn, *elsewhere), "DeviceError", "no times", code=3)
    static = ("compress", small_cnn, "--recipe", "w8a8-static", "--out", "new")
    refused(call(*static), "SamplesError", "calibration samples")
    refused(call("compress", small_cnn, "--recipe", "int8", "--out", "new"), "RecipeError", "int8")
    assert not (tmp_path / "new").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    taken = call("compress", small_cnn, "--recipe", "w8-only", "--out", "taken")
    refused(taken, "OutputError", "taken")


def test_paths_are_told_apart_by_few_parts() -> None:
    assert _short_names(["a/b/model.onnx", "a/c/model.onnx"]) == ["b", "c"]
    assert _short_names(["x/net.onnx", "out/bundle", "model.onnx"]) == [
        "net.onnx",
        "out",
        "model.onnx",
    ]
    assert _short_names(["a/x/net.onnx", "b/x/net.onnx"]) == ["a/x/net.onnx", "b/x/net.onnx"]
