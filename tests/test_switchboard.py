"""Switchboards compute what they simulate: float when off, what real quantizers make when on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesdk.compress.apply import compress
from edgesdk.compress.simulated import in_blocks, in_channels
from edgesdk.compress.switchboard import Switchboard, build_shadows, build_switchboard
from edgesdk.diagnose.simulator import Damage, Engine, Simulator
from edgesdk.errors import ModelError, RecipeError
from edgesdk.precision import Precision
from edgesdk.recipe import Recipe
from edgesdk.samples import Sample

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
ALL = ("w8a8", "w8a8-symmetric-tensor", "w8a16", "w8", "w4b32", "bf16", "fp16")
KINDS = ("small_cnn", "small_mlp", "small_attention")


class Rows:
    """Samples in memory."""

    def __init__(self, feeds: Sequence[dict[str, Array]]) -> None:
        self._feeds = feeds

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, row: int, /) -> Sample:
        return Sample(inputs=self._feeds[row])


def rows_of(kind: str, count: int = 4) -> Rows:
    rng = np.random.default_rng(11)
    if kind == "small_attention":
        return Rows([{"ids": rng.integers(0, 100, (1, 5 + i))} for i in range(count)])
    name, shape = ("image", (1, 3, 32, 32)) if kind == "small_cnn" else ("x", (1, 64))
    return Rows([{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)])


def precisions(*names: str) -> list[Precision]:
    return [Precision.parse(name) for name in names]


def run(model: Path, feed: Mapping[str, Array], names: list[str] | None = None) -> list[Any]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(names, dict(feed)))


def noise(reference: Any, candidate: Any) -> float:
    wide = reference.astype(np.float64)
    return float(((candidate - wide) ** 2).sum() / (wide**2).sum())


def ranges_of(model: Path, samples: Rows) -> dict[str, tuple[float, float]]:
    """What calibration by minimum and maximum sees at every float tensor of the main graph."""
    proto = onnx.load(model)
    made = [name for node in proto.graph.node for name in node.output]
    own = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in own)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found: dict[str, tuple[float, float]] = {}
    for i in range(len(samples)):
        feed = samples[i].inputs
        for name, array in {
            **dict(zip(names, session.run(names, feed), strict=True)),
            **feed,
        }.items():
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return found


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any
) -> Path:
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "made", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def value(name: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@pytest.mark.parametrize("kind", KINDS)
def test_all_off_is_the_float_model_and_all_on_is_not(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(kind)
    board = build_switchboard(model, tmp_path / "board.onnx", precisions(*ALL))
    onnx.checker.check_model(str(board.path), full_check=True)
    feed = rows_of(kind)[0].inputs
    (reference,) = run(model, feed)
    with Simulator(board) as simulator:
        (name,) = simulator.outputs
        assert noise(reference, simulator.run(feed, {})[name]) < 1e-12
        losses = {
            one: noise(reference, simulator.run(feed, board.everywhere(one))[name])
            for one in ALL
            if board.everywhere(one)
        }
    assert all(loss > 1e-8 for loss in losses.values())
    assert losses["fp16"] < losses["bf16"] < losses["w8a8"] < 0.1
    assert losses["w8a16"] < losses["w8a8"] <= losses["w8a8-symmetric-tensor"] * 1.2
    assert losses["w4b32"] > losses["w8"]


def test_fixed_ranges_are_as_onnxruntime_quantizes(small_mlp: Path, tmp_path: Path) -> None:
    samples = rows_of("small_mlp", 8)
    recipe = Recipe.parse("w8a8-static-weighted")
    real = compress(small_mlp, recipe, tmp_path / "real", calibration=samples).path
    ranges = ranges_of(small_mlp, samples)
    board = build_switchboard(small_mlp, tmp_path / "board.onnx", precisions("w8a8"), ranges=ranges)
    _assert_same_error(small_mlp, real, board, samples, at_least=0.9)


def test_found_ranges_are_as_onnxruntime_finds_them(small_attention: Path, tmp_path: Path) -> None:
    samples = rows_of("small_attention")
    recipe = Recipe.parse("w8a8-dynamic-weighted")
    real = compress(small_attention, recipe, tmp_path / "real", calibration=None).path
    board = build_switchboard(small_attention, tmp_path / "board.onnx", precisions("w8a8"))
    # Look-ups and products of two activations stay float there.
    real_nodes = [site.node for site in board.sites if site.op == "MatMul" and site.weight]
    _assert_same_error(small_attention, real, board, samples, nodes=real_nodes, at_least=0.9)


def test_blocks_of_int4_are_as_onnxruntime_packs_them(small_mlp: Path, tmp_path: Path) -> None:
    samples = rows_of("small_mlp")
    recipe = Recipe.parse("w4b32-only")
    real = compress(small_mlp, recipe, tmp_path / "real", calibration=None).path
    board = build_switchboard(small_mlp, tmp_path / "board.onnx", precisions("w4b32"))
    _assert_same_error(small_mlp, real, board, samples, at_least=0.9)


def _assert_same_error(
    model: Path,
    real: Path,
    board: Switchboard,
    samples: Rows,
    *,
    at_least: float,
    nodes: list[str] | None = None,
) -> None:
    """The simulated error is the real one, value by value: cosine of the two."""
    wanted = dict.fromkeys(nodes or [s.node for s in board.sites], board.precisions[0].name)
    errors: list[list[Any]] = [[], []]
    with Simulator(board) as simulator:
        for i in range(len(samples)):
            feed = samples[i].inputs
            (reference,) = run(model, feed)
            simulated = simulator.run(feed, wanted)[simulator.outputs[0]]
            errors[0].append((run(real, feed)[0] - reference).ravel())
            errors[1].append((simulated - reference).ravel())
    left, right = (np.concatenate(side).astype(np.float64) for side in errors)
    assert float(left @ right / np.linalg.norm(left) / np.linalg.norm(right)) > at_least


@pytest.mark.parametrize("kind", KINDS)
def test_shadows_see_at_a_node_what_its_switch_does_there(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A product that writes an output of the model: local noise is damage there."""
    model: Path = request.getfixturevalue(kind)
    proto = onnx.load(model)
    for node in proto.graph.node:
        quantizable = node.op_type in ("Conv", "Gemm", "MatMul", "Gather")
        if quantizable and node.output[0] not in {out.name for out in proto.graph.output}:
            proto.graph.output.append(
                helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
            )
    exposed = tmp_path / "exposed.onnx"
    onnx.save(proto, exposed)
    names = precisions("w8a8", "w4b32")
    board = build_switchboard(exposed, tmp_path / "board.onnx", names)
    shadows = build_shadows(exposed, tmp_path / "shadows.onnx", names)
    feed = rows_of(kind)[0].inputs
    writers = {node.name: node.output[0] for node in proto.graph.node}
    with Simulator(board) as simulator, Engine(shadows.path) as engine:
        found = engine.run(feed, (shadows.errors, shadows.signals))
        for i, (site, precision) in enumerate(shadows.pairs):
            output = writers[site.node]
            before = simulator.run(feed, {})[output].astype(np.float64)
            after = simulator.run(feed, {site.node: precision.name})[output].astype(np.float64)
            error = float(((after - before) ** 2).sum())
            assert found[shadows.errors][i] == pytest.approx(error, rel=0.02)
            assert found[shadows.signals][i] == pytest.approx((before**2).sum(), rel=1e-4)


def test_infinite_masks_leave_finite_outputs(tmp_path: Path) -> None:
    """-inf among the inputs of a product, whose weights there are positive, and of Softmax."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("Softmax", ["y"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["z"], name="mix"),
    ]
    weights = {"w": np.full((4, 4), 0.5, np.float32), "v": np.eye(4, dtype=np.float32)}
    weights["w"][0] = [1, 2, 3, 4]
    shape = value("x", 2, 4)
    model = save(tmp_path / "m.onnx", nodes, [shape], [value("y"), value("z")], **weights)
    feed = {"x": np.array([[1, 2, 3, 4], [1, -np.inf, 0, 2]], np.float32)}
    board = build_switchboard(model, tmp_path / "board.onnx", precisions("w8a8", "bf16"))
    with Simulator(board) as simulator:
        reference = simulator.run(feed, {})
        assert np.isneginf(reference["y"][1]).all()
        assert not np.isnan(simulator.run(feed, {"product": "w8a8"})["z"]).any()
        assert np.isneginf(simulator.run(feed, {"product": "bf16"})["y"][1]).all()


def test_a_mixture_quantizes_the_nodes_it_names(small_mlp: Path, tmp_path: Path) -> None:
    board = build_switchboard(small_mlp, tmp_path / "board.onnx", precisions("w8", "w4b32"))
    first, second = (site.node for site in board.sites)
    assert board.encode({second: "w4b32"}).tolist() == [0, 2]
    assert board.encode({first: "w8", second: "w8"}).tolist() == [1, 1]
    feed = rows_of("small_mlp")[0].inputs
    proto = onnx.load(small_mlp)
    for tensor in proto.graph.initializer:
        if tensor.name == board.sites[0].inputs[1]:
            integers, scale = in_channels(numpy_helper.to_array(tensor), 8, 0)
            tensor.CopyFrom(
                numpy_helper.from_array((integers * scale).astype(np.float32), tensor.name)
            )
    onnx.save(proto, tmp_path / "by_hand.onnx")
    with Simulator(board) as simulator:
        simulated: Any = simulator.run(feed, {first: "w8"})["y"]
    np.testing.assert_allclose(
        simulated, run(tmp_path / "by_hand.onnx", feed)[0], rtol=1e-5, atol=1e-6
    )


def test_wrong_choices_are_refused(small_attention: Path, tmp_path: Path) -> None:
    board = build_switchboard(small_attention, tmp_path / "board.onnx", precisions("w8a8", "w8"))
    with pytest.raises(ModelError, match="no quantizable node 'nobody'"):
        board.encode({"nobody": "w8"})
    with pytest.raises(ModelError, match="no precision 'bf16' here; legal: w8a8, w8"):
        board.encode({"matmul_q": "bf16"})
    with pytest.raises(ModelError, match="'scores' has no w8 form"):
        board.encode({"scores": "w8"})
    assert set(board.everywhere("w8a8")) - set(board.everywhere("w8")) == {"scores", "mix"}


def test_unusable_models_are_refused(small_mlp: Path, tmp_path: Path) -> None:
    target = tmp_path / "board.onnx"
    with pytest.raises(ModelError, match="no float32 node that no precision"):
        build_switchboard(small_mlp, target, [])
    proto = onnx.load(small_mlp)
    proto.graph.node[2].name = proto.graph.node[0].name
    onnx.save(proto, tmp_path / "twice.onnx")
    with pytest.raises(ModelError, match=r"2 nodes are called 'gemm_a' \(Gemm"):
        build_switchboard(tmp_path / "twice.onnx", target, precisions("w8"))
    proto.graph.node[0].name = ""
    onnx.save(proto, tmp_path / "nameless.onnx")
    with pytest.raises(ModelError, match="a node is called ''"):
        build_switchboard(tmp_path / "nameless.onnx", target, precisions("w8"))
    proto.opset_import[0].version = 12
    onnx.save(proto, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="has opset 12; 13 is needed"):
        build_switchboard(tmp_path / "old.onnx", target, precisions("w8"))


@pytest.mark.parametrize("name", ["w8a8", "w8a16-symmetric-tensor", "w4", "w4b64", "bf16", "fp16"])
def test_names_of_precisions_decode(name: str) -> None:
    assert Precision.parse(name).name == str(Precision.parse(name)) == name


@pytest.mark.parametrize("name", ["", "fp32", "w8-symmetric", "w4b32-tensor", "a8", "w8a8-nncf"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="precision"):
        Precision.parse(name)


_WEIGHTS = nps.arrays(
    np.float32,
    nps.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(-8, 8, width=32),
)


@given(_WEIGHTS, st.sampled_from([4, 8]), st.sampled_from([0, 1, None]))
@settings(deadline=None)  # others use the machine
def test_channels_round_to_half_a_step(weights: Floats, bits: int, axis: int | None) -> None:
    integers, scale = in_channels(weights, bits, axis)
    assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
    assert (np.abs(integers * scale - weights) <= scale * 0.5001 + 1e-28).all()


@given(_WEIGHTS, st.sampled_from([16, 32]), st.sampled_from([0, 1]))
@settings(deadline=None)
def test_blocks_round_to_a_step(weights: Floats, block: int, axis: int) -> None:
    integers, scale = in_blocks(weights, 4, block, axis)
    assert integers.min() >= -8
    assert integers.max() <= 7
    shape = list(weights.shape)
    shape[axis] = -1
    restored = (integers * scale).reshape(shape)
    kept = restored.take(range(weights.shape[axis]), axis=axis)
    steps = np.repeat(np.abs(scale), block, axis=axis + 1).reshape(shape)
    allowed = steps.take(range(weights.shape[axis]), axis=axis)
    assert (np.abs(kept - weights) <= allowed * 1.0001 + 1e-28).all()


def test_damage_counts_what_is_not_finite() -> None:
    damage = Damage()
    reference = {"y": np.array([[1.0, 2.0]], np.float32), "n": np.array([1, 2, 3, 4])}
    damage.add(reference, {"y": np.array([[1.0, 1.0]], np.float32), "n": np.array([1, 2, 3, 5])})
    assert list(damage.by_output) == [pytest.approx(0.2), 0.25]
    assert damage.agreement == pytest.approx(0.0)
    damage.add(reference, {"y": np.array([[1.0, np.nan]], np.float32), "n": reference["n"]})
    assert damage.by_output == (1e20, 0.125)
