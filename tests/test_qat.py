"""Quantization-aware training: by name, and as the last resort of a deploy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesdk.arrays import save_arrays
from edgesdk.backend import load_backend
from edgesdk.budget import Budget, parse_floor
from edgesdk.bundle.read import read_manifest
from edgesdk.cache import Cache
from edgesdk.compressing import compress_model
from edgesdk.decide import Status
from edgesdk.deployment import BUNDLE, Deployment, deploy
from edgesdk.model import read_model
from edgesdk.recipe import Recipe
from edgesdk.samples import read_samples
from edgesdk.teaching import teach
from edgesdk.testing.quick import QUICK
from edgesdk.train import unavailable

trains = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
FOUR_BITS = "onnxruntime/w4b16-only-nncf"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x float32[N, 16] -> y float32[N, 10] over two hidden layers."""
    rng = np.random.default_rng(3)
    shapes = {"a": (16, 64), "b": (64,), "c": (64, 64), "d": (64,), "e": (64, 10), "f": (10,)}
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu_1"),
        helper.make_node("Gemm", ["r", "c", "d"], ["i"], name="second"),
        helper.make_node("Relu", ["i"], ["s"], name="relu_2"),
        helper.make_node("Gemm", ["s", "e", "f"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array((rng.normal(size=shape) / 8).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What to judge by, and what to train on."""
    folder = tmp_path_factory.mktemp("rows")
    x = np.random.default_rng(5).normal(size=(800, 16)).astype(np.float32)
    save_arrays(folder / "judged.npz", {"x": x[:400]})
    save_arrays(folder / "learnt.npz", {"x": x[400:]})
    return str(folder / "judged.npz"), str(folder / "learnt.npz")


@trains
def test_a_form_that_fails_is_trained_where_there_is_time_for_it(
    network: Path, rows: tuple[str, str], tmp_path: Path
) -> None:
    judged, learnt = rows
    cache = Cache(tmp_path / "cache")

    def found(training_s: float | None, out: str) -> Deployment:
        return deploy(
            network,
            profile="x86",
            samples=judged,
            calibration=learnt,
            recipes=("onnxruntime/fp32", FOUR_BITS),
            budget=Budget(objective="size", floors=parse_floor("cosine=0.9964")),
            training_s=training_s,
            settings=QUICK,
            cache=cache,
            out=tmp_path / out,
        )

    without = found(None, "without")
    assert {item.name: item.status for item in without.decision.judged}[FOUR_BITS] == Status.FAILED
    assert not [outcome for outcome in without.outcomes if "qat" in outcome.name]

    trained = found(120.0, "trained")
    assert trained.decision.chosen == trained.outcomes[-1].name == f"{FOUR_BITS}-qat"
    row = trained.report.rows[-1]
    assert f"{FOUR_BITS} would win and fails the check" in row.why
    (component,) = read_manifest(tmp_path / "trained" / BUNDLE).components
    assert component.recipe == "w4b16-only-nncf-qat"
    assert "trained for" in (tmp_path / "trained/report.html").read_text()


@trains
def test_only_weights_change_and_keep_their_types(
    network: Path, rows: tuple[str, str], tmp_path: Path
) -> None:
    made = {}
    for name in ("w8a8-static", "w8a8-static-qat"):
        done = compress_model(
            network,
            name,
            profile="x86",
            samples=rows[0],
            calibration=rows[1],
            training_s=2.0,
            out=tmp_path / name,
            cache=Cache(tmp_path / "cache"),
        )
        made[name] = onnx.load(tmp_path / name / "model.onnx")
        onnx.checker.check_model(made[name], full_check=True)
    assert [note for note in done.notes if "train" in note]
    before, after = made.values()
    assert [n.op_type for n in before.graph.node] == [n.op_type for n in after.graph.node]
    ours, theirs = ({t.name: t for t in m.graph.initializer} for m in (before, after))
    assert {n: (t.data_type, t.dims) for n, t in ours.items()} == {
        n: (t.data_type, t.dims) for n, t in theirs.items()
    }


@trains
def test_training_that_changes_nothing_says_so_and_leaves_the_model(
    network: Path, rows: tuple[str, str], tmp_path: Path
) -> None:
    samples = read_samples(rows[0], read_model(network).inputs, store=tmp_path / "store")
    done = teach(network, network, samples.evaluation, tmp_path / "made.onnx", seconds=2.0)
    assert "training changed nothing" in done.notes[0]
    same, made = onnx.load(network), onnx.load(done.path)
    assert list(same.graph.initializer) == list(made.graph.initializer)


def test_engines_with_a_format_of_their_own_have_nothing_to_train_through() -> None:
    recipe = Recipe.parse("w8a8-static-qat")
    assert "trains through" in (load_backend("litert").rejects(recipe) or "")
    assert load_backend("onnxruntime").rejects(recipe) is None
    assert "edgesdk[train]" in recipe.needs
