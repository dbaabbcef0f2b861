"""Pipelines of several components under one budget, on small real graphs with the real engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from small_pipelines import CHAT, FUSED, TWO_TOWERS, Graph, Value, decoder, write_folder
from typer.testing import CliRunner

import edgesdk
from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.budget import Budget
from edgesdk.cache import Cache
from edgesdk.cli.app import app
from edgesdk.deployment import BUNDLE, REPORT_HTML, REPORT_JSON
from edgesdk.errors import BudgetError, DeviceError, PipelineError, SamplesError
from edgesdk.events import Event
from edgesdk.joint.deployment import PipelineDeployment, deploy_pipeline
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.testing.quick import QUICK

WIDE = 32
FEW = ("openvino/fp32", "onnxruntime/w8a8-static")
COUNT = "def count(feed):\n    return {'turned': feed['turn'] + 1}\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def image_tower(path: Path) -> Path:
    """image float32[batch, 3, 8, 8] -> embedding float32[batch, 32]; weights large enough to quantize."""
    g = Graph(1)
    conv = g.add("Conv", ["image", g.weight(WIDE, 3, 3, 3)])
    pooled = g.add("GlobalAveragePool", [g.add("Relu", [conv])])
    flat = g.add("Flatten", [pooled])
    g.add("MatMul", [flat, g.weight(WIDE, WIDE)], "embedding")
    inputs: list[Value] = [("image", T.FLOAT, ["batch", 3, 8, 8])]
    return g.write(path, inputs, [("embedding", T.FLOAT, ["batch", WIDE])])


def text_tower(path: Path) -> Path:
    """ids int64[batch, length] -> embedding float32[batch, 32]."""
    g = Graph(2)
    words = g.add("Gather", [g.weight(11, WIDE), "ids"])
    mean = g.add("ReduceMean", [words], axes=[1], keepdims=0)
    g.add("MatMul", [mean, g.weight(WIDE, WIDE)], "embedding")
    inputs: list[Value] = [("ids", T.INT64, ["batch", "length"])]
    return g.write(path, inputs, [("embedding", T.FLOAT, ["batch", WIDE])])


def similarity(path: Path) -> Path:
    """image_embedding and text_embedding float32[., 32] -> scores float32[images, 32]."""
    g = Graph(3)
    both = g.add("Add", ["image_embedding", "text_embedding"])
    g.add("MatMul", [both, g.weight(WIDE, WIDE)], "scores")
    inputs: list[Value] = [
        (f"{word}_embedding", T.FLOAT, ["n", WIDE]) for word in ("image", "text")
    ]
    return g.write(path, inputs, [("scores", T.FLOAT, ["n", WIDE])])


def fusion(path: Path) -> Path:
    """As the small one; weights for the text are a thousandth of those for the image.

    Rounded to 8 bits with one scale for all, they are zero: all that hangs on the text is lost.
    """
    g = Graph(4)
    parts = [g.add("Mul", [word, f"has_{word}"]) for word in ("image", "text")]
    weights = g.rng.normal(size=(2 * WIDE, 16)).astype(np.float32)
    weights[WIDE:] *= 1e-3
    g.add("MatMul", [g.add("Concat", parts, axis=1), g.constant(weights)], "logits")
    inputs: list[Value] = [(word, T.FLOAT, ["batch", WIDE]) for word in ("image", "text")]
    inputs += [(f"has_{word}", T.FLOAT, ["batch", 1]) for word in ("image", "text")]
    return g.write(path, inputs, [("logits", T.FLOAT, ["batch", 16])])


def rows(folder: Path, count: int, **more: Any) -> Path:
    """Images and texts of one shape each, one row a file; `more` makes an array of a row's generator."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        arrays = {
            "image": rng.random((1, 3, 8, 8), np.float32),
            "ids": rng.integers(0, 11, (1, 6)),
            **{name: make(rng) for name, make in more.items()},
        }
        save_arrays(folder / f"{number:04d}.npz", arrays)
    return folder


def run(path: Path, samples: Path, cache: Cache, **options: Any) -> PipelineDeployment:
    settled = {"settings": QUICK, "recipes": FEW, "threads": 1, **options}
    return deploy_pipeline(path, profile="x86", samples=str(samples), cache=cache, **settled)


def test_a_pipeline_becomes_one_bundle_that_runs_as_it_was_checked(
    cache: Cache, tmp_path: Path
) -> None:
    path = write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    samples = rows(tmp_path / "rows", 24)
    out = tmp_path / "out"
    heard: list[Event] = []
    small = Budget(objective="size")
    floors = ("image=-10%",)
    done = run(path, samples, cache, out=out, floors=floors, budget=small, listen=heard.append)
    assert sorted(item.name for item in out.iterdir()) == sorted([BUNDLE, REPORT_HTML, REPORT_JSON])
    report = json.loads((out / REPORT_JSON).read_text())
    assert report["floors"] == ["scores.cosine=0.9"]
    assert [row["name"] for row in report["components"]] == ["image", "text", "head"]
    assert {row["stage"] for row in report["stages"]} == {"image", "text", "head"}
    assert {row["name"] for row in report["wholes"]} >= {ORIGINAL, "joint", "uniform"}
    joint = next(row for row in report["wholes"] if row["name"] == "joint")
    assert joint["verdict"] == "pass"
    assert any("calibrated on what image, text give" in note for note in joint["notes"])
    assert done.decision.chosen != ORIGINAL
    assert [row["name"] for row in report["modalities"]] == ["image", "text"]
    assert report["chosen"] == done.decision.chosen
    assert all(row["reason"] for row in report["wholes"])
    assert any(event.subject.startswith("text ") for event in heard if event.stage == "try")
    with edgesdk.load(done.bundle) as session:
        assert session.self_test().ok
        sample = load_arrays(samples / "0003.npz")
        assert session.run(sample)["scores"].shape == (1, WIDE)
        assert {item.name for item in session.manifest.components} == {"image", "text", "head"}


def test_a_second_deploy_takes_every_result_from_the_cache(cache: Cache, tmp_path: Path) -> None:
    path = write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    samples = rows(tmp_path / "rows", 24)
    heard: list[Event] = []
    run(path, samples, cache, out=tmp_path / "a", floors=("image=-10%",), listen=heard.append)
    ended = [e for e in heard if e.state == "done" and e.stage in ("try", "damage")]
    assert ended
    heard.clear()
    run(path, samples, cache, out=tmp_path / "b", floors=("image=-10%",), listen=heard.append)
    ended = [e for e in heard if e.state == "done" and e.stage in ("try", "damage")]
    assert ended
    assert all(event.cached for event in ended)


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    (tmp_path / "count.py").write_text(COUNT)
    text = FUSED.replace('"batch", 8]', f'"batch", {WIDE}]')
    return write_folder(tmp_path, text, image_tower, text_tower, fusion)


def test_a_form_that_ruins_one_modality_only_is_caught(
    fused: Path, cache: Cache, tmp_path: Path
) -> None:
    samples = rows(tmp_path / "rows", 24, turn=lambda rng: rng.integers(0, 5, 1))
    recipes = ("onnxruntime/w8a8-static-tensor",)
    small = Budget(objective="size")
    done = run(fused, samples, cache, out=tmp_path / "out", recipes=recipes, budget=small)
    report = done.report
    component = next(row for row in report.components if row.name == "fusion")
    ruin = next(form for form in component.forms if form.name == recipes[0])
    assert ruin.loss is not None
    assert ruin.loss < 0.01  # by itself, and with all inputs, it looks fine
    assert ruin.broken
    assert ruin.floor == "cosine of logits, without image"
    assert component.chosen == ORIGINAL
    judged = {row.name: row for row in report.variants}
    assert set(judged) == {"all inputs", "without image", "without ids"}
    alone = next(item for item in done.combinations if item.name == "each-alone")
    assert alone.judged is not None
    assert alone.judged.qualities["all inputs"].verdict == "pass"
    assert alone.judged.worst.verdict == "fail"
    assert alone.judged.worst.reason.startswith("without image: ")
    count = {"count": lambda feed: {"turned": feed["turn"] + 1}}
    with edgesdk.load(done.bundle, processing=count) as session:
        assert session.self_test().ok
        names = {check.sample for check in session.self_test().checks}
        assert len(names) == 5  # three with all inputs, one without each


def test_what_cannot_be_planned_is_refused_before_anything_runs(
    cache: Cache, tmp_path: Path
) -> None:
    path = write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    samples = rows(tmp_path / "rows", 3)
    with pytest.raises(SamplesError, match="give --samples"):
        deploy_pipeline(path, profile="x86", cache=cache)
    with pytest.raises(DeviceError, match="on the device itself"):
        run(path, samples, cache, device="simulated")
    with pytest.raises(BudgetError, match="--refine: for single models only"):
        run(path, samples, cache, refine=True)
    with pytest.raises(BudgetError, match="--time-budget"):
        run(path, samples, cache, time_budget_s=60.0)
    with pytest.raises(BudgetError, match="or a modality: image, text"):
        run(path, samples, cache, floors=("imaeg=-1%",))
    (tmp_path / "chat").mkdir()
    chat = write_folder(tmp_path / "chat", CHAT.replace("END", "[2]"), decoder)
    with pytest.raises(PipelineError, match="loop generate runs its components again and again"):
        run(chat, samples, cache)
    command = ["deploy", str(chat), "--profile", "x86", "--samples", str(samples), "--json"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"]["type"] == "PipelineError"


def test_rows_without_a_modality_are_refused(fused: Path, cache: Cache, tmp_path: Path) -> None:
    samples = rows(tmp_path / "rows", 6, turn=lambda rng: rng.integers(0, 5, 1))
    for file in samples.iterdir():
        arrays = load_arrays(file)
        del arrays["ids"]
        save_arrays(file, arrays)
    with pytest.raises(SamplesError, match="ids"):
        run(fused, samples, cache)
