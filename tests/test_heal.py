from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesdk.compress import onnx_io
from edgesdk.errors import ModelError
from edgesdk.samples import Sample
from edgesdk.structure.factorize import factorize
from edgesdk.structure.factors import Choice
from edgesdk.structure.heal import Healed, heal
from edgesdk.structure.judge import Judge, deal
from edgesdk.structure.lowrank import study
from edgesdk.structure.moments import Moments
from edgesdk.structure.net import Net
from edgesdk.structure.reference import Reference
from edgesdk.structure.solve import best_fit, least_squares
from edgesdk.structure.sparse import prune

Array = NDArray[Any]


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rows(*shape: int, count: int = 40) -> list[Sample]:
    return [Sample(inputs={"x": noise(100 + n, *shape)}, labels={}) for n in range(count)]


def save(path: Path, nodes: list[Any], x: tuple[Any, ...], **stored: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?"] * len(x))],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def chain(tmp_path: Path) -> Path:
    """Two products with a bias each and nothing between them."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Add", ["a", "b1"], ["h"], name="first_bias"),
        helper.make_node("MatMul", ["h", "w2"], ["c"], name="second"),
        helper.make_node("Add", ["c", "b2"], ["y"], name="second_bias"),
    ]
    stored = {"w1": noise(1, 8, 12), "b1": noise(2, 12), "w2": noise(3, 12, 6), "b2": noise(4, 6)}
    return save(tmp_path / "chain.onnx", nodes, ("n", "t", 8), **stored)


def stored(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def changed(path: Path, **others: Array) -> onnx.ModelProto:
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in others:
            tensor.CopyFrom(numpy_helper.from_array(others[tensor.name], tensor.name))
    return proto


def healed(
    path: Path, proto: onnx.ModelProto, samples: list[Sample], tmp_path: Path, **options: Any
) -> Healed:
    return heal(path, proto, samples, deal(len(samples), 100), tmp_path / "scratch", **options)


def test_an_undamaged_model_stays_as_it_is(small_cnn: Path, tmp_path: Path) -> None:
    samples = [Sample(inputs={"image": noise(n, 1, 3, 32, 32)}, labels={}) for n in range(30)]
    found = healed(small_cnn, onnx.load(small_cnn), samples, tmp_path)
    assert found.sweeps == 0
    assert not found.layers
    before = stored(onnx.load(small_cnn))
    for name, values in stored(found.proto).items():
        np.testing.assert_array_equal(values, before[name])
    assert found.notes == ("nothing to heal: every layer computes what it did",)


def test_what_is_only_written_differently_gains_nothing(small_mlp: Path, tmp_path: Path) -> None:
    """Hidden units in another order: all weights differ, and all layers are as good as before."""
    proto = onnx.load(small_mlp)
    tensors = list(proto.graph.initializer)
    order = np.random.default_rng(1).permutation(128)
    for tensor, axis in zip(tensors, (0, 0, 1, 0), strict=True):
        values = numpy_helper.to_array(tensor)
        moved = np.take(values, order, axis) if values.shape[axis] == 128 else values
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(moved), tensor.name))
    samples = [Sample(inputs={"x": noise(n, 4, 64)}, labels={}) for n in range(80)]
    found = healed(small_mlp, proto, samples, tmp_path, kept={"gemm_a": order.tolist()})
    assert len(found.layers) == 2
    assert not any(layer.kept for layer in found.layers)
    assert "healing changed nothing" in found.notes[0]


def test_layers_before_the_damage_are_not_looked_at(tmp_path: Path) -> None:
    path = chain(tmp_path)
    damaged = changed(path, b2=stored(onnx.load(path))["b2"] + 1)
    found = healed(path, damaged, rows(2, 5, 8), tmp_path)
    assert {layer.node for layer in found.layers} == {"second"}
    assert found.after["y"] < 1e-8


def test_a_damaged_linear_chain_is_restored(tmp_path: Path) -> None:
    path, samples = chain(tmp_path), rows(2, 5, 8)
    before = stored(onnx.load(path))
    damaged = changed(path, w1=before["w1"] + noise(9, 8, 12), b2=before["b2"] * 0)
    found = healed(path, damaged, samples, tmp_path)
    assert found.before["y"] > 0.1
    assert found.after["y"] < 1e-8
    np.testing.assert_allclose(stored(found.proto)["w1"], before["w1"], atol=1e-3)
    np.testing.assert_allclose(stored(found.proto)["b2"], before["b2"], atol=1e-2)
    assert "2 of 2 layers were healed" in found.notes[0]


def test_weights_in_a_file_of_their_own_are_healed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, samples = chain(tmp_path), rows(2, 5, 8)
    damaged = changed(path, w1=stored(onnx.load(path))["w1"] * 1.3)
    monkeypatch.setattr(onnx_io, "_EXTERNAL_ABOVE", 0)
    monkeypatch.setattr(onnx_io, "_INLINE_BYTES", 0)
    found = healed(path, damaged, samples, tmp_path)
    assert found.after["y"] < 1e-8 < found.before["y"]
    (data,) = (tmp_path / "scratch" / "healing").glob("best.onnx.data")
    assert data.stat().st_size < 2 * path.stat().st_size


def test_what_follows_removed_channels_makes_up_for_them(tmp_path: Path) -> None:
    """Channels of a Conv go; those left are correlated with them, so the next layer can."""
    mix = noise(5, 4, 12)
    weight = np.einsum("kc,kihw->cihw", mix, noise(1, 4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="wide", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2", "b2"], ["y"], name="next"),
    ]
    tensors = {"w1": weight, "b1": noise(2, 12), "w2": noise(3, 5, 12, 1, 1), "b2": noise(4, 5)}
    path = save(tmp_path / "conv.onnx", nodes, ("n", 3, 8, 8), **tensors)
    kept = [0, 2, 3, 5, 7, 8, 11]
    smaller = changed(
        path,
        w1=weight[kept],
        b1=tensors["b1"][kept],
        w2=np.ascontiguousarray(tensors["w2"][:, kept]),
    )
    found = healed(path, smaller, rows(1, 3, 8, 8), tmp_path, kept={"wide": kept})
    assert found.before["y"] > 0.05
    assert found.after["y"] < 1e-6
    with pytest.raises(ModelError, match="say which of its channels were kept"):
        healed(path, found.proto, rows(1, 3, 8, 8), tmp_path)


def test_a_normalization_takes_over_what_changed_before_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("BatchNormalization", ["a", *"sbmv"], ["y"], name="norm"),
    ]
    tensors = {"w": noise(1, 6, 3, 1, 1), "s": noise(2, 6), "b": noise(3, 6), "m": noise(4, 6)}
    tensors["v"] = np.abs(noise(5, 6)) + 1
    path = save(tmp_path / "norm.onnx", nodes, ("n", 3, 6, 6), **tensors)
    damaged = changed(path, s=tensors["s"] * 1.5, m=tensors["m"] + 1)
    found = healed(path, damaged, rows(1, 3, 6, 6), tmp_path)
    assert found.after["y"] < 1e-9 < found.before["y"]


def test_two_factors_are_fitted_as_one(tmp_path: Path) -> None:
    path, samples = chain(tmp_path), rows(2, 5, 8)
    parts = deal(len(samples), 100)
    net = Net(onnx.load(path))
    plain, _ = study(None, net, samples, ())
    choices = {"first": Choice("channels", 5), "second": Choice("channels", 4)}
    proto = factorize(net, plain, choices)
    found = healed(path, proto, samples, tmp_path)
    nodes = [node.name for node in found.proto.graph.node]
    assert nodes == [
        "first.first",
        "first",
        "first_bias",
        "second.first",
        "second",
        "second_bias",
    ]
    assert {layer.node for layer in found.layers} == {"first", "second"}
    reference = Reference(path, tmp_path / "r", samples)
    net = Net(onnx.load(path))
    aware, _ = study(reference, net, samples, parts.fitted)
    best = tmp_path / "best.onnx"
    onnx.save(factorize(net, aware, choices), best)
    by_aware = Judge(path, samples, parts.judging).errors(best)
    assert found.after["y"] < found.before["y"]
    assert found.after["y"] < 1.1 * by_aware["y"]


def test_zeros_stay_zero(tmp_path: Path) -> None:
    path, samples = chain(tmp_path), rows(2, 5, 8, count=60)
    mixed = [
        Sample(inputs={"x": np.asarray(s.inputs["x"], np.float32) @ noise(6, 8, 8)}, labels={})
        for s in samples
    ]
    before = stored(onnx.load(path))
    mask = np.abs(noise(7, 12, 6)) > 0.7
    mask[:, 2] = False
    found = healed(path, changed(path, w2=before["w2"] * mask), mixed, tmp_path)
    assert found.after["y"] < found.before["y"]
    after = stored(found.proto)["w2"]
    assert not after[~mask].any()
    assert after[mask].all()
    biases = before["b2"], stored(found.proto)["b2"]
    assert (biases[0] == biases[1]).tolist() == [False, False, True, False, False, False]


def test_too_few_rows_are_said_and_nothing_is_learnt_by_heart(tmp_path: Path) -> None:
    path = chain(tmp_path)
    damaged = changed(path, w1=stored(onnx.load(path))["w1"] * 1.2)
    found = healed(path, damaged, rows(1, 1, 8, count=10), tmp_path)
    assert found.sweeps == 0
    assert "6 positions were seen for 8 unknowns" in found.left["first"]
    assert any("not healed" in note for note in found.notes)


def test_healing_that_makes_outputs_worse_is_undone(tmp_path: Path) -> None:
    """The second layer cancels the first's damage; healing the first alone is no good."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w2"], ["p"], name="second"),
        helper.make_node("Identity", ["p"], ["y"], name="out"),
    ]
    tensors = {"w1": noise(1, 8, 8), "w2": noise(2, 8, 8)}
    path = save(tmp_path / "cancel.onnx", nodes, ("n", "t", 8), **tensors)
    twice = changed(path, w1=tensors["w1"] * 2, w2=tensors["w2"] / 2)
    twice.graph.node[1].name = "other"  # has no counterpart, so it is not fitted
    found = healed(path, twice, rows(2, 5, 8), tmp_path)
    assert found.sweeps == 0
    assert "undone" in found.notes[0]
    assert found.after == found.before
    np.testing.assert_array_equal(stored(found.proto)["w1"], tensors["w1"] * 2)


def test_a_pruned_network_is_closer_to_its_original_after_healing(
    small_cnn: Path, tmp_path: Path
) -> None:
    base = noise(1, 3, 32, 32)
    samples = [
        Sample(inputs={"image": (base + noise(n + 2, 1, 3, 32, 32)).astype(np.float32)}, labels={})
        for n in range(60)
    ]
    pruned = prune(Net(onnx.load(small_cnn)), 0.5).proto
    zeros = {name: values == 0 for name, values in stored(pruned).items()}
    found = healed(small_cnn, pruned, samples, tmp_path)
    assert found.after["logits"] < 0.7 * found.before["logits"]
    for name, values in stored(found.proto).items():
        if zeros[name].mean() > 0.3:
            assert not values[zeros[name]].any()
    onnx.checker.check_model(found.proto, full_check=True)
    ort.InferenceSession(found.proto.SerializeToString(), providers=["CPUExecutionProvider"])


def moments(x: Array, y: Array) -> Moments:
    return Moments(
        count=len(x),
        xx=(x.T @ x)[None],
        x=x.sum(axis=0)[None],
        xy=(x.T @ y)[None],
        y=y.sum(axis=0)[None],
        yy=(y**2).sum(axis=0)[None],
    )


@given(seed=st.integers(0, 999), features=st.integers(1, 6), outputs=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_errors_follow_from_moments(seed: int, features: int, outputs: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, features)), rng.normal(size=(20, outputs))
    w, b = rng.normal(size=(features, outputs)), rng.normal(size=outputs)
    wanted = float(((y - x @ w - b) ** 2).sum())
    assert moments(x, y).error(w[None], b) == pytest.approx(wanted, rel=1e-9)


@given(seed=st.integers(0, 999), biased=st.booleans(), share=st.floats(0, 0.8))
@settings(max_examples=40, deadline=None)
def test_masked_least_squares_is_least_squares_on_what_is_left(
    seed: int, biased: bool, share: float
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, 7)), rng.normal(size=(40, 3))
    mask = rng.random((7, 3)) >= share
    start = rng.normal(size=(7, 3)) * mask
    made = least_squares(
        moments(x, y), start[None], np.zeros(3), ridge=1e-9, biased=biased, mask=mask[None]
    )[0]
    inner, outer = (x - x.mean(axis=0), y - y.mean(axis=0)) if biased else (x, y)
    for output in range(3):
        kept = mask[:, output]
        if kept.any():
            best, *_ = np.linalg.lstsq(inner[:, kept], outer[:, output])
            np.testing.assert_allclose(made[kept, output], best, atol=1e-3)
    assert not made[~mask].any()


@given(seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_a_fit_of_noise_keeps_to_the_weights_that_are_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(10, 2))
    x, other = rng.normal(size=(12, 10)), rng.normal(size=(400, 10))
    seen = moments(x, x @ w + 3 * rng.normal(size=(12, 2)))
    held = moments(other, other @ w)
    found = best_fit(seen, held, w[None], np.zeros(2), biased=False)
    free = best_fit(seen, seen, w[None], np.zeros(2), biased=False)
    assert found.ridge >= free.ridge
    assert held.error(found.matrix, found.vector) <= held.error(free.matrix, free.vector) + 1e-9
