"""LiteRT: the model's own interface in front of a file that has another, and its own quantization."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgesdk
from edgesdk.backend import Backend, OpenOptions, Session, load_backend
from edgesdk.cache import Cache
from edgesdk.deployment import BUNDLE, deploy
from edgesdk.errors import RecipeError, SamplesError, StepFailed
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo
from edgesdk.testing import BackendConformance
from edgesdk.testing.graphs import Feed
from edgesdk.testing.quick import QUICK
from edgesdk_backends.litert.engine import Engine, operations
from edgesdk_backends.litert.interface import FILE, Port, read_interface
from edgesdk_backends.litert.matching import find_interface
from edgesdk_backends.litert.rewriting import pool_means

FLOAT = Recipe.parse("fp32")


pytestmark = pytest.mark.usefixtures("one_conversion_each")


class TestLiteRt(BackendConformance):
    engine_modules = frozenset({"ai_edge_litert"})
    tells_times = False
    unsupported = frozenset(
        {
            "branch",  # its If becomes a Select that refuses a batch above 1
            "passing_through",  # an output that is an input has no data of its own
            "recurrent",  # the steps of an LSTM are laid out when converting
        }
    )

    @pytest.fixture
    def backend(self) -> Backend:
        return load_backend("litert")


@pytest.fixture
def litert() -> Backend:
    return load_backend("litert")


class Graph:
    """A small graph with seeded weights."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.tensors)}"
        values = self.rng.normal(0, 0.3, shape).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)
        )

    def write(
        self,
        folder: Path,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, Sequence[int | str]],
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in inputs.items()
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / "model.onnx")
        return folder / "model.onnx"


def converted(model: Path, folder: Path) -> Path:
    out = folder / "out"
    out.mkdir(parents=True)
    return load_backend("litert").convert(model, FLOAT, out)


def opened(model: Path, folder: Path) -> Session:
    return load_backend("litert").open(converted(model, folder), OpenOptions())


def expected(model: Path, feed: Feed) -> list[Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


# --- the model's own interface


def test_one_three_and_four_dimensions_come_out_as_the_model_has_them(tmp_path: Path) -> None:
    """A square image and as many channels: no shape tells which axis is which."""
    g = Graph()
    g.add("Conv", ["image", g.weight(6, 6, 3, 3)], "features", pads=[1] * 4)
    g.add("Conv", ["sound", g.weight(6, 6, 3)], "waves", pads=[1, 1])
    g.add("Mul", ["vector", "vector"], "squares")
    shapes = {
        "vector": [6],
        "sound": [1, 6, 6],
        "image": [1, 6, 6, 6],
    }
    outputs = {"waves": [1, 6, 6], "features": [1, 6, 6, 6], "squares": [6]}
    model = g.write(tmp_path, shapes, outputs)
    feed = {name: g.rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    with opened(model, tmp_path) as session:
        assert [info.name for info in session.inputs] == list(shapes)
        assert [info.shape for info in session.inputs] == [tuple(s) for s in shapes.values()]
        results: Feed = dict(session.run(feed))
    assert list(results) == list(outputs)
    for found, want in zip(results.values(), expected(model, feed), strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("ways", [1, 2])
def test_a_cell_begins_anew_in_every_run(ways: int, tmp_path: Path) -> None:
    g = Graph()
    weights = [g.weight(ways, 16, 3), g.weight(ways, 16, 4), g.weight(ways, 32)]
    direction = "bidirectional" if ways == 2 else "forward"
    g.add("LSTM", ["sound", *weights], "steps", hidden_size=4, direction=direction)
    model = g.write(tmp_path, {"sound": [6, 1, 3]}, {"steps": [6, ways, 1, 4]})
    feeds = [{"sound": g.rng.normal(size=(6, 1, 3)).astype(np.float32)} for _ in range(3)]
    with opened(model, tmp_path) as session:
        for feed in feeds:
            results: Feed = dict(session.run(feed))
            np.testing.assert_allclose(results["steps"], expected(model, feed)[0], atol=1e-5)


def subtraction(folder: Path) -> Path:
    g = Graph()
    g.add("Sub", ["z first", "a/second:0"], "difference")
    shape = [2, 3]
    return g.write(folder, {"z first": shape, "a/second:0": shape}, {"difference": shape})


def test_two_inputs_of_one_shape_are_told_apart(tmp_path: Path) -> None:
    one, two = np.ones((2, 3), np.float32), np.full((2, 3), 5, np.float32)
    with opened(subtraction(tmp_path), tmp_path) as session:
        (difference,) = session.run({"a/second:0": two, "z first": one}).values()
    np.testing.assert_array_equal(difference, one - two)


def test_an_exchange_of_equal_inputs_by_the_converter_is_found_and_undone(tmp_path: Path) -> None:
    """The file of b - a, said to be the model a - b: only running it can tell."""
    model = subtraction(tmp_path / "right")
    g = Graph()
    g.add("Sub", ["a/second:0", "z first"], "difference")
    shape = [2, 3]
    swapped = g.write(
        tmp_path / "wrong", {"z first": shape, "a/second:0": shape}, {"difference": shape}
    )
    file = converted(swapped, tmp_path)
    interface = find_interface(model, file)
    assert [port.tensor for port in interface.inputs] != [
        port.info.name for port in interface.inputs
    ]
    feed = {"z first": np.ones(shape, np.float32), "a/second:0": np.zeros(shape, np.float32)}
    (found,) = (
        Engine(file)
        .run({port.tensor: port.to_file(feed[port.info.name]) for port in interface.inputs})
        .values()
    )
    np.testing.assert_array_equal(found, np.ones(shape))


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    g = Graph()
    g.add("Add", ["z first", "a/second:0"], "difference")
    shape = [2, 3]
    other = g.write(
        tmp_path / "wrong", {"z first": shape, "a/second:0": shape}, {"difference": shape}
    )
    file = converted(other, tmp_path)
    with pytest.raises(StepFailed, match=r"does not compute .* 'difference' is .* off"):
        find_interface(subtraction(tmp_path / "right"), file)


def test_an_input_that_does_nothing_is_still_taken(tmp_path: Path) -> None:
    g = Graph()
    g.add("Relu", ["used"], "y")
    shape = [2, 3]
    model = g.write(tmp_path, {"unused": shape, "used": shape}, {"y": shape})
    values = g.rng.normal(size=shape).astype(np.float32)
    with opened(model, tmp_path) as session:
        assert [info.name for info in session.inputs] == ["unused", "used"]
        (y,) = session.run({"unused": values * 0, "used": values}).values()
    np.testing.assert_array_equal(y, np.maximum(values, 0))


NARROW = Port(info=TensorInfo(name="ids", dtype="int64", shape=(2,)), tensor="ids", dtype="int32")


def test_integers_that_a_narrower_type_does_not_hold_are_refused() -> None:
    np.testing.assert_array_equal(NARROW.to_file(np.array([7, -9])), [7, -9])
    with pytest.raises(SamplesError, match="'ids' has values beyond int32"):
        NARROW.to_file(np.array([7, 2**31]))


@pytest.mark.parametrize("axes", [(0, 2, 1), (0, 2, 3, 1), (0, 2, 3, 4, 1)])
def test_moving_channels_there_and_back_changes_nothing(axes: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=range(2, 2 + len(axes)))
    info = TensorInfo(name="x", dtype="float64", shape=array.shape)
    there = Port(info=info, tensor="x", dtype="float64", axes=axes)
    back = Port(
        info=info, tensor="x", dtype="float64", axes=tuple(int(a) for a in np.argsort(axes))
    )
    np.testing.assert_array_equal(back.from_file(there.to_file(array)), array)
    assert back.from_file(there.to_file(array)).flags.c_contiguous


def test_open_lengths_stay_open_where_the_file_can_be_resized(
    small_mlp: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    with opened(small_mlp, tmp_path) as session:
        for rows in (1, 5, 2):
            shape = [rows, *(d for d in session.inputs[0].shape if isinstance(d, int))]
            feed: Feed = {session.inputs[0].name: rng.normal(size=shape).astype(np.float32)}
            results: Feed = dict(session.run(feed))
            for found, want in zip(results.values(), expected(small_mlp, feed), strict=True):
                np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_transformer_takes_sentences_of_any_length(small_attention: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with opened(small_attention, tmp_path) as session:
        for shape in ((1, 7), (3, 5), (1, 20)):
            feed: Feed = {"ids": rng.integers(0, 100, shape)}
            results: Feed = dict(session.run(feed))
            want = expected(small_attention, feed)[0]
            np.testing.assert_allclose(results["states"], want, atol=1e-5)


def test_an_operator_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    g = Graph()
    g.add("Unique", ["x"], "y")
    model = g.write(tmp_path, {"x": [3, 3]}, {"y": ["found"]})
    with pytest.raises(StepFailed, match="cannot convert Unique 'Unique_y'"):
        converted(model, tmp_path)


def test_a_mean_over_an_image_keeps_what_is_ahead_of_it_fused(tmp_path: Path) -> None:
    g = Graph()
    g.add("Conv", ["image", g.weight(6, 3, 3, 3)], "a")
    g.add("Relu", ["a"], "b")
    g.add("ReduceMean", ["b"], "c", axes=[-1, 2], keepdims=0)
    g.add("MatMul", ["c", g.weight(6, 4)], "y")
    model = g.write(tmp_path, {"image": [1, 3, 8, 8]}, {"y": [1, 4]})
    artifact = converted(model, tmp_path)
    found = [item.name for item in operations(artifact)]
    assert not {"RELU", "TRANSPOSE"} & set(found[found.index("CONV_2D") : found.index("MEAN")])
    feed: Feed = {"image": g.rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    with load_backend("litert").open(artifact, OpenOptions()) as session:
        results: Feed = dict(session.run(feed))
        origins = {name for item in session.placement() for name in item.origin}
    np.testing.assert_allclose(results["y"], expected(model, feed)[0], atol=1e-5)
    assert "ReduceMean_c" in origins


@pytest.mark.parametrize(
    ("axes", "rank", "keepdims", "kinds"),
    [
        ([2, 3], 4, 0, ["GlobalAveragePool", "Flatten"]),
        ([-1, -2], 4, 0, ["GlobalAveragePool", "Flatten"]),
        ([2, 3], 4, 1, ["ReduceMean"]),
        ([1], 4, 0, ["ReduceMean"]),
        ([1, 2], 3, 0, ["ReduceMean"]),
    ],
)
def test_only_means_that_leave_a_vector_of_an_image_become_pools(
    axes: list[int], rank: int, keepdims: int, kinds: list[str]
) -> None:
    """Of opset 18, where the axes are an input."""
    stored = numpy_helper.from_array(np.array(axes, np.int64), "axes")
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean", keepdims=keepdims)
    graph = helper.make_graph([node], "graph", [], [], [stored])
    pool_means(graph, {"x": rank})
    assert [item.op_type for item in graph.node] == kinds
    assert graph.node[0].name == "mean"
    assert graph.node[-1].output == ["y"]


@pytest.mark.parametrize("spoil", ["missing", "damaged", "of another file"])
def test_an_artifact_without_its_own_interface_is_refused(
    spoil: str, small_mlp: Path, tmp_path: Path, litert: Backend
) -> None:
    artifact = converted(small_mlp, tmp_path)
    beside = artifact.parent / FILE
    if spoil == "missing":
        beside.unlink()
    elif spoil == "damaged":
        beside.write_text(beside.read_text()[:50])
    else:
        found = json.loads(beside.read_text())
        beside.write_text(json.dumps({**found, "file_bytes": found["file_bytes"] + 1}))
    with pytest.raises(StepFailed, match=FILE):
        litert.open(artifact, OpenOptions())


# --- quantizing


class Rows:
    """Calibration rows as the SDK hands them on."""

    def __init__(self, make: Callable[[int], Feed], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Any:
        if row >= self._count:
            raise IndexError(row)

        class One:
            inputs = self._make(row)

        return One()


def image(row: int) -> Feed:
    values = np.random.default_rng(row).normal(size=(1, 3, 32, 32))
    return {"image": values.astype(np.float32)}


@pytest.fixture(scope="module")
def cnn(small_cnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float form of a small image classifier with its shapes fixed."""
    folder = tmp_path_factory.mktemp("cnn")
    proto = onnx.load(small_cnn)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, folder / "model.onnx")
    return converted(folder / "model.onnx", folder)


@pytest.mark.parametrize(
    ("name", "share", "precision"),
    [
        ("w8a8-dynamic", 0.5, "int8"),
        ("w8-only", 0.5, "fp32"),
        ("w8a8-static", 0.5, "int8"),
        ("w8a8-static-symmetric", 0.5, "int8"),
        ("fp32-w16", 0.7, "fp32"),
    ],
)
def test_a_recipe_is_applied_to_the_file_and_shows_in_its_placement(
    name: str, share: float, precision: str, cnn: Path, tmp_path: Path, litert: Backend
) -> None:
    recipe = Recipe.parse(name)
    assert litert.quantizes(recipe)
    artifact = litert.quantize(cnn, recipe, tmp_path, Rows(image, 8))
    assert artifact.stat().st_size < share * cnn.stat().st_size
    feed = image(100)
    with litert.open(cnn, OpenOptions()) as whole, litert.open(artifact, OpenOptions()) as small:
        assert (small.inputs, small.outputs) == (whole.inputs, whole.outputs)
        results: list[Feed] = [dict(session.run(feed)) for session in (whole, small)]
        convolutions = [item for item in small.placement() if item.op == "CONV_2D"]
    (want,), (got,) = (result.values() for result in results)
    cosine = np.vdot(want, got) / np.linalg.norm(want) / np.linalg.norm(got)
    assert cosine > 0.99
    assert {item.precision for item in convolutions} == {precision}
    assert {item.provider for item in convolutions} == {"XNNPACK"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w8a8-static-nncf", "NNCF"),
        ("w4b32-only", "blocks"),
        ("w8a8-dynamic-reduce", "7-bit"),
        ("w8a8-static-percentile", "percentile"),
        ("bf16", "bf16"),
    ],
)
def test_what_it_cannot_do_is_rejected_with_the_reason(
    name: str, said: str, litert: Backend, tmp_path: Path
) -> None:
    recipe = Recipe.parse(name)
    assert said in (litert.rejects(recipe) or "")
    with pytest.raises(RecipeError, match=said):
        litert.quantize(tmp_path / "never read", recipe, tmp_path, None)


def test_a_static_recipe_without_samples_is_refused(
    cnn: Path, tmp_path: Path, litert: Backend
) -> None:
    with pytest.raises(SamplesError, match="--samples"):
        litert.quantize(cnn, Recipe.parse("w8a8-static"), tmp_path, None)


def test_a_recipe_that_nothing_takes_is_refused(tmp_path: Path, litert: Backend) -> None:
    artifact = converted(subtraction(tmp_path), tmp_path)
    with pytest.raises(StepFailed, match="would change nothing"):
        litert.quantize(artifact, Recipe.parse("w8a8-dynamic"), tmp_path, None)


# --- the whole path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    ("model", "recipes"),
    [
        ("small_cnn", ("w8a8-dynamic", "w8a8-static")),
        pytest.param("small_mlp", ("w8a8-dynamic",), marks=pytest.mark.nightly),
    ],
)
def test_a_deploy_to_litert_ends_in_a_bundle_that_runs(
    model: str,
    recipes: tuple[str, ...],
    cache: Cache,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path: Path = request.getfixturevalue(model)
    (value,) = onnx.load(path).graph.input
    dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    rows = np.random.default_rng(0).standard_normal((40, *dims[1:])).astype(np.float32)
    np.savez(tmp_path / "samples.npz", allow_pickle=False, **{value.name: rows})
    done = deploy(
        path,
        profile="x86",
        out=tmp_path / "out",
        cache=cache,
        backends=("litert",),
        recipes=recipes,
        samples=str(tmp_path / "samples.npz"),
        settings=QUICK,
    )
    tried = {outcome.name: outcome for outcome in done.outcomes}
    assert set(tried) >= {f"litert/{recipe}" for recipe in recipes}
    for name, outcome in tried.items():
        assert outcome.error is None, f"{name}: {outcome.error}"
        assert outcome.measurement is not None or outcome.quality is not None
    with edgesdk.load(tmp_path / "out" / BUNDLE) as session:
        assert session.self_test().ok
        assert len(session.run({value.name: rows[:1]})) == 1


def test_interfaces_survive_their_file(cnn: Path, tmp_path: Path) -> None:
    for name in ("model.tflite", FILE):
        shutil.copyfile(cnn.parent / name, tmp_path / name)
    assert read_interface(tmp_path / "model.tflite") == read_interface(cnn)
