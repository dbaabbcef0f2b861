"""Every example of `docs/pipelines.md` runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pipelines import (
    CROP,
    decoder,
    detector,
    executor_of,
    fusion,
    image_tower,
    recogniser,
    similarity,
    text_tower,
    voice,
)
from test_bundle_pipeline import bundle_of
from typer.testing import CliRunner

from edgesdk.cli.app import app
from edgesdk.pipeline_reader import read_pipeline

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "pipelines.md").read_text(
    encoding="utf-8"
)
TOML = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TOWERS, MISSING, CHAT, CAPTION, LISTEN, OCR = range(6)

_RNG = np.random.default_rng(0)
IMAGE = _RNG.random((1, 3, 8, 8), np.float32)
LINES = np.zeros((1, 1, 6, 9), np.float32)
LINES[0, 0, [1, 4]] = 1.5
FRAMES = _RNG.normal(size=(5, 4)).astype(np.float32)
PROMPT = np.array([[1, 4, 3]])
FEEDS: list[dict[str, Any]] = [
    {"image": IMAGE, "ids": np.array([[1, 2, 3]])},
    {"ids": np.array([[1, 2, 3]])},
    {"prompt": PROMPT, "mask": np.ones_like(PROMPT)},
    {"image": IMAGE},
    {"frames": FRAMES},
    {"page": LINES},
]
SHAPES: list[dict[str, tuple[int, ...]]] = [
    {"scores": (1, 1)},
    {"logits": (1, 3)},
    {},  # as many tokens as it takes to the end token
    {},
    {"speech": (5, 1)},
    {"letters": (2, 9, 5)},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page speaks of."""
    folder = tmp_path_factory.mktemp("docs")
    image_tower(folder / "image.onnx")
    text_tower(folder / "text.onnx")
    similarity(folder / "head.onnx")
    fusion(folder / "fusion.onnx")
    decoder(folder / "decoder.onnx")
    decoder(folder / "captioner.onnx", memory=True)
    voice(folder / "voice.onnx")
    detector(folder / "detector.onnx")
    recogniser(folder / "recogniser.onnx")
    (folder / "crop.py").write_text(CROP)
    return folder


def test_the_page_has_the_examples_that_are_tried() -> None:
    assert len(TOML) == len(FEEDS)
    assert len(PYTHON) == 4


@pytest.mark.parametrize("number", range(len(FEEDS)))
def test_an_example_is_read_drawn_and_run(models: Path, number: int) -> None:
    path = models / f"{number}.toml"
    path.write_text(TOML[number], encoding="utf-8")
    pipeline = read_pipeline(path)
    assert not pipeline.warnings
    outputs = executor_of(pipeline).run(FEEDS[number])
    for name, shape in SHAPES[number].items():
        assert outputs[name].shape == shape
    if number in (CHAT, CAPTION):
        (tokens,) = outputs["tokens"].tolist()
        limit = pipeline.wiring.loops[0].steps
        assert tokens.index(2) == len(tokens) - 1 if 2 in tokens else len(tokens) == limit

    drawn = CliRunner().invoke(app, ["inspect", str(path)])
    assert drawn.exit_code == 0, drawn.output
    for component in pipeline.components:
        assert f"{component.model.parameters:,} parameters" in drawn.output
    for port in pipeline.wiring.inputs:
        assert port.modality in drawn.output
        assert not port.optional or "may be missing" in drawn.output
    told = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert [item["name"] for item in told["components"]] == [
        stage.name for stage in pipeline.wiring.stages
    ]
    assert len(told["loops"]) == len(pipeline.wiring.loops)


@pytest.mark.parametrize("number", range(4))
def test_a_block_of_python_runs(
    models: Path,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Path(shutil.copytree(models, tmp_path / "app"))
    monkeypatch.chdir(place)
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    (place / "pipeline.toml").write_text(TOML[TOWERS], encoding="utf-8")
    for which, name in ((CHAT, "bundle"), (LISTEN, "listening")):
        (place / f"{name}.toml").write_text(TOML[which], encoding="utf-8")
        made = bundle_of(read_pipeline(place / f"{name}.toml"), [FEEDS[which]], tmp_path / name)
        made.rename(place / name)
    rng = np.random.default_rng(1)
    images = rng.random((12, 3, 8, 8), np.float32)
    np.savez(place / "samples.npz", image=images, ids=rng.integers(0, 11, (12, 5)))
    exec(compile(PYTHON[number], f"block {number}", "exec"), {})
    printed = capsys.readouterr().out
    assert [bool(printed), "[[" in printed, "()" in printed] == [
        [False, False, False],
        [True, True, False],
        [True, True, False],
        [True, False, True],
    ][number]


def test_a_pipeline_that_cannot_run_is_refused_by_the_command(models: Path) -> None:
    path = models / "bad.toml"
    path.write_text(TOML[CHAT].replace("steps = 128\n", ""), encoding="utf-8")
    done = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "PipelineError"
    assert "bad.toml: loop 'generate' with component 'decoder' may never end" in error["message"]
    shaped = CliRunner().invoke(app, ["inspect", str(models / "0.toml"), "--shape", "x=1"])
    assert shaped.exit_code == 2
