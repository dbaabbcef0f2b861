from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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

from edgesdk.budget import Budget, parse_floor
from edgesdk.cache import Cache
from edgesdk.compress.apply import compress
from edgesdk.compress.channels import Channels, observe_channels
from edgesdk.compress.equalize import Reader, choose_scale, noise
from edgesdk.compress.prepare import prepare
from edgesdk.compress.rescale import Rescaler
from edgesdk.compress.smoothing import PREFIX, smooth
from edgesdk.decide import Status
from edgesdk.deployment import deploy
from edgesdk.errors import RecipeError, SamplesError
from edgesdk.recipe import Recipe
from edgesdk.samples import Sample
from edgesdk.testing.graphs import build
from edgesdk.testing.quick import QUICK

Array = NDArray[Any]
STATIC, DYNAMIC = Recipe.parse("w8a8-static-smooth"), Recipe.parse("w8a8-dynamic-smooth")
WEIGHTED = Recipe.parse("w8a8-static-weighted-smooth")
UNEVEN = np.geomspace(0.05, 20, 32).astype(np.float32)
"""What the channels of the made models differ by; powers of a ratio, shuffled where they are used."""


def _noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _rows(name: str, *shape: int, count: int = 6) -> list[Sample]:
    return [Sample(inputs={name: _noise(90 + row, *shape)}, labels={}) for row in range(count)]


def _save(
    path: Path, nodes: list[Any], x: Sequence[Any], y: Sequence[Any], **stored: Array
) -> Path:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], name=f"make_{output}", **attributes)


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conv, Relu, depthwise Conv, LeakyRelu, pool, Conv, Gemm: x float32[1, 3, 12, 12] -> [1, 5]."""
    nodes = [
        _node("Conv", "x w1 b1", "a", pads=[1] * 4),
        _node("Relu", "a", "b"),
        _node("Conv", "b w2 b2", "c", group=32),
        _node("LeakyRelu", "c", "d", alpha=0.1),
        _node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Conv", "e w3", "f"),
        _node("Sigmoid", "f", "g"),
        _node("Flatten", "g", "h"),
        _node("Gemm", "h w4 b4", "y"),
    ]
    spread = np.roll(UNEVEN, 7)[:, None, None, None]
    path = tmp_path_factory.mktemp("convolutions") / "made.onnx"
    made = _save(
        path, nodes, (1, 3, 12, 12), (1, 5),
        w1=_noise(1, 32, 3, 3, 3) * UNEVEN[:, None, None, None], b1=_noise(2, 32),
        w2=_noise(3, 32, 1, 3, 3) * spread, b2=_noise(4, 32),
        w3=_noise(5, 8, 32, 1, 1) / 100, w4=_noise(6, 200, 5), b4=_noise(7, 5),
    )  # fmt: skip
    return prepare(made, path.parent / "prepared", shapes=None).path


@pytest.fixture(scope="module")
def post_norm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block whose normalised values feed a sum, too: x float32[1, T, 32] -> float32[1, T, 32]."""
    nodes = [
        _node("LayerNormalization", "x gain shift", "n"),
        _node("MatMul", "n wq", "q"),
        _node("MatMul", "n wk", "k"),
        _node("Mul", "q k", "qk"),
        _node("LayerNormalization", "qk gain2 shift2", "m"),
        _node("MatMul", "m wo", "o"),
        _node("Add", "o bo", "p"),
        _node("Relu", "p", "r"),
        _node("MatMul", "r wz", "z"),
        _node("Add", "z n", "y"),
    ]
    path = tmp_path_factory.mktemp("post_norm") / "made.onnx"
    weights = {name: _noise(i, 32, 32) / 5 for i, name in enumerate(("wq", "wk", "wo", "wz"))}
    weights["wo"] = weights["wo"] * np.roll(UNEVEN, 5)
    made = _save(
        path, nodes, (1, "T", 32), (1, "T", 32),
        gain=UNEVEN, shift=_noise(11, 32), gain2=np.roll(UNEVEN, 9), shift2=_noise(12, 32),
        bo=_noise(13, 32), **weights,
    )  # fmt: skip
    return prepare(made, path.parent / "prepared", shapes=None).path


def _run(model: Path, feed: Any) -> list[Array]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    taken = {value.name: feed[value.name] for value in session.get_inputs()}
    outputs: list[Array] = session.run(None, taken)
    return outputs


def _smoothed(model: Path, recipe: Recipe, rows: Any, folder: Path) -> tuple[Path, int, int]:
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    done = smooth(model, recipe, folder / "smooth.onnx", rows, scratch)
    onnx.checker.check_model(str(folder / "smooth.onnx"), full_check=True)
    return folder / "smooth.onnx", done.folded, done.inserted


def _loss(before: Array, after: Array) -> float:
    a, b = before.ravel().astype(np.float64), after.ravel().astype(np.float64)
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _same(model: Path, other: Path, rows: Any) -> None:
    for row in rows:
        for left, right in zip(_run(model, row.inputs), _run(other, row.inputs), strict=True):
            scale = np.abs(left).max()
            np.testing.assert_allclose(right, left, rtol=0, atol=2e-5 * scale)


def test_convolutions_pass_scales_through_what_is_homogeneous(
    convolutions: Path, tmp_path: Path
) -> None:
    rows = _rows("x", 1, 3, 12, 12)
    made, folded, inserted = _smoothed(convolutions, STATIC, rows, tmp_path)
    assert (folded, inserted) == (2, 0)  # before either Conv, but not past the Sigmoid
    _same(convolutions, made, rows)
    ops = [[node.op_type for node in onnx.load(path).graph.node] for path in (convolutions, made)]
    assert ops[0] == ops[1]
    seen = [
        observe_channels(path, rows, {name: -3}, _made(tmp_path / str(i)))[name].largest
        for i, path in enumerate((convolutions, made))
        for name in [n.input[0] for n in onnx.load(path).graph.node if n.op_type == "Conv"][2:]
    ]
    assert np.ptp(np.log(seen[1])) < np.ptp(np.log(seen[0])) / 2


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("recipe", "counts"), [(DYNAMIC, (2, 1)), (WEIGHTED, (2, 1))])
def test_products_share_one_node_where_others_read_what_they_read(
    recipe: Recipe, counts: tuple[int, int], post_norm: Path, tmp_path: Path
) -> None:
    rows = _rows("x", 1, 9, 32)
    made, folded, inserted = _smoothed(post_norm, recipe, rows, tmp_path)
    assert (folded, inserted) == counts
    _same(post_norm, made, rows)
    (put_in,) = [n for n in onnx.load(made).graph.node if n.name.startswith(PREFIX)]
    readers = [n for n in onnx.load(made).graph.node if put_in.output[0] in n.input]
    assert sorted(node.name for node in readers) == ["make_k", "make_q"]


def test_no_node_is_put_in_where_its_input_would_be_quantized_first(
    post_norm: Path, tmp_path: Path
) -> None:
    made, folded, inserted = _smoothed(post_norm, STATIC, _rows("x", 1, 9, 32), tmp_path)
    assert (folded, inserted) == (2, 0)
    _same(post_norm, made, _rows("x", 1, 9, 32))


@pytest.mark.parametrize("name", ["w8a8-dynamic", "w8a8-static-weighted"])
def test_smoothing_takes_most_of_the_loss_that_uneven_channels_make(
    name: str, post_norm: Path, tmp_path: Path
) -> None:
    rows, feed = _rows("x", 1, 9, 32), _noise(99, 1, 9, 32)
    exact = _run(post_norm, {"x": feed})[0]
    losses = []
    for way in ("", "-smooth"):
        recipe = Recipe.parse(f"{name}{way}")
        done = compress(post_norm, recipe, tmp_path / (way or "plain"), calibration=rows)
        assert done.quantized_nodes == 4
        assert ("scales" in " ".join(done.notes)) == bool(way)
        losses.append(_loss(exact, _run(done.path, {"x": feed})[0]))
    assert losses[1] < losses[0] / 2


def test_kept_nodes_stay_float(post_norm: Path, tmp_path: Path) -> None:
    kept = frozenset({"make_q", "make_z"})
    done = compress(post_norm, DYNAMIC, tmp_path, calibration=_rows("x", 1, 9, 32), kept=kept)
    assert done.quantized_nodes == 2
    products = {n.name for n in onnx.load(done.path).graph.node if n.op_type == "MatMul"}
    assert products == kept


@pytest.mark.parametrize("name", ["convolution", "attention", "branch", "scalars", "wide"])
def test_any_scales_leave_a_graph_as_it_was(name: str, tmp_path: Path) -> None:
    case = build(name)
    model = prepare(case.write(tmp_path), tmp_path / "prepared", shapes=None).path
    rescaler = Rescaler(onnx.load(model), PREFIX)
    rng = np.random.default_rng(3)
    for link in rescaler.links():
        if link.folds or link.axis == -1:
            rescaler.apply(link, np.exp(rng.normal(size=link.channels)))
    onnx.save(rescaler.finished(), tmp_path / "scaled.onnx")
    _same(model, tmp_path / "scaled.onnx", [Sample(inputs=f, labels={}) for f in case.feeds])


def test_a_weight_that_others_read_is_copied(tmp_path: Path) -> None:
    nodes = [
        _node("MatMul", "x w", "a"),
        _node("Relu", "a", "b"),
        _node("MatMul", "b w", "c"),
        _node("Add", "c bias", "d"),
        _node("Mul", "d bias", "e"),
        _node("MatMul", "e w", "y"),
    ]
    model = _save(
        tmp_path / "made.onnx", nodes, (2, 32), (2, 32), w=_noise(1, 32, 32), bias=_noise(2, 32)
    )
    rescaler = Rescaler(onnx.load(model), PREFIX)
    links = rescaler.links()
    assert [bool(link.folds) for link in links] == [False, True, True]
    for number, link in enumerate(links[1:]):
        rescaler.apply(link, np.exp(_noise(number, 32).astype(np.float64)))
    onnx.save(rescaler.finished(), tmp_path / "scaled.onnx")
    _same(model, tmp_path / "scaled.onnx", _rows("x", 2, 32))


@pytest.mark.parametrize("made", ["vector", "twice", "channel", "numerator"])
def test_what_cannot_take_a_division_is_not_asked_to(made: str, tmp_path: Path) -> None:
    """A product with a vector, values that others read, too, a broadcast, a quotient."""
    shape = (32, 32)
    ways = {
        "vector": [_node("MatMul", "x v", "a"), _node("Identity", "a", "b")],
        "twice": [_node("MatMul", "x w", "a"), _node("Relu", "a", "b"), _node("Neg", "a", "n")],
        "channel": [_node("MatMul", "x w1", "a"), _node("Add", "a v", "b")],
        "numerator": [_node("MatMul", "x w", "a"), _node("Div", "v a", "b")],
    }
    nodes = [*ways[made], _node("MatMul", "b w2", "c")]
    nodes.append(_node("Add", "c n", "y") if made == "twice" else _node("Identity", "c", "y"))
    stored = {"v": _noise(1, 32), "w": _noise(2, *shape), "w1": _noise(3, 32, 1)}
    out = (32,) if made == "vector" else shape
    model = _save(tmp_path / "m.onnx", nodes, shape, out, w2=_noise(4, *shape), **stored)
    links = Rescaler(onnx.load(model), PREFIX).links()
    assert [link.folds for link in links if link.activation == "b"] == [()]


def test_even_channels_are_left_alone(tmp_path: Path) -> None:
    case = build("wide")
    rows = [Sample(inputs=feed, labels={}) for feed in case.feeds]
    with pytest.raises(RecipeError, match="'-smooth' would change nothing"):
        _smoothed(case.write(tmp_path), DYNAMIC, rows, tmp_path)


def test_channels_are_those_of_all_values(tmp_path: Path) -> None:
    case = build("convolution")
    model, rows = case.write(tmp_path), [Sample(inputs=f, labels={}) for f in case.feeds]
    found = observe_channels(model, rows, {"image": -3, "f": -1, "b": -3}, _made(tmp_path / "s"))
    images = [feed["image"] for feed in case.feeds]
    lows = [np.minimum(image.min(axis=(0, 2, 3)), 0) for image in images]
    np.testing.assert_array_equal(found["image"].low, np.stack(lows))
    squares = np.concatenate([image.astype(np.float64) for image in images]) ** 2
    np.testing.assert_allclose(found["image"].power, squares.mean(axis=(0, 2, 3)), rtol=1e-5)
    assert found["f"].high.shape == (3, 8)
    assert (found["b"].low == 0).all()
    with pytest.raises(SamplesError, match="no rows to observe"):
        observe_channels(model, [], {"b": -3}, tmp_path / "s")


_logs = st.lists(st.floats(-3, 3), min_size=2, max_size=12)


@settings(deadline=None)
@given(_logs, st.integers(0, 99), st.booleans())
def test_a_scale_is_chosen_only_if_it_lessens_the_noise(
    logs: list[float], seed: int, fixed: bool
) -> None:
    size, rng = len(logs), np.random.default_rng(seed)
    high = np.exp(np.array(logs)) * rng.uniform(0.5, 1, (4, size))
    channels = Channels(low=-high / 2, high=high, power=high.max(axis=0) ** 2 / 4)
    weights = np.abs(rng.normal(size=(size, 7)))
    reader = Reader(energy=(weights**2).sum(axis=1), largest=weights, taps=1)
    found = choose_scale(channels, [reader], fixed=fixed)
    before = noise(channels, [reader], np.ones(size), fixed=fixed)
    after = noise(channels, [reader], found.values, fixed=fixed)
    assert after <= before
    assert found.left == pytest.approx(after / before)
    assert np.isfinite(found.values).all()
    assert found.values.max() / found.values.min() <= 1.001e4


def test_channels_that_are_never_used_keep_their_scale() -> None:
    high = np.array([[100.0, 0.0, 1.0, 2.0]])
    channels = Channels(low=-high, high=high, power=high[0] ** 2 / 9)
    weights = np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    reader = Reader(energy=(weights**2).sum(axis=1), largest=weights, taps=1)
    found = choose_scale(channels, [reader], fixed=True)
    assert found.left < 0.9
    assert found.values[1] == found.values[2] == 1.0


def test_deploy_smooths_once_for_all_that_share_it_and_refines_what_it_smoothed(
    post_norm: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", x=_noise(1, 24, 9, 32))
    recipes = ("w8a8-static-weighted-smooth", "w8a8-static-weighted-symmetric-smooth")
    done = deploy(
        post_norm,
        profile="x86",
        samples=str(tmp_path / "rows.npz"),
        recipes=tuple(f"onnxruntime/{name}" for name in recipes),
        budget=Budget(objective="size", floors=parse_floor("cosine=0.9999")),
        settings=QUICK,
        cache=Cache(tmp_path / "cache"),
        out=tmp_path / "out",
        refine=True,
    )
    assert not [outcome.error for outcome in done.outcomes if outcome.error]
    steps = Counter(
        entry.name.split("-")[0] for entry in (tmp_path / "cache" / "entries").iterdir()
    )
    assert (steps["smooth"], steps["ranges"]) == (1, 1)
    status = {item.name: item.status for item in done.decision.judged}
    whole = {status[f"onnxruntime/{name}"] for name in recipes}
    assert whole <= {Status.FAILED, Status.UNDECIDED}
    searched = [refined.mended for refined in done.report.refined if refined.mended]
    assert searched
    assert all(mended.evaluations for mended in searched)
    assert steps["written"] == len(searched)  # what smoothing left is looked at, node by node
