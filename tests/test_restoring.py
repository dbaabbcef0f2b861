"""Quantized nodes that turn back into float: on what real quantizers wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgesdk.compress.apply import compress
from edgesdk.compress.restoring import build_board, restore
from edgesdk.diagnose.written import measure_kept, measure_written
from edgesdk.errors import ModelError, StepFailed
from edgesdk.recipe import Recipe
from edgesdk.testing.rows import Rows

RECIPES = (
    "w8a8-static",
    "w8a8-static-weighted",
    "w8a8-static-nncf",
    "w8a8-static-nncf-mixed-transformer",
)
CASES = [(model, recipe) for model in ("cnn", "attention") for recipe in RECIPES]
"""Ranges with and without absorbed Relus, smoothing, corrected biases, rounded outputs."""


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case), scope="module")
def form(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Rows, str]:
    """A float model, what a quantizer made of it, and samples."""
    kind, recipe = request.param
    model: Path = request.getfixturevalue(f"small_{kind}")
    rows = Rows(kind)
    out = tmp_path_factory.mktemp("quantized")
    done = compress(model, Recipe.parse(recipe), out, calibration=rows)
    return model, done.path, rows, recipe


def outputs(model: Path, rows: Rows) -> list[np.ndarray]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [session.run(None, rows[number].inputs)[0] for number in range(3)]


def test_with_every_node_restored_it_is_the_float_model(
    form: tuple[Path, Path, Rows, str], tmp_path: Path
) -> None:
    model, quantized, rows, recipe = form
    board = build_board(model, quantized, tmp_path / "board.onnx", recipe)
    restore(model, quantized, set(board.nodes), tmp_path / "float.onnx")
    for expected, found in zip(
        outputs(model, rows), outputs(tmp_path / "float.onnx", rows), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    left = {node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node}
    assert not left & {"QuantizeLinear", "DequantizeLinear"}


def test_the_board_computes_what_restoring_writes(
    form: tuple[Path, Path, Rows, str], tmp_path: Path
) -> None:
    model, quantized, rows, recipe = form
    table = measure_written(model, quantized, rows, recipe)
    assert table.additivity[0].actual > 0
    worst = table.ranking(recipe)
    sets = [(), worst[:1], worst[: len(worst) // 2], worst]
    simulated = measure_kept(model, quantized, rows, sets)
    reference = outputs(model, rows)
    assert simulated[-1] == 0
    for kept, damage in zip(sets[:3], simulated, strict=False):
        restore(model, quantized, kept, tmp_path / "mixed.onnx")
        found = outputs(tmp_path / "mixed.onnx", rows)
        noise = sum(float(((f - r) ** 2).sum()) for f, r in zip(found, reference, strict=True))
        real = noise / sum(float((r**2).sum()) for r in reference)
        # Other rows, and integer kernels that round sums in another order.
        assert damage / 4 < real < damage * 4


def test_a_restored_node_leaves_no_weight_behind(small_cnn: Path, tmp_path: Path) -> None:
    rows = Rows("cnn")
    whole = compress(
        small_cnn,
        Recipe.parse("w8a8-static"),
        tmp_path / "whole",
        calibration=rows,
    ).path
    names = [node.name for node in onnx.load(small_cnn).graph.node if node.op_type == "Conv"]
    kept = compress(
        small_cnn,
        Recipe.parse("w8a8-static"),
        tmp_path / "kept",
        calibration=rows,
        kept=frozenset(names[:1]),
        whole=whole,
    ).path
    graph = onnx.load(kept).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    conv = next(node for node in graph.node if node.name == names[0])
    weight = next(t for t in graph.initializer if t.name == conv.input[1])
    assert weight.data_type == onnx.TensorProto.FLOAT


def test_a_float_model_has_nothing_to_restore(small_cnn: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no node that computes on quantized values"):
        build_board(small_cnn, small_cnn, tmp_path / "board.onnx", "w8a8-static")


def test_a_model_that_something_else_was_done_to_is_refused(
    small_attention: Path, tmp_path: Path
) -> None:
    rows = Rows("attention")
    recipe = "w8a8-static-weighted"
    whole = compress(
        small_attention,
        Recipe.parse(recipe),
        tmp_path / "whole",
        calibration=rows,
    ).path
    proto = onnx.load(small_attention)
    lookup = next(node for node in proto.graph.node if node.op_type == "Gather")
    table = next(t for t in proto.graph.initializer if t.name == lookup.input[0])
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[::-1].copy(), table.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(StepFailed, match="cannot be turned back into float"):
        measure_written(tmp_path / "other.onnx", whole, rows, recipe)
