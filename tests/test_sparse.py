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

from edgesdk.compress.apply import compress
from edgesdk.errors import InputError, ProfileError
from edgesdk.plan.sparsity import against_sparsity
from edgesdk.profile import load_profile
from edgesdk.recipe import Recipe
from edgesdk.samples import Sample
from edgesdk.structure.net import Net
from edgesdk.structure.reference import Reference
from edgesdk.structure.sparse import (
    TWO_OF_FOUR,
    input_norms,
    prune,
    prune_pattern,
    sizes,
)

Array = NDArray[Any]


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model(op: str, weight: Array) -> onnx.ModelProto:
    attributes: dict[str, Any] = {"transB": 1} if op == "Gemm" else {}
    rank = weight.ndim
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["?"] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?"] * rank)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@given(
    op=st.sampled_from(["Conv", "Gemm", "MatMul"]),
    seed=st.integers(0, 999),
    inputs=st.sampled_from([4, 8, 12, 16]),
    outputs=st.integers(3, 9),
    pattern=st.sampled_from([(2, 4), (1, 4), (3, 4), (1, 2)]),
)
@settings(max_examples=60, deadline=None)
def test_n_of_m_neighbours_along_the_inputs_are_left(
    op: str, seed: int, inputs: int, outputs: int, pattern: tuple[int, int]
) -> None:
    kernel = (9, 9)  # so that all weights are large enough to be worth it
    shape = {
        "Conv": (outputs, inputs, *kernel),
        "Gemm": (outputs * 64, inputs),
        "MatMul": (inputs, outputs * 64),
    }[op]
    before = noise(seed, *shape)
    made = prune_pattern(Net(model(op, before)), pattern)
    after = weights(made.proto)["w"]
    axis = 0 if op == "MatMul" else 1
    lined = np.moveaxis(after, axis, -1).reshape(-1, pattern[1])
    assert ((lined != 0).sum(axis=1) == pattern[0]).all()
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    magnitudes = np.moveaxis(np.abs(before), axis, -1).reshape(-1, pattern[1])
    kept = np.where(lined != 0, magnitudes, np.inf).min(axis=1)
    gone = np.where(lined == 0, magnitudes, -np.inf).max(axis=1)
    assert (kept >= gone).all()
    assert made.zeros["layer"] == pytest.approx(1 - pattern[0] / pattern[1])


@given(share=st.floats(0, 0.99), scope=st.sampled_from(["global", "layer", "output"]))
@settings(max_examples=40, deadline=None)
def test_the_least_weights_of_the_scope_go(share: float, scope: Any) -> None:
    before = noise(3, 40, 20)
    made = prune(Net(model("MatMul", before)), share, scope=scope)
    after = weights(made.proto)["w"]
    gone = after == 0
    parts = zip(before.T, gone.T, strict=True) if scope == "output" else [(before, gone)]
    for values, mask in parts:
        assert mask.sum() == round(share * values.size)
        if 0 < mask.sum() < values.size:
            assert np.abs(values[mask]).max() <= np.abs(values[~mask]).min()


def test_global_scope_takes_more_where_weights_are_small(small_mlp: Path) -> None:
    proto = onnx.load(small_mlp)
    (first, *_) = proto.graph.initializer
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) / 10, first.name))
    made = prune(Net(proto), 0.5, scope="global")
    shares = list(made.zeros.values())
    assert shares[0] > 0.5 > shares[1]
    even = prune(Net(onnx.load(small_mlp)), 0.5)
    assert list(even.zeros.values()) == [0.5, 0.5]


def test_importance_follows_what_enters(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model("MatMul", np.ones((16, 32), np.float32)), path)
    scale = np.linspace(1, 4, 16)
    samples = [
        Sample(inputs={"x": (noise(n, 9, 16) * scale).astype("f4")}, labels={}) for n in range(9)
    ]
    net = Net(onnx.load(path))
    norms = input_norms(Reference(path, tmp_path / "r", samples), net, samples, range(9))
    assert norms["layer"] == pytest.approx(scale, rel=0.4)
    after = weights(prune(net, 0.5, scope="output", norms=norms).proto)["w"]
    order = np.argsort(norms["layer"])
    assert not after[order[:8]].any()
    assert after[order[8:]].all()


def test_what_is_left_alone_is_named(small_cnn: Path) -> None:
    made = prune_pattern(Net(onnx.load(small_cnn)))
    assert "3 input channels are no multiple of 4" in made.left["conv_a"]
    assert "16 groups" in made.left["conv_c"]
    assert made.zeros == {"conv_e": 0.5, "conv_g": 0.5, "gemm_logits": 0.5}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_of_its_range_is_refused(share: float, small_mlp: Path) -> None:
    with pytest.raises(InputError, match="legal: 0 up to"):
        prune(Net(onnx.load(small_mlp)), share)
    with pytest.raises(InputError, match="legal: 0 < N < M"):
        prune_pattern(Net(onnx.load(small_mlp)), (4, 4))


def test_zeros_shrink_what_is_zipped_and_not_the_file(small_cnn: Path) -> None:
    before = sizes(Net(onnx.load(small_cnn)).proto)
    after = sizes(prune(Net(onnx.load(small_cnn)), 0.8).proto)
    assert after.dense == before.dense
    assert after.deflated < 0.5 * before.deflated
    assert after.sparse < 0.4 * before.sparse
    assert before.sparse <= before.dense


@pytest.mark.parametrize("name", ["w8-only", "w8a8-static", "w8a8-dynamic"])
def test_zeros_and_their_pattern_survive_quantization(
    name: str, small_mlp: Path, tmp_path: Path
) -> None:
    made = prune_pattern(Net(onnx.load(small_mlp)), TWO_OF_FOUR).proto
    zeros = [values == 0 for values in weights(made).values() if values.ndim == 2]
    path = tmp_path / "pruned.onnx"
    onnx.save(made, path)
    samples = [Sample(inputs={"x": noise(n, 1, 64)}, labels={}) for n in range(8)]
    recipe = Recipe.parse(name)
    found = compress(path, recipe, tmp_path / "out", calibration=samples)
    integers = [
        (values, tensor.name)
        for tensor in onnx.load(found.path).graph.initializer
        if (values := numpy_helper.to_array(tensor)).ndim == 2 and values.dtype.itemsize == 1
    ]
    assert len(integers) == 2
    for (values, _), mask in zip(integers, zeros, strict=True):
        lined = mask if values.shape == mask.shape else mask.T
        assert (values[lined] == 0).all()
        assert (values != 0).mean() > 0.4
    ort.InferenceSession(found.path, providers=["CPUExecutionProvider"])


def test_runtimes_without_sparse_kernels_say_so() -> None:
    amx, plain, jetson = (load_profile(n) for n in ("x86-amx", "x86-avx2", "jetson"))
    found = against_sparsity(plain, "onnxruntime", TWO_OF_FOUR)
    assert found is not None
    assert "no kernel that skips zeros" in found.why
    assert found.source
    refused = against_sparsity(plain, "openvino")
    assert refused is not None
    assert "AMX" in refused.why
    assert against_sparsity(amx, "openvino") is None
    assert against_sparsity(jetson, "tensorrt", TWO_OF_FOUR) is None
    anywhere = against_sparsity(jetson, "tensorrt")
    assert anywhere is not None
    assert "2:4" in anywhere.why
    with pytest.raises(ProfileError):
        against_sparsity(plain, "tensorrt")
