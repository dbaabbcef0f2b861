from __future__ import annotations

from itertools import pairwise
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
from edgesdk.compress.shapes import fix_input_shapes, infer_shapes
from edgesdk.errors import InputError, ModelError, SamplesError
from edgesdk.onnxfile.work import list_work
from edgesdk.samples import Sample
from edgesdk.structure.factorize import factorize
from edgesdk.structure.factors import (
    Choice,
    Form,
    break_even,
    factors,
    parameters_of,
    pieces,
    principal,
)
from edgesdk.structure.judge import Judge, deal
from edgesdk.structure.lowrank import candidates, options, shrinkage, study, weigh
from edgesdk.structure.moments import observe_channel_moments, observe_moments
from edgesdk.structure.net import Net
from edgesdk.structure.patches import gather
from edgesdk.structure.ranks import Option, allocate, hull, ladder
from edgesdk.structure.reference import Reference
from edgesdk.structure.shrink import shrink, survey
from edgesdk.structure.workload import split_work

Array = NDArray[Any]


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


def rows(*shape: int, count: int = 40, seed: int = 100, rank: int | None = None) -> list[Sample]:
    """Correlated inputs, so that their moments matter."""
    made = []
    mix = noise(7, shape[-1], rank or shape[-1]) @ noise(8, rank or shape[-1], shape[-1])
    for number in range(count):
        value = (noise(seed + number, *shape) @ mix / shape[-1] + 0.3).astype(np.float32)
        made.append(Sample(inputs={"x": value}, labels={}))
    return made


def outputs(model: onnx.ModelProto, samples: list[Sample]) -> list[Array]:
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, dict(sample.inputs))[0] for sample in samples]


def wrong(model: onnx.ModelProto, other: onnx.ModelProto, samples: list[Sample]) -> float:
    pairs = zip(outputs(model, samples), outputs(other, samples), strict=True)
    return sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)


def product(tmp_path: Path, *, bias: bool, gemm: bool = False) -> Path:
    weights: dict[str, Array] = {"w": noise(1, 24, 16)}
    if gemm:
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer", transB=1)
        weights = {"w": noise(1, 16, 24), "b": noise(2, 16)}
        return save(tmp_path / "gemm.onnx", [node], ("n", 24), **weights)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p" if bias else "y"], name="layer")]
    if bias:
        nodes.append(helper.make_node("Add", ["b", "p"], ["y"], name="bias"))
        weights["b"] = noise(2, 16)
    return save(tmp_path / "product.onnx", nodes, ("n", "t", 24), **weights)


def convolution(tmp_path: Path, *, bias: bool = True, **attributes: Any) -> Path:
    kernel = attributes.pop("kernel", (3, 3))
    weights = {"w": noise(1, 12, 6, *kernel)} | ({"b": noise(2, 12)} if bias else {})
    node = helper.make_node("Conv", ["x", *weights], ["y"], name="layer", **attributes)
    return save(tmp_path / "conv.onnx", [node], ("n", 6, 9, 8), **weights)


def known(path: Path, samples: list[Sample], scratch: Path, damping: float = 0.0) -> Any:
    net = Net(onnx.load(path))
    reference = Reference(path, scratch, samples)
    found, _ = study(reference, net, samples, range(len(samples)), damping=damping)
    return found


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"pads": [1, 1, 1, 1]},
    {"pads": [2, 0, 1, 1], "strides": [2, 1]},
    {"dilations": [2, 1], "strides": [1, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID"},
    {"kernel": (1, 1)},
    {"kernel": (5, 2), "pads": [2, 1, 2, 0], "bias": False},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_patches_times_the_matrix_is_what_a_convolution_makes(
    geometry: dict[str, Any], tmp_path: Path
) -> None:
    path = convolution(tmp_path, **dict(geometry))
    net = Net(onnx.load(path))
    layer = net.layers["layer"]
    (sample,) = rows(2, 6, 9, 8, count=1)
    (wanted,) = outputs(net.proto, [sample])
    flat = np.moveaxis(wanted, 1, -1).reshape(-1, 12)
    places = np.arange(0, len(flat), 3)
    seen = gather(layer, np.asarray(sample.inputs["x"]), places)
    made = seen[0] @ net.matrix(layer)[0] + net.vector(layer)
    np.testing.assert_allclose(made, flat[places], rtol=1e-4, atol=1e-4)


def test_grouped_convolutions_and_normalizations_are_matrices_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="grouped", group=3, pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *"sbmv"], ["y"], name="norm"),
    ]
    stored = {"w": noise(1, 12, 2, 3, 3), "s": noise(2, 12), "b": noise(3, 12)}
    stored |= {"m": noise(4, 12), "v": np.abs(noise(5, 12)) + 1}
    path = save(tmp_path / "grouped.onnx", nodes, ("n", 6, 5, 5), **stored)
    samples = rows(2, 6, 5, 5, count=3)
    net = Net(onnx.load(path))
    reference = Reference(path, tmp_path / "r", samples)
    layers = list(net.layers.values())
    values = reference.open(["x", "a", "y"])(samples[0].inputs)
    for layer, target in zip(layers, ("a", "y"), strict=True):
        places = np.arange(50)
        seen = gather(layer, values[layer.source], places)
        made = (seen @ net.matrix(layer)).transpose(1, 0, 2).reshape(50, -1) + net.vector(layer)
        wanted: Array = np.moveaxis(values[target], 1, -1).reshape(-1, 12)
        np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4)
    before = net.vector(layers[1])
    net.write(layers[1], net.matrix(layers[1]), before)
    np.testing.assert_allclose(net.vector(layers[1]), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("free", [True, False])
def test_rows_run_together_say_what_they_say_alone(free: bool, tmp_path: Path) -> None:
    path = product(tmp_path, bias=True)
    if not free:  # a model of one row at a time
        proto = onnx.load(path)
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(proto, path)
    samples = [*rows(1, 5, 24, count=7), *rows(1, 3, 24, count=4)]
    net = Net(onnx.load(path))
    reference = Reference(path, tmp_path / "r", samples)
    assert reference.stacks == free
    fed = list(reference.feeds(samples, range(11), 3))
    assert sorted(row for group, _ in fed for row in group) == list(range(11))
    assert max(len(group) for group, _ in fed) == (3 if free else 1)
    ((_, (found,)),) = observe_moments(reference, [net.layers["layer"]], samples, [range(11)])
    wide = np.concatenate([np.asarray(s.inputs["x"], np.float64).reshape(-1, 24) for s in samples])
    assert found.count == 47
    np.testing.assert_allclose(found.xx[0], wide.T @ wide, rtol=1e-9)


def test_a_model_that_mixes_its_rows_gets_one_at_a_time(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    path = save(tmp_path / "mixing.onnx", nodes, ("n", 24))
    assert not Reference(path, tmp_path / "r", rows(1, 24, count=4)).stacks


def test_moments_are_the_sums_of_all_rows(tmp_path: Path) -> None:
    path = product(tmp_path, bias=True)
    samples = rows(2, 5, 24, count=7)
    net = Net(onnx.load(path))
    reference = Reference(path, tmp_path / "r", samples)
    ((_, (one, two)),) = observe_moments(
        reference, [net.layers["layer"]], samples, [[0, 1, 2], [5]], positions=1000
    )
    stacked = np.concatenate([np.asarray(samples[i].inputs["x"]).reshape(-1, 24) for i in range(3)])
    wide = stacked.astype(np.float64)
    assert (one.count, two.count) == (30, 10)
    np.testing.assert_allclose(one.xx[0], wide.T @ wide, rtol=1e-9)
    np.testing.assert_allclose(one.mean[0], wide.mean(axis=0), rtol=1e-9)
    channels = observe_channel_moments(reference, {"x": -1, "y": -1}, samples, [0, 1, 2])
    np.testing.assert_allclose(channels["x"].variance, wide.var(axis=0), rtol=1e-6)
    np.testing.assert_allclose(channels["x"].mean_abs, np.abs(wide).mean(axis=0), rtol=1e-9)
    assert channels["y"].mean.shape == (16,)
    with pytest.raises(ModelError, match="no float tensor 'z'"):
        observe_channel_moments(reference, {"z": -1}, samples, [0])


@pytest.mark.parametrize("kind", ["matmul", "added", "gemm", "conv", "strided"])
def test_full_rank_computes_the_same(kind: str, tmp_path: Path) -> None:
    path, samples = {
        "matmul": lambda: (product(tmp_path, bias=False), rows(2, 5, 24)),
        "added": lambda: (product(tmp_path, bias=True), rows(2, 5, 24)),
        "gemm": lambda: (product(tmp_path, bias=False, gemm=True), rows(3, 24)),
        "conv": lambda: (convolution(tmp_path, pads=[1, 1, 1, 1]), rows(1, 6, 9, 8)),
        "strided": lambda: (convolution(tmp_path, **dict(GEOMETRIES[4])), rows(1, 6, 9, 8)),
    }[kind]()
    found = known(path, samples, tmp_path / "r")
    net = Net(onnx.load(path))
    rank = min(net.layers["layer"].features, net.layers["layer"].outputs)
    made = factorize(net, found, {"layer": Choice("channels", rank)})
    size = sum(float((y.astype(np.float64) ** 2).sum()) for y in outputs(onnx.load(path), samples))
    assert wrong(onnx.load(path), made, samples) < 1e-9 * size
    assert [node.name for node in made.graph.node][:2] == ["layer.first", "layer"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_error_is_the_tail_of_the_whitened_singular_values(
    bias: bool, rank: int, tmp_path: Path
) -> None:
    path = product(tmp_path, bias=bias)
    samples = rows(2, 5, 24)
    found = known(path, samples, tmp_path / "r")
    x = np.concatenate([np.asarray(s.inputs["x"]).reshape(-1, 24) for s in samples])
    x = x.astype(np.float64)
    weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float64)
    values = np.linalg.svd((x - x.mean(axis=0) if bias else x) @ weight, compute_uv=False)
    tail = float((values[rank:] ** 2).sum())
    made = factorize(Net(onnx.load(path)), found, {"layer": Choice("channels", rank)})
    assert wrong(onnx.load(path), made, samples) == pytest.approx(tail, rel=1e-4)
    share = found["layer"].error(Choice("channels", rank))
    assert share == pytest.approx(tail / float((values**2).sum()), rel=1e-6)


@pytest.mark.parametrize("rank", [2, 6, 10])
def test_whitened_is_never_worse_than_plain_on_its_own_rows(rank: int, tmp_path: Path) -> None:
    path = product(tmp_path, bias=False)
    samples = rows(2, 5, 24, rank=8)
    choice = {"layer": Choice("channels", rank)}
    plain, _ = study(None, Net(onnx.load(path)), samples, ())
    aware = known(path, samples, tmp_path / "r")
    by_plain = factorize(Net(onnx.load(path)), plain, choice)
    by_aware = factorize(Net(onnx.load(path)), aware, choice)
    original = onnx.load(path)
    assert wrong(original, by_aware, samples) <= wrong(original, by_plain, samples) * 1.0001


@pytest.mark.parametrize("geometry", GEOMETRIES[:7])
def test_a_separable_form_has_the_error_it_tells(geometry: dict[str, Any], tmp_path: Path) -> None:
    path = convolution(tmp_path, **dict(geometry))
    samples = rows(1, 6, 9, 8)
    found = known(path, samples, tmp_path / "r", damping=0.0)
    total = found["layer"].energy
    errors = []
    for rank in (2, 6, 10):
        choice = Choice("separable", rank)
        made = factorize(Net(onnx.load(path)), found, {"layer": choice})
        lost = wrong(onnx.load(path), made, samples)
        assert lost / total == pytest.approx(found["layer"].error(choice), rel=0.02, abs=1e-5)
        assert [len(node.attribute) > 3 for node in made.graph.node] == [True, True]
        errors.append(lost)
    assert errors == sorted(errors, reverse=True)


def test_a_separable_kernel_is_found_exactly(tmp_path: Path) -> None:
    columns, across = noise(1, 6, 3), noise(2, 12, 3)
    weight = np.einsum("ci,oj->ocij", columns, across)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer", pads=[1, 1, 1, 1])
    path = save(tmp_path / "made.onnx", [node], ("n", 6, 9, 8), w=weight)
    samples = rows(1, 6, 9, 8)
    found = known(path, samples, tmp_path / "r")
    assert found["layer"].error(Choice("separable", 1)) < 1e-6
    assert found["layer"].error(Choice("channels", 1)) > 0.05
    made = factorize(Net(onnx.load(path)), found, {"layer": Choice("separable", 1)})
    assert wrong(onnx.load(path), made, samples) < 1e-5 * found["layer"].energy


@given(features=st.integers(1, 40), outputs=st.integers(1, 40), kernel=st.sampled_from([1, 3, 5]))
@settings(max_examples=60, deadline=None)
def test_past_break_even_nothing_is_saved(features: int, outputs: int, kernel: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer")
    graph = helper.make_graph(
        [node],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, features, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((outputs, features, kernel, kernel), np.float32), "w")],
    )
    layer = Net(helper.make_model(graph)).layers["layer"]
    forms: tuple[Form, ...] = ("channels", "separable") if kernel > 1 else ("channels",)
    for form in forms:
        most = break_even(layer, form)
        over = parameters_of(layer, Choice(form, most + 1))
        assert over >= layer.parameters
        if most:
            choice = Choice(form, most)
            assert parameters_of(layer, choice) < layer.parameters
            assert sum(piece.parameters for piece in pieces(layer, choice)) == parameters_of(
                layer, choice
            )


@given(
    seed=st.integers(0, 1000),
    features=st.integers(1, 12),
    outputs=st.integers(1, 12),
    rank=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_factors_leave_out_what_the_spectrum_says(
    seed: int, features: int, outputs: int, rank: int
) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(30, features)), rng.normal(size=(features, outputs))
    spectrum = principal(w, x.T @ x)
    rank = min(rank, len(spectrum.values))
    left, right = factors(w, spectrum, rank)
    lost = float(((x @ w - x @ left @ right) ** 2).sum())
    assert lost == pytest.approx(spectrum.error(rank), rel=1e-6, abs=1e-6)
    assert spectrum.error(0) == pytest.approx(float(((x @ w) ** 2).sum()))


def test_options_are_cheaper_than_the_whole_and_ranks_are_multiples(tmp_path: Path) -> None:
    path = convolution(tmp_path)
    found = known(path, rows(1, 6, 9, 8), tmp_path / "r")["layer"]
    assert {c.rank % 2 for c in candidates(found, 2)} == {0}
    assert {c.form for c in candidates(found, 2)} == {"channels", "separable"}
    made = options(found, parameters_of, multiple=2, weight=3.0)
    assert made[0].choice is None
    assert made[0].damage == 0
    assert all(o.cost < made[0].cost for o in made[1:])
    assert made[1].damage == pytest.approx(3 * found.error(Choice("channels", 2)))
    flat = options(found, lambda layer, choice: 1.0)
    assert [o.choice for o in flat] == [None]


def test_what_cannot_be_split_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "d"], ["a"], name="depthwise", group=6),
        helper.make_node("Conv", ["a", "t"], ["b"], name="tied_1"),
        helper.make_node("Conv", ["b", "t"], ["c"], name="tied_2"),
        helper.make_node("Conv", ["c", "s"], ["y"], name="small"),
    ]
    stored = {"d": noise(1, 6, 1, 1, 1), "t": noise(2, 6, 6, 1, 1), "s": noise(3, 1, 6, 1, 1)}
    path = save(tmp_path / "left.onnx", nodes, ("n", 6, 4, 4), **stored)
    found, left = study(None, Net(onnx.load(path)), [], ())
    assert not found
    assert "shared with tied_2" in left["tied_1"]
    assert "6 groups" in left["depthwise"]
    assert "no more than any two factors" in left["small"]
    with pytest.raises(ModelError, match="no layer 'small' was studied"):
        factorize(Net(onnx.load(path)), found, {"small": Choice("channels", 1)})


def test_what_is_no_number_is_not_fitted_to(tmp_path: Path) -> None:
    path = product(tmp_path, bias=False)
    samples = rows(2, 5, 24, count=12)
    strange = [*samples[:-1], Sample(inputs={"x": np.full((2, 5, 24), np.nan, "f4")}, labels={})]
    found, left = study(
        Reference(path, tmp_path / "r", strange), Net(onnx.load(path)), strange, range(12)
    )
    assert not found
    assert "infinite or no numbers" in left["layer"]


def test_a_bias_that_another_node_reads_is_not_changed_for_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="layer"),
        helper.make_node("Add", ["p", "b"], ["s"], name="bias"),
        helper.make_node("Mul", ["s", "b"], ["y"], name="other"),
    ]
    stored = {"w": noise(1, 24, 16), "b": noise(2, 16)}
    path = save(tmp_path / "read.onnx", nodes, ("n", "t", 24), **stored)
    samples = rows(1, 5, 24)
    net, found = Net(onnx.load(path)), known(path, samples, tmp_path / "r")
    before = net.proto.SerializeToString()
    assert weigh(Judge(path, samples, range(4)), net, found, tmp_path)["layer"] > 0
    assert net.proto.SerializeToString() == before
    made = factorize(net, found, {"layer": Choice("channels", 4)})
    onnx.checker.check_model(made)
    kept = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    np.testing.assert_array_equal(kept["b"], stored["b"])
    assert made.graph.node[-1].input[1] == "b"
    assert made.graph.node[2].input[1] != "b"


def test_a_real_graph_is_shrunk_as_far_as_asked(small_attention: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    samples = [Sample(inputs={"ids": rng.integers(0, 100, (2, 9))}, labels={}) for _ in range(20)]
    steps: list[tuple[int, int]] = []
    found = survey(
        small_attention,
        samples,
        deal(20, 20),
        tmp_path,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert len(found.known) == 6
    assert not found.left
    assert min(found.weights.values()) > 0
    assert steps == [(done, 12) for done in range(1, 13)]
    before = outputs(onnx.load(small_attention), samples[:1])[0]
    errors = []
    for share in (0.9, 0.6, 0.3):
        made = shrink(found, share, multiple=4)
        assert made.cost_after <= share * made.cost_before
        assert {choice.rank % 4 for choice in made.choices.values()} == {0}
        values = outputs(made.proto, samples[:1])[0]
        errors.append(float(((values - before) ** 2).sum() / (before**2).sum()))
        assert onnx_io.opset_of(made.proto) == 17
    assert errors == sorted(errors)
    assert errors[0] < 0.06
    whole = shrink(found, 1.0)
    assert not whole.choices
    np.testing.assert_array_equal(outputs(whole.proto, samples[:1])[0], before)
    with pytest.raises(InputError, match="cannot be reached; legal: 0"):
        shrink(found, 0.01, multiple=4)
    with pytest.raises(InputError, match="legal: above 0"):
        shrink(found, 0.0)


@pytest.mark.parametrize("form", ["channels", "separable"])
@pytest.mark.parametrize("geometry", GEOMETRIES[:7])
def test_the_work_of_a_split_graph_is_known_beforehand(
    geometry: dict[str, Any], form: Form, tmp_path: Path
) -> None:
    path = convolution(tmp_path, **dict(geometry))
    original = onnx.load(path)
    fix_input_shapes(original, {"x": (2, 6, 9, 8)})
    net = Net(original)
    choice = {"layer": Choice(form, 3)}
    foreseen = split_work(list_work(infer_shapes(original).graph), net.layers, choice)
    plain, _ = study(None, net, [], ())
    found = list_work(infer_shapes(factorize(net, plain, choice)).graph)
    for seen, told in zip(found.nodes, foreseen.nodes, strict=True):
        assert (seen.name, seen.op, seen.macs) == (told.name, told.op, told.macs)
        assert seen.outputs[0].shape == told.outputs[0].shape
        assert [t.shape for t in seen.weights] == [t.shape for t in told.weights]


def test_few_positions_are_trusted_less() -> None:
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(60, 60)) * np.geomspace(1, 0.01, 60)
    shares = []
    for count in (20, 200, 20_000):
        x = rng.normal(size=(count, 60)) @ mix
        shares.append(shrinkage(x.T @ x, count))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.03
    assert shares[2] < 1e-3
    assert np.isfinite(shrinkage(np.eye(4), 10))


def test_rows_are_dealt_to_no_two_sets() -> None:
    dealt = deal(1000, 100)
    everything = [*dealt.fitted, *dealt.choosing, *dealt.judging]
    assert len(set(everything)) == len(everything) == 100
    assert len(dealt.fitted) == 60
    with pytest.raises(SamplesError, match="9 rows to fit weights to; legal: 10 up"):
        deal(9, 100)


points = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6)


@given(st.lists(points, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_no_assignment_is_better_for_the_cost_of_a_rung(layers: list[Any]) -> None:
    given_options = {
        str(number): [
            Option(choice=place, cost=float(cost), damage=float(damage))
            for place, (cost, damage) in enumerate(choices)
        ]
        for number, choices in enumerate(layers)
    }
    sums = [(0.0, 0.0)]
    for choices in given_options.values():
        sums = [(c + o.cost, d + o.damage) for c, d in sums for o in choices]
    for rung in ladder(given_options):
        assert rung.damage <= min(d for c, d in sums if c <= rung.cost) + 1e-9
    least = min(cost for cost, _ in sums)
    found = allocate(given_options, least)
    assert found is not None
    assert found.cost <= least
    assert allocate(given_options, least - 1) is None
    for choices in given_options.values():
        line = hull(choices)
        assert all(a.cost > b.cost and a.damage <= b.damage for a, b in pairwise(line))
