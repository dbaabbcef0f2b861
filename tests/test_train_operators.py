"""The operators that training knows, held against the onnx project's own cases and onnxruntime."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'edgesdk[train]'"
)

from edgesdk.errors import ModelError  # noqa: E402
from edgesdk.train.blocks import UnsupportedOperators  # noqa: E402
from edgesdk.train.operators import OPERATORS  # noqa: E402
from edgesdk.train.reader import OnnxModule  # noqa: E402

Array = np.ndarray[Any, Any]
Case = Any

# What the known operators have cases of and training does not claim, by name, and why.
NOT_CLAIMED = {
    r"FLOAT8|FLOAT4|float4|_e4m3fn|_e5m2": "no values of 8 or 4 bits that are not integers",
    r"_string|test_cast_.*STRING": "no strings",
    r"training_dropout(?!.*zero)": "the case wants numpy's random numbers",
    r"maxpool_with_argmax": "no indices of the largest values",
}
# Operators of which the onnx project has no case, held against onnxruntime below.
WITHOUT_CASES = {
    ("", "GlobalLpPool"),
    ("", "SimplifiedLayerNormalization"),
    *(key for key in OPERATORS if key[0]),
}
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@pytest.fixture(scope="module")
def every_case() -> list[Case]:
    """The onnx project's cases of single operators."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model_tests(kind="node")


@pytest.fixture(scope="module")
def cases(every_case: list[Case]) -> dict[str, list[Case]]:
    """All cases that have none but known operators, by the first operator of each."""
    found: dict[str, list[Case]] = {}
    for case in every_case:
        assert case.model is not None
        nodes = case.model.graph.node
        if all((node.domain, node.op_type) in OPERATORS for node in nodes):
            found.setdefault(nodes[0].op_type, []).append(case)
    return found


@pytest.mark.parametrize("operator", sorted(name for domain, name in OPERATORS if not domain))
def test_an_operator_computes_what_the_onnx_project_expects(
    operator: str, cases: dict[str, list[Case]]
) -> None:
    wrong = []
    for case in cases.get(operator, []):
        if any(re.search(pattern, case.name) for pattern in NOT_CLAIMED):
            continue
        try:
            _check(case)
        except (AssertionError, ModelError) as exc:
            wrong.append(f"{case.name}: {exc}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("operator", ["AffineGrid", "Attention", "RotaryEmbedding", "SwiGLU"])
def test_an_operator_that_the_standard_defines_by_others_is_computed_by_them(
    operator: str, every_case: list[Case]
) -> None:
    wrong, right = [], 0
    for case in every_case:
        if case.model.graph.node[0].op_type != operator:
            continue
        try:
            _check(case)
            right += 1
        except UnsupportedOperators:
            continue  # its definition depends on a type that is not known
        except (AssertionError, ModelError) as exc:
            wrong.append(f"{case.name}: {exc}")
    assert not wrong, "\n".join(wrong)
    assert right >= 3


def test_every_operator_has_a_case_and_every_exception_is_one(
    cases: dict[str, list[Case]],
) -> None:
    every = [case for group in cases.values() for case in group]
    run = [c for c in every if not any(re.search(p, c.name) for p in NOT_CLAIMED)]
    seen = {(node.domain, node.op_type) for case in run for node in case.model.graph.node}
    assert OPERATORS.keys() - seen == WITHOUT_CASES
    for pattern in NOT_CLAIMED:
        assert any(re.search(pattern, case.name) for case in every), pattern


def _check(case: Case) -> None:
    graph = case.model.graph
    module = OnnxModule(case.model)
    loose = any(v.type.tensor_type.elem_type in HALVES for v in (*graph.input, *graph.output))
    for inputs, outputs in case.data_sets:
        feed = {v.name: _array(x) for v, x in zip(graph.input, inputs, strict=True)}
        found = module.run(feed)
        for value, raw in zip(graph.output, outputs, strict=True):
            got, wanted = found[value.name], _array(raw)
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), value.name
            # Half floats are computed in float32, so what is rounded in between differs.
            np.testing.assert_allclose(
                got.astype(np.float64),
                wanted.astype(np.float64),
                rtol=1e-2 if loose else max(case.rtol, 1e-3),
                atol=2e-3 if loose else max(case.atol, 1e-6),
            )


def _array(value: Any) -> Array:
    if isinstance(value, TensorProto):
        return np.asarray(numpy_helper.to_array(value))
    return np.asarray(value)


def _one_node(
    op: str, feed: Mapping[str, Array], *, domain: str = "", opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    node = helper.make_node(op, list(feed), ["y"], domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feed.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    domains = [helper.make_opsetid("", opset)]
    domains += [helper.make_opsetid(domain, 1)] if domain else []
    graph = helper.make_graph([node], op, inputs, outputs)
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = _normal(2, 4, 6, 5)
AGAINST_ORT: dict[str, tuple[str, str, dict[str, Array], dict[str, Any]]] = {
    "global_lp_pool": ("GlobalLpPool", "", {"x": X}, {"p": 3}),
    "simplified_layer_norm": (
        "SimplifiedLayerNormalization",
        "",
        {"x": X, "s": _normal(5)},
        {"axis": -1, "epsilon": 1e-5},
    ),
    "gelu": ("Gelu", "com.microsoft", {"x": X}, {}),
    "quick_gelu": ("QuickGelu", "com.microsoft", {"x": X}, {"alpha": 1.5}),
    "fast_gelu": ("FastGelu", "com.microsoft", {"x": X, "b": _normal(5)}, {}),
    "fused_matmul": (
        "FusedMatMul",
        "com.microsoft",
        {"a": X, "b": _normal(2, 4, 7, 5)},
        {"transB": 1, "alpha": 0.5},
    ),
    "skip_layer_norm": (
        "SkipLayerNormalization",
        "com.microsoft",
        {"x": _normal(2, 3, 8), "s": _normal(2, 3, 8, seed=1), "g": _normal(8), "b": _normal(8)},
        {"epsilon": 1e-5},
    ),
    "quantize": (
        "QuantizeLinear",
        "com.microsoft",
        {"x": X, "s": np.array([0.1], np.float32), "z": np.zeros(1, np.uint16) + 30000},
        {},
    ),
    "dequantize": (
        "DequantizeLinear",
        "com.microsoft",
        {
            "x": np.arange(8, dtype=np.uint16) * 999,
            "s": np.array([0.1], np.float32),
            "z": np.zeros(1, np.uint16) + 30000,
        },
        {},
    ),
}


@pytest.mark.parametrize("name", AGAINST_ORT)
def test_operators_without_cases_compute_what_onnxruntime_does(name: str) -> None:
    op, domain, feed, attributes = AGAINST_ORT[name]
    scalar = {n: a.reshape(()) if n in ("s", "z") and a.size == 1 else a for n, a in feed.items()}
    _against_ort(_one_node(op, scalar, domain=domain, **attributes), scalar)


@pytest.mark.parametrize(
    ("op", "opset", "feed", "attributes"),
    [
        ("Softmax", 11, {"x": X}, {"axis": 2}),
        ("LogSoftmax", 12, {"x": X}, {}),
        ("Clip", 7, {"x": X}, {"min": -0.5, "max": 0.75}),
        ("Squeeze", 11, {"x": X[:, :1]}, {"axes": [1]}),
        ("Unsqueeze", 11, {"x": X}, {"axes": [0, -1]}),
        ("ReduceSum", 11, {"x": X}, {"axes": [1, 3], "keepdims": 0}),
        ("ReduceMean", 11, {"x": X}, {"axes": [-1]}),
        ("Slice", 9, {"x": X}, {"starts": [1, -2], "ends": [99, -1], "axes": [1, 3]}),
        ("Pad", 10, {"x": X}, {"pads": [0, 1, 2, 0, 0, 0, 1, 3], "value": 1.5}),
        ("Pad", 10, {"x": X}, {"pads": [0, 0, 2, 1, 0, 0, 1, 3], "mode": "reflect"}),
        ("Upsample", 9, {"x": X, "s": np.array([1, 1, 2, 1.5], np.float32)}, {"mode": "linear"}),
        ("Resize", 10, {"x": X, "s": np.array([1, 1, 2, 1.5], np.float32)}, {"mode": "nearest"}),
        ("Dropout", 10, {"x": X}, {"ratio": 0.5}),
        ("MaxPool", 12, {"x": X}, {"kernel_shape": [3, 2], "ceil_mode": 1, "strides": [2, 2]}),
        (
            "AveragePool",
            11,
            {"x": X},
            {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        ),
        (
            "ConvTranspose",
            11,
            {"x": X, "w": _normal(4, 3, 3, 3)},
            {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        ),
        (
            "Conv",
            11,
            {"x": X, "w": _normal(6, 2, 3, 2), "b": _normal(6)},
            {"group": 2, "pads": [1, 0, 2, 1], "dilations": [2, 1]},
        ),
    ],
)
def test_older_opsets_and_uneven_windows_compute_what_onnxruntime_does(
    op: str, opset: int, feed: dict[str, Array], attributes: dict[str, Any]
) -> None:
    _against_ort(_one_node(op, feed, opset=opset, **attributes), feed)


def _against_ort(model: onnx.ModelProto, feed: Mapping[str, Array]) -> None:
    ort = pytest.importorskip("onnxruntime")
    model.graph.output[0].type.Clear()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (wanted, *_) = session.run(["y"], dict(feed))
    got = OnnxModule(model).run(feed)["y"]
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("plain", [True, False])
def test_recurrent_layers_compute_what_onnxruntime_does(
    op: str, direction: str, plain: bool
) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    hidden, width = 5, 3
    feed = {
        "x": _normal(7, 2, width),
        "w": _normal(ways, gates * hidden, width, seed=1),
        "r": _normal(ways, gates * hidden, hidden, seed=2),
        "b": _normal(ways, 2 * gates * hidden, seed=3),
    }
    if not plain:  # lengths keep torch's own from being used
        feed["n"] = np.array([7, 4], np.int32)
        feed["h"] = _normal(ways, 2, hidden, seed=4)
    more = {"linear_before_reset": 1} if op == "GRU" and plain else {}
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction, **more}
    _against_ort(_one_node(op, feed, opset=14, **attributes), feed)


def test_unknown_operators_are_named_all_at_once() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"]),
        helper.make_node("Unique", ["a"], ["b"]),
        helper.make_node("Magic", ["b"], ["y"], domain="my.own"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "unknown",
        [value("x", TensorProto.FLOAT, [2, 2])],
        [value("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(UnsupportedOperators) as caught:
        OnnxModule(helper.make_model(graph))
    assert caught.value.operators == ("Det", "Unique", "my.own:Magic")
    assert isinstance(caught.value, ModelError)


def test_a_node_that_cannot_be_computed_is_named() -> None:
    feed = {"a": _normal(2, 3), "b": _normal(2, 3)}
    with pytest.raises(ModelError, match=r"MatMul.* cannot be computed"):
        OnnxModule(_one_node("MatMul", feed)).run(feed)
