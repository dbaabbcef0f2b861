"""TensorRT: its rules for quantizers, TensorRT-RTX's verdict on what they make, and engines by key."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgesdk.backend import Backend, OpenOptions, load_backend
from edgesdk.compress.apply import compress
from edgesdk.compress.blocks import quantize_blocks
from edgesdk.compress.prepare import prepare
from edgesdk.errors import BackendUnavailable, OutputError, ProfileError, SamplesError, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.recipe import Recipe
from edgesdk.testing.rows import Rows
from edgesdk_backends.tensorrt import backend, building, preflight, session
from edgesdk_backends.tensorrt.backend import find_engine
from edgesdk_backends.tensorrt.blocks import spread_blocks
from edgesdk_backends.tensorrt.engines import Origin, Shelf, artifact_hash
from edgesdk_backends.tensorrt.gpu import Gpu, find_gpu
from edgesdk_backends.tensorrt.halving import fit_scales, held_scales
from edgesdk_backends.tensorrt.layers import read_layers
from edgesdk_backends.tensorrt.placing import PRODUCTS, place_quantizers

FIXTURES = Path(__file__).parent / "fixtures"
ORIN = {"compute_capability": "8.7"}
SYMMETRIC = Recipe.parse("w8a8-static-symmetric")
SIMULATED = OpenOptions(simulate=True)


@pytest.fixture
def tensorrt() -> Backend:
    return load_backend("tensorrt")


@pytest.fixture
def rtx() -> Any:
    """TensorRT-RTX, which parses and builds without a GPU."""
    if find_spec(preflight.MODULE) is None:
        pytest.skip("TensorRT-RTX is not installed; pip install 'edgesdk[tensorrt]'")
    return preflight.library()


# --- graphs with quantizers


class Drawn:
    """A graph with quantizers around any of its tensors, as quantizers write them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.shape = (1, 4, 6, 6)

    def constant(self, name: str, values: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)
        )
        return output

    def pair(self, name: str) -> str:
        scale = self.constant(f"{name}.scale", np.float32(self.rng.uniform(0.02, 0.05)))
        zero = self.constant(f"{name}.zero", np.int8(0))
        self.add("QuantizeLinear", [name, scale, zero], f"{name}.q")
        return self.add("DequantizeLinear", [f"{name}.q", scale, zero], f"{name}.dq")

    def weight(self, name: str, *shape: int, kind: Any = np.int8) -> str:
        limit = 100 if kind == np.int8 else 1000
        values = self.rng.integers(-limit, limit, shape).astype(kind)
        scales = self.rng.uniform(0.001, 0.004, shape[0]).astype(np.float32)
        zeros = np.zeros(shape[0], kind)
        parts = {"v": values, "s": scales, "z": zeros}
        names = [self.constant(f"{name}.{k}", v) for k, v in parts.items()]
        return self.add("DequantizeLinear", names, name, axis=0)

    def model(self, output: str) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shape)
            for name in ("x", output)
        ]
        graph = helper.make_graph(self.nodes, "drawn", ends[:1], ends[1:], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model


@st.composite
def quantized_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions, additions and operators that TensorRT does not compute in integers, in any order."""
    graph = Drawn(draw(st.integers(0, 99)))
    made = ["x"]
    paired: dict[str, str] = {}

    def read(name: str) -> str:
        if draw(st.booleans()):
            paired[name] = paired.get(name) or graph.pair(name)
            return paired[name]
        return name

    ops = draw(
        st.lists(
            st.sampled_from(("Conv", "Conv", "Add", "Relu", "MaxPool", "Sigmoid")),
            min_size=1,
            max_size=7,
        )
    )
    for number, op in enumerate(ops):
        output = f"t{number}"
        source = read(made[-1])
        if op == "Conv":
            weights = [graph.weight(f"{output}.w", 4, 4, 3, 3)]
            if draw(st.booleans()):
                weights.append(graph.weight(f"{output}.b", 4, kind=np.int32))
            graph.add("Conv", [source, *weights], output, pads=[1, 1, 1, 1])
        elif op == "Add":
            graph.add("Add", [source, read(draw(st.sampled_from(made)))], output)
        elif op == "MaxPool":
            graph.add("MaxPool", [source], output, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        else:
            graph.add(op, [source], output)
        made.append(output)
    return graph.model(read(made[-1]))


def run(model: onnx.ModelProto, feed: dict[str, Any]) -> dict[str, Any]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    engine = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in engine.get_outputs()]
    return dict(zip(names, engine.run(names, feed), strict=True))


@given(model=quantized_graphs())
@settings(deadline=None, max_examples=40)
def test_quantizers_stand_where_tensorrt_multiplies_and_nowhere_else(
    model: onnx.ModelProto,
) -> None:
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    place_quantizers(model)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == names
    makers = {name: node for node in model.graph.node for name in node.output}
    read = {name for node in model.graph.node for name in node.input} | set(names)
    dequantized = {n for n, node in makers.items() if node.op_type == "DequantizeLinear"}
    assert set(makers) <= read, "nothing is computed that nobody reads"
    for node in model.graph.node:
        quantized = [name in dequantized for name in node.input]
        if node.op_type in PRODUCTS:
            assert quantized[0] == quantized[1]
            assert not any(quantized[2:])
        elif node.op_type == "Add":
            assert sum(quantized) <= 1
        elif node.op_type != "QuantizeLinear":
            assert node.op_type == "DequantizeLinear" or not any(quantized)
    assert not dequantized.intersection(names)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT8}
    feed = {"x": np.ones((1, 4, 6, 6), np.float32)}
    assert [a.shape for a in run(model, feed).values()] == [(1, 4, 6, 6)]


@given(model=quantized_graphs())
@settings(deadline=None, max_examples=20)
def test_placing_twice_changes_nothing_more(model: onnx.ModelProto) -> None:
    place_quantizers(model)
    once = model.SerializeToString(deterministic=True)
    place_quantizers(model)
    assert model.SerializeToString(deterministic=True) == once


@given(model=quantized_graphs(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_only_rounding_of_activations_is_taken_out(model: onnx.ModelProto, seed: int) -> None:
    feed = {"x": np.random.default_rng(seed).normal(0, 1, (1, 4, 6, 6)).astype(np.float32)}
    before = run(_without_rounding(model), feed)
    place_quantizers(model)
    for name, found in run(_without_rounding(model), feed).items():
        wanted = before[name]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-6)


def _without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, its activations handed on as they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    sources = {n.output[0]: n.input[0] for n in copy.graph.node if n.op_type == "QuantizeLinear"}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            node.op_type = "Identity"
            node.input[:] = [sources[node.input[0]]]
    return copy


def test_a_graph_without_quantizers_is_left_alone() -> None:
    graph = Drawn(0)
    graph.add("Relu", ["x"], "y")
    model = graph.model("y")
    before = model.SerializeToString(deterministic=True)
    assert (place_quantizers(model).kept, place_quantizers(model).dropped) == (0, 0)
    assert model.SerializeToString(deterministic=True) == before


def test_the_residual_of_an_addition_behind_a_convolution_stays_quantized() -> None:
    graph = Drawn(0)
    quantized = graph.pair("x")
    graph.add("Conv", [quantized, graph.weight("w", 4, 4, 3, 3)], "c", pads=[1, 1, 1, 1])
    graph.add("Add", [graph.pair("c"), quantized], "y")
    model = graph.model("y")
    place_quantizers(model)
    addition = next(node for node in model.graph.node if node.op_type == "Add")
    assert list(addition.input) == ["c", "x.dq"]


@pytest.mark.parametrize(
    ("zero", "told"),
    [(np.uint8(0), "x_quantize is uint8"), (np.int8(3), "x_quantize has another zero point")],
)
def test_what_tensorrt_does_not_know_is_refused_by_name(zero: Any, told: str) -> None:
    graph = Drawn(0)
    names = [graph.constant("s", np.float32(0.1)), graph.constant("z", zero)]
    graph.nodes.append(helper.make_node("QuantizeLinear", ["x", *names], ["q"], name="x_quantize"))
    graph.add("DequantizeLinear", ["q", *names], "y")
    with pytest.raises(StepFailed, match=f"{told}.*use a recipe with '-symmetric'"):
        place_quantizers(graph.model("y"))


# --- blocks of weights


@given(
    depth=st.integers(1, 6).map(lambda n: n * 16),
    width=st.integers(1, 9),
    block=st.sampled_from((16, 32)),
    bits=st.sampled_from((4, 8)),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=10)
def test_blocks_hold_the_same_weights_in_either_form(
    depth: int, width: int, block: int, bits: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = numpy_helper.from_array(rng.normal(0, 1, (depth, width)).astype(np.float32), "w")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, size])
        for name, size in (("x", depth), ("y", width))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    graph = helper.make_graph(nodes, "blocks", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    packed = _in_blocks(model, Recipe.parse(f"w{bits}b{block}-only"))
    feed = {"x": rng.normal(0, 1, (3, depth)).astype(np.float32)}
    wanted = run(packed, feed)["y"]  # it may round what it multiplies
    assert spread_blocks(packed) == 1
    onnx.checker.check_model(packed, full_check=True)
    kinds = {tensor.data_type for tensor in packed.graph.initializer}
    stays_small = bits == 4 and depth % block == 0
    assert kinds == ({TensorProto.INT4, TensorProto.FLOAT} if stays_small else {TensorProto.FLOAT})
    found = run(packed, feed)["y"]
    # onnxruntime rounds what it multiplies with blocks to 8 bits: at most half a step for each weight.
    step = float(np.abs(feed["x"]).max()) / 127
    most = float(np.abs(numpy_helper.to_array(weight)).sum(axis=0).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=step / 2 * most + 1e-4)


def _in_blocks(model: onnx.ModelProto, recipe: Recipe) -> onnx.ModelProto:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "blocks.onnx"
        onnx.save(model, source)
        quantize_blocks(source, recipe, target, frozenset())
        return onnx.load(target)


# --- scales in float16


@given(scales=st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=8))
def test_a_held_scale_is_the_next_that_float16_has(scales: list[float]) -> None:
    exact = np.array(scales, np.float32)
    held = held_scales(exact)
    assert np.all(held >= exact)
    half = held.astype(np.float16)
    np.testing.assert_array_equal(half.astype(np.float32), held)
    below = np.nextafter(half, np.float16(0)).astype(np.float32)
    assert np.all(below < exact)


@given(scales=st.lists(st.floats(1e-11, 1e-2), min_size=4, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_weights_move_by_half_a_step_at_most_to_scales_that_float16_holds(
    scales: list[float], seed: int
) -> None:
    graph = Drawn(seed)
    weight = graph.weight("w", 4, 4, 3, 3)
    graph.tensors[1].CopyFrom(numpy_helper.from_array(np.array(scales, np.float32), "w.s"))
    graph.add("Conv", [graph.pair("x"), weight], "y", pads=[1, 1, 1, 1])
    model = graph.model("y")
    before = _weight(model)
    fit_scales(model)
    step = np.array(held_scales(np.array(scales, np.float32))).reshape(4, 1, 1, 1)
    assert np.all(np.abs(_weight(model) - before) <= step / 2 * 1.001)


def _weight(model: onnx.ModelProto) -> Any:
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.output[0] == "w")
    values, scale = stored[node.input[0]], stored[node.input[1]]
    return values.astype(np.float64) * scale.astype(np.float64).reshape(4, 1, 1, 1)


# --- from a model to TensorRT-RTX's verdict


@pytest.fixture(scope="module")
def cnn(small_cnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network at a fixed shape."""
    out = tmp_path_factory.mktemp("cnn")
    return prepare(small_cnn, out, shapes={"image": (1, 3, 32, 32)}, example=IMAGES[0].inputs).path


IMAGES = Rows("cnn")


def compressed(model: Path, recipe: Recipe, out: Path, **options: Any) -> Path:
    return compress(model, recipe, out, calibration=IMAGES, **options).path


@pytest.mark.parametrize(
    ("name", "precisions"),
    [
        ("fp32", {"fp32"}),
        ("fp16", {"fp16", "fp32"}),
        ("w8a8-static-symmetric", {"int8", "fp32"}),
        ("w8a8-static-weighted-symmetric-fp16", {"int8", "fp16", "fp32"}),
        ("w4b16-only", {"fp32"}),
        ("w4b16-only-fp16", {"fp16", "fp32"}),
    ],
)
def test_what_it_converts_is_simulated_and_built(
    tensorrt: Backend, rtx: Any, cnn: Path, tmp_path: Path, name: str, precisions: set[str]
) -> None:
    recipe = Recipe.parse(name)
    assert tensorrt.rejects(recipe) is None
    source = compressed(cnn, recipe.stored, tmp_path / "source")
    out, program = tmp_path / "out", tmp_path / "program"
    out.mkdir()
    artifact = tensorrt.convert(source, recipe, out)
    onnx.checker.check_model(onnx.load(artifact), full_check=True)
    wanted = ort.InferenceSession(cnn, providers=["CPUExecutionProvider"])
    with tensorrt.open(artifact, replace(SIMULATED, execution=recipe.execution)) as opened:
        for number in range(len(IMAGES)):
            image = IMAGES[number].inputs
            exact = wanted.run(None, image)[0]
            found = opened.run(image)["logits"]
            assert found.dtype == np.float32
            assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
    made = tensorrt.compile(artifact, ORIN, program, simulate=True)
    assert made.program == program / "model.onnx"
    assert made.program.read_bytes() == artifact.read_bytes()
    assert {item.unit for item in made.placement} == {"gpu"}
    assert {item.precision for item in made.placement} == precisions
    origins = {name for item in made.placement for name in item.origin}
    assert {node.name for node in onnx.load(cnn).graph.node if node.op_type == "Conv"} <= origins
    assert str(rtx.__version__) in made.notes[0]
    assert "builds an engine of" in made.notes[0]
    assert "no SM87" in made.notes[-1]
    assert made.estimate_ms is made.cycles is made.memory_bytes is None


def test_an_artifact_has_no_files_but_its_own(tensorrt: Backend, cnn: Path, tmp_path: Path) -> None:
    out, program = tmp_path / "out", tmp_path / "program"
    out.mkdir()
    program.mkdir()
    source = _external(compressed(cnn, SYMMETRIC, tmp_path / "inside"), tmp_path / "source")
    artifact = tensorrt.convert(source, SYMMETRIC, out)
    assert [file.name for file in out.iterdir()] == ["model.onnx"]
    shutil.rmtree(source.parent)
    tensorrt.open(artifact, SIMULATED).close()
    kept = tensorrt.convert(_external(cnn, tmp_path / "float"), Recipe(), program)
    assert {file.name for file in program.iterdir()} == {"model.onnx", "weights.bin"}
    assert artifact_hash(kept) != artifact_hash(artifact)


def _external(model: Path, folder: Path) -> Path:
    folder.mkdir()
    onnx.save(
        onnx.load(model),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )
    return folder / "model.onnx"


def test_nodes_that_are_kept_from_float16_compute_in_float32(
    tensorrt: Backend, rtx: Any, cnn: Path, tmp_path: Path
) -> None:
    del rtx
    kept = next(node.name for node in onnx.load(cnn).graph.node if node.op_type == "Gemm")
    recipe, out = Recipe.parse("fp16"), tmp_path / "out"
    source = compressed(cnn, recipe, tmp_path / "source", kept=frozenset({kept}))
    out.mkdir()
    artifact = tensorrt.convert(source, recipe, out)
    made = tensorrt.compile(artifact, ORIN, out, simulate=True)
    precisions = {item.node: item.precision for item in made.placement if item.op != "Cast"}
    assert precisions.pop(kept) == "fp32"
    assert set(precisions.values()) == {"fp16"}


def test_asymmetric_quantization_is_refused(
    tensorrt: Backend, rtx: Any, cnn: Path, tmp_path: Path
) -> None:
    recipe = Recipe.parse("w8a8-static")
    assert "-symmetric" in str(tensorrt.rejects(recipe))
    source = compressed(cnn, recipe, tmp_path / "source")
    with pytest.raises(StepFailed, match="uint8"):
        tensorrt.convert(source, recipe, tmp_path)
    with pytest.raises(StepFailed, match="UINT8"):
        building.build(rtx, source, label="TensorRT-RTX", capability="SM86")


def test_what_the_quantizer_wrote_is_not_taken_as_it_is(
    rtx: Any, cnn: Path, tmp_path: Path
) -> None:
    source = compressed(cnn, SYMMETRIC, tmp_path / "source")
    with pytest.raises(StepFailed, match=r"_DequantizeLinear.*Int32"):
        building.build(rtx, source, label="TensorRT-RTX", capability="SM86")


def plain(op: str, shape: list[int | str], out: list[int], kind: int = TensorProto.FLOAT) -> Any:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], name="relu"),
            helper.make_node(op, ["r"], ["y"], name="the_node"),
        ],
        "plain",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_operator_that_it_lacks_is_named(tensorrt: Backend, rtx: Any, tmp_path: Path) -> None:
    model, out = tmp_path / "det.onnx", tmp_path / "out"
    onnx.save(plain("Det", [2, 3, 3], [2]), model)
    out.mkdir()
    artifact = tensorrt.convert(model, Recipe(), out)
    with pytest.raises(StepFailed, match=r"1 node: the_node \(Det\): its parser has no operator"):
        tensorrt.compile(artifact, ORIN, out, simulate=True)
    (refused,) = building.unsupported(rtx, artifact)
    assert (refused.node, refused.unit, refused.origin) == ("the_node", "cpu", ("the_node",))
    assert "Det" in refused.why


def test_open_shapes_and_foreign_types_are_refused(tensorrt: Backend, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    for proto, told in (
        (plain("Sigmoid", ["N", 3], [1, 3]), r"fixed lengths.*x: float32\[N, 3\]"),
        (plain("Sigmoid", [1, 3], [1, 3], TensorProto.DOUBLE), "not x: float64"),
    ):
        onnx.save(proto, model)
        out = tmp_path / proto.graph.input[0].name
        out.mkdir(exist_ok=True)
        with pytest.raises(StepFailed, match=told):
            tensorrt.convert(model, Recipe(), out)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_building_tells_its_progress_and_what_it_learned(rtx: Any, cnn: Path) -> None:
    lines: list[str] = []
    made = building.build(rtx, cnn, label="it", capability="SM86", timing=b"", listen=lines.append)
    assert lines
    assert lines[-1].endswith("done")
    again = building.build(rtx, cnn, label="it", capability="SM86", timing=made.timing)
    assert len(again.engine) == len(made.engine)
    damaged = building.build(rtx, cnn, label="it", capability="SM86", timing=b"damaged" * 9)
    assert len(damaged.engine) == len(made.engine)


def test_a_damaged_engine_is_refused(rtx: Any, tmp_path: Path) -> None:
    plan = tmp_path / "engine.plan"
    with pytest.raises(StepFailed, match="cannot read"):
        session.load_engine(rtx, plan)
    plan.write_bytes(b"no engine" * 100)
    with pytest.raises(StepFailed, match="does not load"):
        session.load_engine(rtx, plan)


def test_a_simulated_session_refuses_what_does_not_fit(
    tensorrt: Backend, cnn: Path, tmp_path: Path
) -> None:
    opened = tensorrt.open(cnn, SIMULATED)
    with opened, pytest.raises(SamplesError, match="image"):
        opened.run({"image": np.zeros((1, 3, 32, 31), np.float32)})
    with pytest.raises(StepFailed, match="closed"):
        opened.run(dict(IMAGES[0].inputs))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(cnn.read_bytes()[:100])
    with pytest.raises(StepFailed, match="cannot load"):
        tensorrt.open(damaged, SIMULATED)


# --- what it is


def test_it_says_what_it_simulates_and_compiles(tensorrt: Backend) -> None:
    assert tensorrt.simulation == Evidence.ESTIMATED
    assert tensorrt.compiles(ORIN)
    assert not tensorrt.compiles({"htp_arch": "73"})
    assert tensorrt.typed_artifacts
    problem = tensorrt.unavailable()
    assert problem is None or tensorrt.install in problem
    assert (
        problem is not None or tensorrt.version().startswith("10.3+rtx.") or find_spec("tensorrt")
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fp32", None),
        ("fp32-w16", None),
        ("w8a8-static-symmetric", None),
        ("w8a8-static-tensor-entropy-symmetric-fp16", None),
        ("w8a8-static-symmetric-smooth", None),
        ("w4b128-only", None),
        ("w8a8-static", "zero point 0"),
        ("w8a16-static-symmetric", "8 bits only"),
        ("w8a8-dynamic", "fixed"),
        ("w8-only", "none the smaller"),
        ("w8a8-static-nncf", "uint8"),
        ("bf16", "does not execute in bf16"),
    ],
)
def test_recipes_are_rejected_with_a_reason(tensorrt: Backend, name: str, told: str | None) -> None:
    refusal = tensorrt.rejects(Recipe.parse(name))
    assert refusal is None if told is None else told in str(refusal)


@pytest.mark.parametrize(
    ("wanted", "chosen"), [("8.7", "SM86"), ("8.9", "SM89"), ("8.0", "SM80"), ("12.0", "SM120")]
)
def test_the_nearest_capability_is_of_the_same_architecture(wanted: str, chosen: str) -> None:
    members = dict.fromkeys(("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120"))
    assert preflight.nearest_capability(wanted, members) == chosen


@pytest.mark.parametrize("wanted", ["7.2", "5.3", "10.1", "orin", "87", ""])
def test_an_architecture_that_it_does_not_know_is_refused(wanted: str) -> None:
    with pytest.raises(ProfileError, match="compute_capability"):
        preflight.nearest_capability(wanted, dict.fromkeys(("SM75", "SM86", "SM89")))


@pytest.mark.parametrize("target", [{}, {"compute_capability": "new"}])
def test_a_target_without_a_capability_is_refused(
    tensorrt: Backend, cnn: Path, tmp_path: Path, target: dict[str, str]
) -> None:
    with pytest.raises(ProfileError, match="compute_capability"):
        tensorrt.compile(cnn, target, tmp_path, simulate=True)


# --- engines on the device

GPU = Gpu(name="Orin", capability="8.7", driver="CUDA 12.6, R36 (release)")
HERE = Origin(tensorrt="10.3.0", gpu=GPU)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(root=tmp_path / "shelf")


def test_an_engine_is_found_under_the_key_that_it_was_built_for(shelf: Shelf) -> None:
    assert shelf.find("model", HERE) is None
    plan = shelf.keep("model", HERE, b"an engine")
    assert shelf.find("model", HERE) == plan
    assert plan.read_bytes() == b"an engine"
    assert shelf.find("other", HERE) is None
    assert shelf.keep("model", HERE, b"a better engine") == plan
    assert plan.read_bytes() == b"a better engine"
    assert {file.name for file in plan.parent.iterdir()} == {"engine.plan", "about.json"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (replace(HERE, tensorrt="10.4.0"), "tensorrt '10.3.0' instead of '10.4.0'"),
        (replace(HERE, gpu=replace(GPU, capability="8.6")), "capability '8.7' instead of '8.6'"),
        (replace(HERE, gpu=replace(GPU, name="Thor")), "name 'Orin' instead of 'Thor'"),
        (replace(HERE, gpu=replace(GPU, driver="CUDA 12.8")), "instead of 'CUDA 12.8'"),
    ],
)
def test_an_engine_of_another_machine_is_not_opened_and_named(
    shelf: Shelf, cnn: Path, changed: Origin, told: str
) -> None:
    shelf.keep(artifact_hash(cnn), HERE, b"an engine")
    assert find_engine(shelf, cnn, HERE).is_file()
    with pytest.raises(BackendUnavailable, match=r"edgesdk install BUNDLE") as caught:
        find_engine(shelf, cnn, changed)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "damage", ["truncated", "no about", "about damaged", "about foreign", "no plan"]
)
def test_a_damaged_engine_counts_as_none(shelf: Shelf, damage: str) -> None:
    plan = shelf.keep("model", HERE, b"an engine")
    about = plan.with_name("about.json")
    match damage:
        case "truncated":
            plan.write_bytes(b"an eng")
        case "no about":
            about.unlink()
        case "about damaged":
            about.write_text('{"tensorrt": ')
        case "about foreign":
            about.write_text("[]")
        case _:
            plan.unlink()
    assert shelf.find("model", HERE) is None
    shelf.others("model", replace(HERE, tensorrt="11"))


def test_what_was_learned_about_kernels_is_kept_by_machine(shelf: Shelf) -> None:
    assert shelf.learned(HERE) == b""
    shelf.learn(HERE, b"kernels")
    shelf.learn(HERE, b"more kernels")
    assert shelf.learned(HERE) == b"more kernels"
    assert shelf.learned(replace(HERE, tensorrt="10.4.0")) == b""


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "shelf").write_text("in the way")
    with pytest.raises(OutputError, match="EDGESDK_CACHE"):
        Shelf(root=tmp_path / "shelf").keep("model", HERE, b"an engine")


def test_the_hash_of_an_artifact_is_that_of_its_files_wherever_they_are(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"graph")
        (tmp_path / name / "model.onnx.data").write_bytes(b"weights")
    one, two = (artifact_hash(tmp_path / name / "model.onnx") for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "model.onnx.data").write_bytes(b"Weights")
    assert artifact_hash(tmp_path / "two" / "model.onnx") != one


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_nothing_is_opened_or_built(
    tensorrt: Backend, cnn: Path, tmp_path: Path
) -> None:
    with pytest.raises(BackendUnavailable, match="JetPack"):
        tensorrt.open(cnn, OpenOptions())
    with pytest.raises(BackendUnavailable, match="JetPack"):
        tensorrt.compile(cnn, ORIN, tmp_path)


# --- the GPU and its engines' layers

_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char *name, int length, int device) {
  if (device != 7 || length < 5) return 1;
  strcpy(name, "Orin");
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (device != 7) return 1;
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return 0;
}
"""
"""CUDA's driver interface as its documentation declares it, around constants."""


@pytest.fixture
def driver(tmp_path: Path) -> Callable[[int], str]:
    if shutil.which("cc") is None:
        pytest.skip("the driver's stand-in is compiled with cc")

    def compiled(status: int) -> str:
        source, library = tmp_path / "cuda.c", tmp_path / f"libcuda-{status}.so"
        source.write_text(_DRIVER.replace("STATUS", str(status)))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    return compiled


def test_the_gpu_is_asked_through_the_drivers_interface(
    driver: Callable[[int], str], tmp_path: Path
) -> None:
    gpu = find_gpu(driver(0), root=tmp_path)
    assert gpu == Gpu(name="Orin", capability="8.7", driver="CUDA 12.6")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\nmore\n")
    assert find_gpu(driver(0), root=tmp_path).driver == "CUDA 12.6, R36 (release), REVISION: 4.3"


def test_a_machine_without_a_gpu_is_told(driver: Callable[[int], str]) -> None:
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        find_gpu("libno-such-driver.so")
    with pytest.raises(BackendUnavailable, match="cuInit returned 100"):
        find_gpu(driver(100))


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_building_on_the_device_keeps_the_engine_and_proves_that_it_loads(
    tensorrt: Backend,
    rtx: Any,
    cnn: Path,
    driver: Callable[[int], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """TensorRT-RTX in TensorRT's place, up to where a GPU is needed."""
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    library = driver(0)
    monkeypatch.setattr(backend, "find_gpu", lambda: find_gpu(library, root=tmp_path))
    with pytest.raises(BackendUnavailable, match=r"no engine of this model.*8\.7.*edgesdk install"):
        tensorrt.open(cnn, OpenOptions())
    with pytest.raises(ProfileError, match=r"'8\.6', and the GPU here \(Orin\) '8\.7'"):
        tensorrt.compile(cnn, {"compute_capability": "8.6"}, tmp_path / "out")
    for _ in range(2):  # one that is there and does not load is built anew
        with pytest.raises(StepFailed, match=r"does not load engine\.plan.*CUDA"):
            tensorrt.compile(cnn, ORIN, tmp_path / "out")
        assert "tensorrt: Building engine" in capfd.readouterr().err
    (plan,) = (tmp_path / "cache").rglob("engine.plan")
    assert plan.stat().st_size > 1000
    with pytest.raises(StepFailed, match="does not load"):
        tensorrt.open(tmp_path / "out" / cnn.name, OpenOptions())


def test_layers_are_read_as_the_inspector_lists_them() -> None:
    first, copy, foreign = read_layers((FIXTURES / "tensorrt_inspector.json").read_text("utf-8"))
    assert (first.op, first.unit, first.precision) == ("Convolution", "gpu", "int8")
    assert first.origin == ("conv1", "relu1")
    assert "sm80_xmma" in first.provider
    assert (copy.op, copy.precision, copy.origin) == ("Reformat", "fp16", ())
    assert (foreign.unit, foreign.precision, foreign.origin) == ("gpu", "fp32", ("conv2",))
    (named,) = read_layers('{"Layers": ["conv1 + relu1"]}')
    assert (named.node, named.unit, named.precision) == ("conv1 + relu1", "gpu", "")
    with pytest.raises(ValueError, match="Expecting value"):
        read_layers("no json")
