"""Mixed precision in a deploy: the node that does the damage stays float, and only it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgesdk.budget import Budget, parse_floor
from edgesdk.cache import Cache
from edgesdk.decide import Status
from edgesdk.deployment import deploy
from edgesdk.plan.culprits import most_evaluations
from edgesdk.testing.quick import QUICK

LAYERS, WIDTH, HOSTILE = 5, 48, 2


def hostile_mlp(path: Path) -> Path:
    """Five layers; one has a huge weight on a channel that is always 0, which ruins its scale."""
    rng = np.random.default_rng(3)
    nodes, weights = [], []
    value = "x"
    for layer in range(LAYERS):
        weight = rng.normal(0, 1 / np.sqrt(WIDTH), (WIDTH, WIDTH)).astype(np.float32)
        bias = rng.normal(0, 0.1, WIDTH).astype(np.float32)
        if layer == HOSTILE - 1:
            weight[:, 0], bias[0] = 0.0, 0.0
        if layer == HOSTILE:
            weight[0, 5] = 300.0
        weights += [
            numpy_helper.from_array(weight, f"w{layer}"),
            numpy_helper.from_array(bias, f"b{layer}"),
        ]
        nodes.append(
            helper.make_node(
                "Gemm", [value, f"w{layer}", f"b{layer}"], [f"g{layer}"], f"gemm{layer}"
            )
        )
        value = f"g{layer}"
        if layer < LAYERS - 1:
            nodes.append(helper.make_node("Tanh", [value], [f"t{layer}"], f"tanh{layer}"))
            value = f"t{layer}"
    shape: list[str | int] = ["N", WIDTH]
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_the_node_that_does_the_damage_stays_float_and_the_rest_is_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.normal(0, 1, (48, WIDTH)).astype(np.float32))
    recipe = "onnxruntime/w8a8-static-tensor"
    done = deploy(
        hostile_mlp(tmp_path / "hostile.onnx"),
        profile="x86",
        samples=str(tmp_path / "rows.npz"),
        recipes=("onnxruntime/fp32", recipe),
        budget=Budget(objective="size", floors=parse_floor("cosine=0.99")),
        settings=QUICK,
        cache=Cache(tmp_path / "cache"),
        out=tmp_path / "out",
        refine=True,
    )
    status = {item.name: item.status for item in done.decision.judged}
    assert status[recipe] == Status.FAILED
    chosen = next(item for item in done.outcomes if item.name == done.decision.chosen)
    choice = chosen.candidate.single
    assert choice.recipe.name == recipe.split("/")[1]
    with_weights = [name for name in choice.kept if name.startswith("gemm")]
    assert with_weights == [f"gemm{HOSTILE}"]
    assert f"gemm{HOSTILE}" in chosen.candidate.why
    (refined,) = done.report.refined
    assert refined.mended
    assert refined.mended.keep == choice.kept
    assert len(refined.mended.evaluations) <= most_evaluations(len(refined.nodes))
    assert [item.name for item in refined.tried] == [chosen.name], "only what was found is measured"
    assert "found in" in chosen.candidate.why
    manifest = (tmp_path / "out" / "bundle" / "manifest.json").read_text()
    assert f'"gemm{HOSTILE}"' in manifest
