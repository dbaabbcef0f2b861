"""ONNX graphs as PyTorch modules: what they compute, what of them is trained, and how it goes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesdk.testing.graphs import CASES

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'edgesdk[train]'"
)

from edgesdk.errors import ModelError  # noqa: E402
from edgesdk.train.reader import OnnxModule  # noqa: E402
from edgesdk.train.straight_through import dequantize, quantize  # noqa: E402
from edgesdk.train.write import with_weights, write_trained  # noqa: E402

Array = np.ndarray[Any, Any]
MODELS = ("small_cnn", "small_mlp", "small_attention", "small_lstm")


def _session(model: onnx.ModelProto) -> Any:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _assert_equal(model: onnx.ModelProto, feed: dict[str, Array], tolerance: float = 1e-5) -> None:
    """The module computes what onnxruntime does."""
    session = _session(model)
    wanted = session.run(None, feed)
    found = OnnxModule(model).run(feed)
    for value, expected in zip(session.get_outputs(), wanted, strict=True):
        got = found[value.name]
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        near = max(tolerance * float(np.abs(expected).max(initial=0)), 1e-6)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=near)


@pytest.mark.parametrize("name", CASES)
def test_graphs_of_every_kind_compute_what_onnxruntime_does(name: str) -> None:
    case = CASES[name]()
    for feed in case.feeds:
        _assert_equal(case.model, dict(feed))


@pytest.mark.parametrize(
    ("fixture", "feed"),
    [
        ("cls_model", {"x": (1, 3, 48, 192)}),
        ("rec_model", {"x": (1, 3, 48, 96)}),
        ("det_model", {"x": (1, 3, 96, 64)}),
    ],
)
def test_real_models_compute_what_onnxruntime_does(
    fixture: str, feed: dict[str, tuple[int, ...]], request: pytest.FixtureRequest
) -> None:
    model = onnx.load(request.getfixturevalue(fixture))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in feed.items()}
    _assert_equal(model, arrays, 1e-4)


def test_branches_with_recurrent_layers_inside_compute_what_onnxruntime_does(
    vad_model: Path,
) -> None:
    rng = np.random.default_rng(0)
    for rate, length in ((16000, 576), (8000, 288)):
        feed: dict[str, Array] = {
            "input": rng.normal(size=(1, length)).astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(rate, np.int64),
        }
        _assert_equal(onnx.load(vad_model), feed, 1e-4)


def test_weights_inside_branches_have_gradients_where_the_branch_was_taken(
    vad_model: Path,
) -> None:
    module = OnnxModule(onnx.load(vad_model))
    feed = {
        "input": torch.randn(1, 576),
        "state": torch.zeros(2, 1, 128),
        "sr": torch.tensor(16000),
    }
    module(feed)["output"].sum().backward()
    reached = {key for key, weight in module.weights.items() if weight.grad is not None}
    assert 0 < len(reached) < len(module.weights)
    assert all(".then_branch/" in key for key in reached)


@pytest.mark.parametrize("fixture", MODELS)
def test_every_weight_of_a_model_is_trained_and_constants_are_not(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = onnx.load(request.getfixturevalue(fixture))
    module = OnnxModule(model)
    floats = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) > 1
    }
    assert module.weights.keys() == floats


def test_statistics_of_batch_normalization_and_single_numbers_are_no_weights() -> None:
    arrays = {
        name: np.ones(3, np.float32) for name in ("scale", "bias", "mean", "variance", "shift")
    }
    arrays["half"] = np.array(0.5, np.float32)
    arrays["limit"] = np.array(6.0, np.float32)
    nodes = [
        helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "variance"], ["a"]),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("Clip", ["b", "", "limit"], ["c"]),
        helper.make_node("Add", ["c", "shift"], ["y"]),
    ]
    module = OnnxModule(_model(nodes, arrays, ["N", 3]))
    assert module.weights.keys() == {"scale", "bias", "shift"}


def test_a_weight_that_two_nodes_share_is_one() -> None:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(4, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["a", "wt"], ["y"]),
    ]
    module = OnnxModule(_model(nodes, arrays, ["N", 4]))
    x = torch.randn(3, 4)
    module({"x": x})["y"].sum().backward()
    weight = torch.from_numpy(arrays["w"].copy()).requires_grad_()
    (x @ weight @ weight.T).sum().backward()
    (found,) = module.weights.values()
    torch.testing.assert_close(found.grad, weight.grad)


def test_inner_tensors_come_out_and_only_what_leads_to_them_is_run(small_cnn: Path) -> None:
    module = OnnxModule(onnx.load(small_cnn))
    images = torch.randn(2, 3, 32, 32)
    assert module({"image": images}, ["b"])["b"].shape == (2, 16, 16, 16)
    assert "logits" not in module.ancestors(["h"])
    with pytest.raises(ModelError, match="no tensor 'nowhere'"):
        module({"image": images}, ["nowhere"])
    with pytest.raises(ModelError, match="input 'image' is not given"):
        module({})


# --- gradients


@pytest.mark.parametrize("fixture", ["small_mlp", "small_attention", "small_lstm"])
def test_gradients_are_those_of_finite_differences(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    module = OnnxModule(onnx.load(request.getfixturevalue(fixture))).double()
    torch.manual_seed(0)
    x = {
        "small_mlp": {"x": torch.randn(2, 64, dtype=torch.float64)},
        "small_attention": {"ids": torch.tensor([[3, 7, 1]])},
        "small_lstm": {"x": torch.randn(3, 2, 8, dtype=torch.float64)},
    }[fixture]
    bias = min(module.weights.values(), key=lambda weight: weight.numel())

    def outputs(values: Any) -> Any:
        with torch.no_grad():
            bias.copy_(values)
        bias.requires_grad_(requires_grad=True)
        (found,) = module(x).values()
        (gradient,) = torch.autograd.grad(found.square().sum(), bias)
        return float(found.detach().square().sum()), gradient

    start = bias.detach().clone()
    _, gradient = outputs(start)
    for place in range(0, start.numel(), max(1, start.numel() // 8)):
        step = torch.zeros_like(start).reshape(-1)
        step[place] = 1e-5
        up, down = (outputs(start + sign * step.reshape(start.shape))[0] for sign in (1, -1))
        expected = (up - down) / 2e-5
        assert float(gradient.reshape(-1)[place]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_fake_quantization_has_the_gradients_of_its_surrogate_without_rounding() -> None:
    """Inside the limits the value passes; the scale gets rounding error, as LSQ derives."""
    torch.manual_seed(0)
    values = (torch.randn(40, dtype=torch.float64) * 3).requires_grad_()
    scale = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    limits, zero = (-8, 7), 1.0
    integers = torch.round(values / scale).detach() + zero
    inside = (integers >= limits[0]) & (integers <= limits[1])
    rounding = (torch.round(values / scale) - values / scale).detach()

    def surrogate(x: Any, s: Any) -> Any:
        """Rounding as the constant that it adds, and clamping as it is: smooth, equal at this point."""
        return (torch.where(inside, x / s + rounding + zero, integers.clamp(*limits)) - zero) * s

    assert torch.autograd.gradcheck(surrogate, (values, scale))
    wanted = torch.autograd.grad(surrogate(values, scale).sum(), (values, scale))
    found_values = dequantize(quantize(values, scale, zero, limits), scale, zero)
    found = torch.autograd.grad(found_values.sum(), (values, scale))
    for got, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(found_values, surrogate(values, scale))


# --- quantized graphs and writing back


def _quantized(kind: int, *, block: int = 0) -> onnx.ModelProto:
    """x -> QuantizeLinear -> DequantizeLinear -> Gemm with an integer weight and an int32 bias."""
    rng = np.random.default_rng(0)
    low, high = (-127, 128) if kind == TensorProto.INT8 else (-7, 8)
    shape = (16 // block, 8) if block else (8,)
    tensors = [
        numpy_helper.from_array(np.array(0.04, np.float32), "x_scale"),
        numpy_helper.from_array(np.array(120, np.uint8), "x_zero"),
        helper.make_tensor(
            "w", kind, (16, 8), rng.integers(low, high, (16, 8)).astype(np.int8).flatten()
        ),
        numpy_helper.from_array(rng.uniform(0.01, 0.05, shape).astype(np.float32), "w_scale"),
        numpy_helper.from_array(rng.integers(-9999, 9999, 8).astype(np.int32), "b"),
        numpy_helper.from_array(np.full(8, 1e-3, np.float32), "b_scale"),
    ]
    how: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["wd"], **how),
        helper.make_node("DequantizeLinear", ["b", "b_scale"], ["bd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"]),
    ]
    model = _model(nodes, {}, ["N", 16], opset=21)
    model.graph.initializer.extend(tensors)
    return model


QUANTIZED = [(TensorProto.INT8, 0), (TensorProto.INT4, 0), (TensorProto.INT4, 4)]


@pytest.mark.parametrize(("kind", "block"), QUANTIZED)
def test_quantized_graphs_compute_what_onnxruntime_does_before_and_after_training(
    kind: int, block: int
) -> None:
    model = _quantized(kind, block=block)
    module = OnnxModule(model)
    assert module.weights.keys() == module.quantized.keys() == {"w", "b"}
    feed = {"x": np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)}
    _assert_equal(model, feed)
    with torch.no_grad():
        for weight in module.weights.values():
            weight.add_(torch.randn_like(weight) * 0.05)
    trained = with_weights(module, model)
    onnx.checker.check_model(trained, full_check=True)
    before, after = (_initializer(m, "w") for m in (model, trained))
    assert (before != after).any()
    assert module.run(feed)["y"] == pytest.approx(_session(trained).run(None, feed)[0], abs=1e-4)
    _assert_equal(trained, feed)


def test_gradients_reach_integer_weights_and_learned_scales() -> None:
    module = OnnxModule(_quantized(TensorProto.INT8), learn_scales=True)
    module({"x": torch.randn(5, 16)})["y"].square().sum().backward()
    assert module.weights.keys() == {"w", "b", "x_scale", "w_scale"}
    assert all(weight.grad.abs().sum() > 0 for weight in module.weights.values())


def test_learned_scales_keep_the_scale_of_a_bias_that_kernels_assume() -> None:
    model = _quantized(TensorProto.INT8)
    product = 0.04 * _initializer(model, "w_scale")
    (scale,) = (t for t in model.graph.initializer if t.name == "b_scale")
    scale.CopyFrom(numpy_helper.from_array(product.astype(np.float32), "b_scale"))
    module = OnnxModule(model, learn_scales=True)
    with torch.no_grad():
        for key in ("x_scale", "w_scale"):
            module.weights[key].mul_(1.25)
    trained = with_weights(module, model)
    product = _initializer(trained, "x_scale") * _initializer(trained, "w_scale")
    np.testing.assert_allclose(_initializer(trained, "b_scale"), product, rtol=1e-6)
    bias = _initializer(model, "b") * _initializer(model, "b_scale")
    again = _initializer(trained, "b") * _initializer(trained, "b_scale")
    np.testing.assert_allclose(again, bias, atol=float(product.max()))
    feed = {"x": np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)}
    np.testing.assert_allclose(
        module.run(feed)["y"], _session(trained).run(None, feed)[0], atol=1e-4
    )


def test_what_was_not_trained_is_written_back_byte_by_byte(
    small_cnn: Path, vad_model: Path
) -> None:
    for model in (onnx.load(small_cnn), onnx.load(vad_model), _quantized(TensorProto.INT8)):
        again = with_weights(OnnxModule(model), model)
        assert again.SerializeToString(deterministic=True) == model.SerializeToString(
            deterministic=True
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_trained_weights_keep_their_names_shapes_and_types(dtype: Any) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 2)).astype(dtype)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    model = _model(nodes, {"w": weight}, ["N", 4])
    module = OnnxModule(model)
    with torch.no_grad():
        module.weights["w"].add_(0.3)
        module.weights["w"][0, 0] = 1e6
    trained = with_weights(module, model)
    found = _initializer(trained, "w")
    assert (found.dtype, found.shape) == (weight.dtype, weight.shape)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1:], weight[1:].astype(np.float32) + 0.3, rtol=1e-3)
    assert trained.graph.node == model.graph.node


def test_weights_in_constants_inside_branches_are_written_back(vad_model: Path) -> None:
    model = onnx.load(vad_model)
    module = OnnxModule(model)
    with torch.no_grad():
        for weight in module.weights.values():
            weight.mul_(1.01)
    again = OnnxModule(with_weights(module, model))
    for key, weight in module.weights.items():
        torch.testing.assert_close(again.weights[key], weight, rtol=0, atol=0)


def test_external_data_stays_external(small_cnn: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "out" / "trained.onnx"
    onnx.save(onnx.load(small_cnn), source, save_as_external_data=True, size_threshold=0)
    module = OnnxModule(onnx.load(source))
    with torch.no_grad():
        for weight in module.weights.values():
            weight.mul_(2.0)
    for _ in range(2):  # writing it again does not pile up
        write_trained(module, source, target)
    assert {path.name for path in target.parent.iterdir()} == {"trained.onnx", "trained.onnx.data"}
    assert (target.parent / "trained.onnx.data").stat().st_size < 2 * small_cnn.stat().st_size
    before, after = OnnxModule(onnx.load(source)), OnnxModule(onnx.load(target))
    for key, weight in before.weights.items():
        torch.testing.assert_close(after.weights[key], 2 * weight)


def test_weights_of_another_model_are_refused(small_cnn: Path, small_mlp: Path) -> None:
    with pytest.raises(ModelError, match="weight 'w"):
        with_weights(OnnxModule(onnx.load(small_mlp)), onnx.load(small_cnn))
    module = OnnxModule(onnx.load(small_mlp))
    with pytest.raises(ModelError, match="no weight 'x'"):
        module.load_weights({"x": np.zeros(1, np.float32)})


def _initializer(model: onnx.ModelProto, name: str) -> Array:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor))


def _model(
    nodes: list[onnx.NodeProto],
    arrays: dict[str, Array],
    shape: list[str | int],
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
