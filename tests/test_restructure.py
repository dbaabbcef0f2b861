"""Structural steps by name, one after the other, and the search that a deploy makes with them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesdk.arrays import save_arrays
from edgesdk.budget import Budget, parse_floor
from edgesdk.bundle.read import read_manifest
from edgesdk.cache import Cache
from edgesdk.deployment import BUNDLE, deploy
from edgesdk.errors import RecipeError, SamplesError
from edgesdk.layer_times import Pace
from edgesdk.model import read_model
from edgesdk.profile import load_profile
from edgesdk.profile_speeds import Speed
from edgesdk.recipe import Recipe
from edgesdk.restructure import restructure
from edgesdk.samples import Samples, read_samples
from edgesdk.structural import parse_step
from edgesdk.testing.quick import QUICK
from edgesdk.train import unavailable

ROWS, BATCH = 150, 16
LOUD = 12
"""Hidden units of 64 that say anything worth hearing."""


@pytest.fixture(scope="module")
def wasteful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier most of whose hidden units say next to nothing: x float32[N, 16] -> y float32[N, 10]."""
    rng = np.random.default_rng(3)
    heard = np.full((64, 1), 1e-3)
    heard[:LOUD] = 1.0
    stored = {
        "a": rng.normal(size=(16, 64)),
        "b": rng.normal(size=64),
        "c": rng.normal(size=(64, 64)),
        "d": rng.normal(size=64),
        "e": rng.normal(size=(64, 10)) * heard,
        "f": rng.normal(size=10),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu_1"),
        helper.make_node("Gemm", ["r", "c", "d"], ["i"], name="second"),
        helper.make_node("Relu", ["i"], ["s"], name="relu_2"),
        helper.make_node("Gemm", ["s", "e", "f"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "wasteful",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("wasteful") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(5)
    for number in range(ROWS):
        rows = rng.normal(size=(BATCH, 16)).astype(np.float32)
        save_arrays(folder / f"{number:03d}.npz", {"x": rows})
    return folder


@pytest.fixture
def samples(wasteful: Path, source: Path, tmp_path: Path) -> Samples:
    return read_samples(str(source), read_model(wasteful).inputs, store=tmp_path / "store")


def done(wasteful: Path, folder: Path, name: str, rows: Samples | None) -> tuple[Path, str]:
    made = restructure(
        wasteful,
        parse_step(name),
        folder / "made.onnx",
        folder / "scratch",
        original=wasteful,
        samples=rows.calibration if rows else None,
        multiple=4,
        checkpoint=folder / "checkpoint",
    )
    return made.path, "; ".join(made.notes)


def outputs(model: Path, rows: Samples) -> NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, dict(r.inputs))[0] for r in rows.evaluation])


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("name", "least_saved", "least_cosine"),
    [
        ("prune30", 0.3, 0.999),
        ("prune60-raw", 0.6, 0.99),
        ("prune40-l1", 0.4, 0.8),
        ("prune40-activation", 0.4, 0.99),
        ("rank30", 0.25, 0.8),
        ("sparse50", 0.0, 0.9),
        ("sparse2of4", 0.0, 0.8),
    ],
)
def test_a_step_saves_what_it_promises(
    name: str,
    least_saved: float,
    least_cosine: float,
    wasteful: Path,
    samples: Samples,
    tmp_path: Path,
) -> None:
    made, notes = done(wasteful, tmp_path, name, samples)
    onnx.checker.check_model(made, full_check=True)
    before, after = read_model(wasteful), read_model(made)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert after.parameters <= before.parameters * (1 - least_saved)
    assert cosine(outputs(wasteful, samples), outputs(made, samples)) > least_cosine
    assert notes


@pytest.mark.parametrize(("exponent", "by_time"), [(1.0, True), (0.0, False)])
def test_ranks_go_by_time_where_splitting_saves_some(
    exponent: float, by_time: bool, wasteful: Path, samples: Samples, tmp_path: Path
) -> None:
    """Products in time that grows with their work, and in a time that is always the same."""
    sizes = [(1, 4, 4), (16, 8, 8), (16, 16, 64), (16, 64, 64), (64, 64, 64)]
    speed = Speed(
        name="products",
        backend="onnxruntime",
        precision="fp32",
        op="product",
        threads=1,
        source="a test",
        date="2026-11-22",
        points=tuple((*map(float, size), 0.01 * math.prod(size) ** exponent) for size in sizes),
    )
    pace = Pace(
        profile=replace(load_profile("x86-amx"), speeds=(speed,)),
        backend="onnxruntime",
        recipe=Recipe(),
        threads=1,
    )
    assert pace.known
    assert Pace.from_json(json.loads(json.dumps(pace.to_json()))) == pace
    made = restructure(
        wasteful,
        parse_step("rank30-raw"),
        tmp_path / "made.onnx",
        tmp_path / "scratch",
        original=wasteful,
        samples=samples.calibration,
        multiple=4,
        pace=pace,
    )
    assert read_model(made.path).parameters <= 0.75 * read_model(wasteful).parameters
    assert any("ranks by time" in note for note in made.notes) == by_time


def test_healing_brings_outputs_back(wasteful: Path, samples: Samples, tmp_path: Path) -> None:
    wanted = outputs(wasteful, samples)
    (tmp_path / "raw").mkdir()
    (tmp_path / "healed").mkdir()
    raw, _ = done(wasteful, tmp_path / "raw", "sparse70-raw", samples)
    healed, notes = done(wasteful, tmp_path / "healed", "sparse70", samples)
    assert 1 - cosine(wanted, outputs(healed, samples)) < 0.5 * (
        1 - cosine(wanted, outputs(raw, samples))
    )
    assert "healed" in notes


@pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
@pytest.mark.parametrize("name", ["prune50-taylor", "distill"])
def test_steps_that_train(name: str, wasteful: Path, samples: Samples, tmp_path: Path) -> None:
    made, notes = done(wasteful, tmp_path, name, samples)
    assert cosine(outputs(wasteful, samples), outputs(made, samples)) > 0.99
    assert ("train" if name == "distill" else "taylor") in notes


def test_what_cannot_be_done_is_refused(wasteful: Path, samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="prune30 needs real samples"):
        done(wasteful, tmp_path, "prune30", None)
    with pytest.raises(RecipeError, match="of the parameters can go by these rules"):
        done(wasteful, tmp_path, "prune95", samples)
    few = replace(samples, calibration=samples.calibration.subset(4))
    with pytest.raises(SamplesError, match="4 rows to fit"):
        done(wasteful, tmp_path, "sparse50", few)


def test_a_deploy_removes_what_says_nothing(wasteful: Path, source: Path, tmp_path: Path) -> None:
    found = deploy(
        wasteful,
        profile="x86",
        samples=str(source),
        recipes=("onnxruntime/fp32",),
        budget=Budget(objective="size"),
        structure=True,
        settings=QUICK,
        cache=Cache(tmp_path / "cache"),
        out=tmp_path / "out",
    )
    chosen = found.decision.chosen
    assert chosen is not None
    assert chosen.startswith("onnxruntime/prune")
    manifest = read_manifest(tmp_path / "out" / BUNDLE)
    (component,) = manifest.components
    assert chosen.endswith(component.recipe)
    settings = manifest.document["components"][0]["recipe"]["settings"]
    assert settings["structure"] == component.recipe.rpartition("+")[0]
    tried = [o.name for o in found.outcomes if "prune" in o.name or "rank" in o.name]
    assert 3 <= len(tried) <= 6
    row = next(row for row in found.report.rows if row.name == chosen)
    assert "removed" in row.why
    assert row.removed is not None
    assert row.removed.kept
    assert row.removed.parameters > 0.3
    assert row.removed.macs is not None
    assert row.removed.macs > 0.3
    assert row.removed.before == "onnxruntime/fp32"


@pytest.mark.nightly
@pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
def test_a_deploy_with_time_for_training_goes_beyond_what_healing_keeps(
    wasteful: Path, source: Path, tmp_path: Path
) -> None:
    found = deploy(
        wasteful,
        profile="x86",
        samples=str(source),
        recipes=("onnxruntime/fp32",),
        budget=Budget(objective="size", floors=parse_floor("cosine=0.85")),
        structure=True,
        training_s=60.0,
        settings=QUICK,
        cache=Cache(tmp_path / "cache"),
        out=tmp_path / "out",
    )
    assert found.decision.chosen == "onnxruntime/prune80+distill+fp32"
    names = [outcome.name for outcome in found.outcomes]
    assert 2 <= len([name for name in names if "+distill+" in name]) <= 2 * 4
    (told,) = [note for note in found.report.notes if note.startswith("prune: ")]
    assert "70 % of the parameters passes the check healed" in told
    assert "80 % of the parameters with at most 1 min of training" in told
