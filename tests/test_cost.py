"""Predictions: pure, explained node by node, and right about what grows with what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgesdk.errors import ProfileError
from edgesdk.evidence import Evidence
from edgesdk.model import model_work, read_model
from edgesdk.onnxfile.work import GraphWork
from edgesdk.plan.cost import live_bytes, predict
from edgesdk.plan.fuse import tasks_of
from edgesdk.plan.interpolate import Interpolation
from edgesdk.plan.speeds import Speeds
from edgesdk.profile import load_profile
from edgesdk.profile_speeds import KINDS, Speed
from edgesdk.profile_values import Profile
from edgesdk.recipe import Recipe

IMAGE = {"image": (1, 3, 32, 32)}
IDS = {"ids": (1, 16)}


@pytest.fixture(scope="module")
def cnn(small_cnn: Path) -> GraphWork:
    return model_work(read_model(small_cnn), IMAGE)


@pytest.fixture(scope="module")
def attention(small_attention: Path) -> GraphWork:
    return model_work(read_model(small_attention), IDS)


def kinds(graph: GraphWork) -> list[str]:
    return [">".join((task.kind, *(kind for kind, _ in task.tail))) for task in tasks_of(graph)]


def series(kind: str, *points: tuple[float, ...], precision: str = "fp32") -> Speed:
    return Speed(
        name=f"onnxruntime {precision} {kind}",
        backend="onnxruntime",
        precision=precision,
        op=kind,
        threads=2,
        source="a test",
        date="2026-11-22",
        points=points,
    )


def probed(*speeds: Speed) -> Profile:
    return replace(load_profile("x86-amx"), speeds=speeds)


SLOW_CONV = series("conv", (100, 8, 8, 1, 10.0), (1000, 16, 16, 9, 4000.0))
FAST_CONV = series("conv", (100, 8, 8, 1, 5.0), (1000, 16, 16, 9, 500.0), precision="w8a8")


# --- what an engine would run


def test_convolutions_take_their_activations_along(cnn: GraphWork) -> None:
    found = kinds(cnn)
    assert found[:4] == ["conv>relu", "depthwise>relu", "conv>relu", "conv>relu"]
    assert found[4] == "reduce"
    assert found[-1] == "product"


def test_attention_keeps_what_stands_apart(attention: GraphWork) -> None:
    found = kinds(attention)
    assert found.count("batched") + found.count("batched>relu") == 2
    assert {"softmax", "norm", "gather", "transpose"} <= set(found)
    # The residual belongs to the product before it, not to the embedding.
    assert "product>add" in found


def decomposed(tmp_path: Path, nodes: list[onnx.NodeProto], *weights: str) -> GraphWork:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 64])],
        [helper.make_tensor(name, TensorProto.FLOAT, [], [2.0]) for name in weights],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return model_work(read_model(path), {})


def test_a_layer_norm_in_nine_pieces_is_one(tmp_path: Path) -> None:
    node = helper.make_node
    graph = decomposed(
        tmp_path,
        [
            node("ReduceMean", ["x"], ["m"], axes=[-1]),
            node("Sub", ["x", "m"], ["d"]),
            node("Pow", ["d", "two"], ["s"]),
            node("ReduceMean", ["s"], ["v"], axes=[-1]),
            node("Add", ["v", "eps"], ["e"]),
            node("Sqrt", ["e"], ["r"]),
            node("Div", ["d", "r"], ["n"]),
            node("Mul", ["n", "scale"], ["p"]),
            node("Add", ["p", "bias"], ["y"]),
        ],
        *("two", "eps", "scale", "bias"),
    )
    (task,) = tasks_of(graph)
    assert (task.kind, task.sizes) == ("norm", (16.0, 64.0))


def test_a_gelu_in_five_pieces_is_one(tmp_path: Path) -> None:
    node = helper.make_node
    graph = decomposed(
        tmp_path,
        [
            node("Div", ["x", "root"], ["a"]),
            node("Erf", ["a"], ["b"]),
            node("Add", ["b", "one"], ["c"]),
            node("Mul", ["x", "c"], ["d"]),
            node("Mul", ["d", "half"], ["y"]),
        ],
        *("root", "one", "half"),
    )
    assert [task.kind for task in tasks_of(graph)] == ["gelu"]


@pytest.mark.parametrize(("gate", "kind"), [("Sigmoid", "swish"), ("HardSigmoid", "swish")])
def test_a_value_times_its_own_gate_is_one(tmp_path: Path, gate: str, kind: str) -> None:
    nodes = [helper.make_node(gate, ["x"], ["g"]), helper.make_node("Mul", ["g", "x"], ["y"])]
    assert [task.kind for task in tasks_of(decomposed(tmp_path, nodes))] == [kind]


def test_a_hard_swish_by_clipping_is_one(tmp_path: Path) -> None:
    node = helper.make_node
    graph = decomposed(
        tmp_path,
        [
            node("Add", ["x", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["b"]),
            node("Mul", ["x", "b"], ["c"]),
            node("Div", ["c", "six"], ["y"]),
        ],
        *("three", "zero", "six"),
    )
    assert [task.kind for task in tasks_of(graph)] == ["hardswish"]


def test_every_kind_that_a_graph_can_have_has_sizes(cnn: GraphWork, attention: GraphWork) -> None:
    for task in (*tasks_of(cnn), *tasks_of(attention)):
        assert len(task.sizes) == len(KINDS[task.kind])
        assert all(size > 0 for size in task.sizes)


def test_live_activations_are_those_that_are_still_needed(cnn: GraphWork) -> None:
    largest = max(tensor.bytes or 0 for node in cnn.nodes for tensor in node.outputs)
    both = sum(
        tensor.bytes or 0 for node in cnn.nodes for tensor in (*node.operands, *node.outputs)
    )
    assert 2 * largest <= live_bytes(cnn) < both


# --- between measured points


@given(
    st.lists(
        st.tuples(st.floats(1, 1e6), st.floats(1, 1e4), st.floats(0.5, 1e5)),
        min_size=1,
        max_size=12,
    ),
    st.tuples(st.floats(0.01, 1e9), st.floats(0.01, 1e9)),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_asked_has_a_positive_finite_time(
    points: list[tuple[float, ...]], asked: tuple[float, float]
) -> None:
    guess = Interpolation(points).at(asked)
    assert 0 < guess.us < math.inf
    assert 0 <= guess.spread < math.inf


@given(st.floats(0.1, 10.0), st.floats(0.5, 1.0), st.floats(1.5, 900.0))
@settings(max_examples=60, deadline=None)
def test_between_points_of_a_power_law_is_the_power_law(
    slope: float, exponent: float, size: float
) -> None:
    points = [(x, slope * x**exponent) for x in (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)]
    assert Interpolation(points).at((size,)).us == pytest.approx(slope * size**exponent, rel=0.05)


def test_far_from_every_point_it_says_so() -> None:
    fit = Interpolation([(10, 10, 1.0), (12, 10, 1.3), (10, 12, 1.2)])
    assert fit.at((1e5, 1e5)).spread > 2 * fit.at((11, 11)).spread


def test_below_the_smallest_point_nothing_gets_cheaper() -> None:
    fit = Interpolation([(64, 3.0), (4096, 4.0), (1e6, 300.0)])
    assert fit.at((1,)).us == fit.at((64,)).us
    assert fit.at((1e8,)).us > 50 * fit.at((1e6,)).us


# --- predictions


def test_the_shares_and_the_run_make_up_the_latency(cnn: GraphWork) -> None:
    speeds = Speeds(probed(SLOW_CONV, series("run", (1, 50.0), (1e6, 50.0))))
    found = predict(cnn, Recipe(), "onnxruntime", speeds)
    assert found.evidence is Evidence.ESTIMATED
    assert found.low < found.latency_ms < found.high
    assert sum(node.ms for node in found.per_node) + 0.05 == pytest.approx(
        found.latency_ms, rel=0.01
    )


def test_measured_int8_is_used_for_int8_recipes_only(cnn: GraphWork) -> None:
    speeds = Speeds(probed(SLOW_CONV, FAST_CONV))
    slow, fast, alone = (
        predict(cnn, Recipe.parse(name), "onnxruntime", speeds)
        for name in ("fp32", "w8a8-static", "w8-only")
    )
    assert fast.latency_ms < slow.latency_ms
    assert alone.latency_ms == slow.latency_ms
    assert {node.precision for node in fast.per_node} == {"fp32", "w8a8"}


def test_dynamic_changes_products_alone(cnn: GraphWork) -> None:
    found = predict(cnn, Recipe.parse("w8a8-dynamic"), "onnxruntime", Speeds(probed(SLOW_CONV)))
    changed = {node.kind for node in found.per_node if node.precision == "w8-dynamic"}
    assert changed == {"product"}


def test_without_probed_speeds_the_interval_is_wide(cnn: GraphWork) -> None:
    found = predict(cnn, Recipe(), "onnxruntime", Speeds(load_profile("raspberry-pi-5")))
    assert not found.probed
    assert found.high > 3 * found.latency_ms
    known = predict(cnn, Recipe(), "onnxruntime", Speeds(probed(SLOW_CONV)))
    assert known.probed


def test_a_larger_input_takes_longer_and_more_memory(small_cnn: Path) -> None:
    model = read_model(small_cnn)
    speeds = Speeds(load_profile("x86-amx"))
    few, many = (
        predict(model_work(model, {"image": (rows, 3, 32, 32)}), Recipe(), "openvino", speeds)
        for rows in (1, 256)
    )
    assert many.latency_ms > few.latency_ms
    assert many.peak_mib > few.peak_mib


def test_int8_weights_take_less_memory(attention: GraphWork) -> None:
    speeds = Speeds(load_profile("x86-amx"))
    whole, small = (
        predict(attention, Recipe.parse(name), "openvino", speeds).peak_mib
        for name in ("fp32", "w8a8-static")
    )
    assert small < whole


def test_a_backend_that_the_device_has_not_is_named(cnn: GraphWork) -> None:
    with pytest.raises(ProfileError, match="tensorrt"):
        predict(cnn, Recipe(), "tensorrt", Speeds(load_profile("x86-amx")))


def test_predicting_is_pure(attention: GraphWork) -> None:
    speeds = Speeds(probed(SLOW_CONV))
    recipe = Recipe.parse("w8a8-static-nncf-mixed-transformer")
    first = predict(attention, recipe, "onnxruntime", speeds)
    assert first == predict(attention, recipe, "onnxruntime", Speeds(probed(SLOW_CONV)))
    assert np.isfinite(first.latency_ms)
