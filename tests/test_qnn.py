"""Qualcomm's HTP: graphs rewritten by its rules, compiled for it, and run in the vendor's simulator."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from simulated_qnn import SimulatedQnn

from edgesdk.backend import Backend, Compiled, OpenOptions, load_backend
from edgesdk.compress.apply import compress
from edgesdk.compress.shapes import fix_input_shapes
from edgesdk.errors import BackendUnavailable, ProfileError, SamplesError, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.recipe import Recipe
from edgesdk.testing import BackendConformance
from edgesdk_backends.qnn import rules
from edgesdk_backends.qnn.precision import precisions
from edgesdk_backends.qnn.reasons import read_reasons, reason_for
from edgesdk_backends.qnn.recipes import against
from edgesdk_backends.qnn.target import ARCHES, Target

V73 = {"htp_arch": "73", "soc_model": "43"}
V79 = {"htp_arch": "79", "soc_model": "69"}
SIMULATED = OpenOptions(simulate=True)
HALF = OpenOptions(simulate=True, execution="fp16")

Feed = dict[str, Any]


class Row:
    """One calibration row."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs


class Graph:
    """A small graph with seeded weights and quantizers."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)
        )
        return output

    def quantized(self, name: str, low: float, high: float, dtype: type = np.uint8) -> str:
        """The value after a quantizer of this range, and back."""
        steps = np.iinfo(dtype)
        scale = (high - low) / (int(steps.max) - int(steps.min))
        zero = np.clip(round(int(steps.min) - low / scale), steps.min, steps.max)
        ends = [self.constant(np.float32(scale)), self.constant(np.array(zero, dtype))]
        stored = self.add("QuantizeLinear", [name, *ends], f"{name}_q")
        return self.add("DequantizeLinear", [stored, *ends], f"{name}_dq")

    def stored(self, value: Any, dtype: type = np.uint8) -> str:
        """A weight as integers behind a DequantizeLinear."""
        values = np.asarray(value, np.float32)
        limit = np.iinfo(dtype).max
        scale = np.float32(max(float(np.abs(values).max()), 1e-9) / limit)
        whole = self.constant(np.rint(values / scale).astype(dtype))
        ends = [self.constant(scale), self.constant(np.array(0, dtype))]
        return self.add("DequantizeLinear", [whole, *ends], f"{whole}_dq")

    def model(self, result: str, shape: list[int], opset: int = 21) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.tensors,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        made.ir_version = 10
        return onnx.shape_inference.infer_shapes(made)


def ran(model: onnx.ModelProto, feed: Feed) -> Any:
    """The first output on the CPU, of the graph as it stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)[0]


def adapted(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rules.adapt(copy)
    onnx.checker.check_model(copy)
    return copy


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture(scope="module", autouse=True)
def each_graph_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let a graph of the suite that was compiled in this module not be compiled again."""
    SimulatedQnn.keep_in = tmp_path_factory.mktemp("programs")
    yield
    SimulatedQnn.keep_in = None
    SimulatedQnn.kept.clear()


class TestSimulatedQnn(BackendConformance):
    """As far as it holds for a unit without float32, timing and threads of its own."""

    registered = False
    deterministic = False  # the vendor's binary is another one each time
    keeps_threads = False
    tells_times = False
    engine_modules = frozenset({"onnxruntime", "onnxruntime_qnn"})
    static = True
    tolerance = 2**-6

    @pytest.fixture
    def backend(self) -> Backend:
        if platform.machine() != "x86_64":
            pytest.skip("the HTP simulator runs on x86-64 only")
        return SimulatedQnn()

    def test_it_executes_float32_and_rejects_what_it_lacks(self, backend: Backend) -> None:
        assert backend.rejects(Recipe.parse("fp16")) is None
        assert backend.rejects(Recipe.parse("fp32"))
        assert backend.rejects(Recipe.parse("bf16"))


# --- the rules


def gelu(order: str, dtype: type | None, *, product: bool = False) -> onnx.ModelProto:
    """A GELU as exporters write it, with quantizers everywhere that one can be."""
    g = Graph()

    def q(name: str, low: float, high: float) -> str:
        return name if dtype is None else g.quantized(name, low, high, dtype)

    def c(value: float) -> str:
        return g.constant(np.float32(value)) if dtype is None else g.stored(value)

    x = q("x", -6, 6)
    if product:
        inner = g.add("Mul", [x, c(np.sqrt(0.5))], "inner")
    else:
        inner = g.add("Div", [x, c(np.sqrt(2))], "inner")
    erf = q(g.add("Erf", [q(inner, -4.3, 4.3)], "erf"), -1, 1)
    one = q(g.add("Add", [erf, c(1)], "one"), 0, 2)
    if order == "half first":
        half = q(g.add("Mul", [x, c(0.5)], "half"), -3, 3)
        last = g.add("Mul", [half, one], "y0")
    elif order == "half last":
        last = g.add("Mul", [q(g.add("Mul", [x, one], "full"), -0.4, 12), c(0.5)], "y0")
    else:
        last = g.add("Mul", [x, q(g.add("Mul", [one, c(0.5)], "part"), 0, 1)], "y0")
    g.add("Relu", [q(last, -0.2, 6)], "y")
    return g.model("y", [4, 8])


@pytest.mark.parametrize("order", ["half first", "half last", "half between"])
@pytest.mark.parametrize("dtype", [None, np.uint8, np.uint16])
@pytest.mark.parametrize("product", [False, True])
def test_a_gelu_becomes_one_operator(order: str, dtype: type | None, product: bool) -> None:
    model = gelu(order, dtype, product=product)
    made = adapted(model)
    assert ops(made).count("Gelu") == 1
    assert "Erf" not in ops(made)
    assert ops(made).count("Mul") == 0
    x = np.random.default_rng(1).normal(0, 2, (4, 8)).astype(np.float32)
    # Nine quantizers less: what is left differs by their rounding.
    step = 0.0 if dtype is None else 12 / np.iinfo(dtype).max
    np.testing.assert_allclose(ran(made, {"x": x}), ran(model, {"x": x}), atol=4 * step + 1e-5)


def test_an_erf_that_is_no_gelu_stays() -> None:
    g = Graph()
    g.add("Erf", [g.add("Div", ["x", g.constant(np.float32(1.3))], "a")], "e")
    g.add("Mul", ["x", g.add("Add", ["e", g.constant(np.float32(1))], "p")], "y")
    model = g.model("y", [4, 8])
    assert ops(adapted(model)) == ops(model)


def test_signed_weights_of_a_norm_become_unsigned_ones_of_the_same_values() -> None:
    g = Graph()
    weight = g.stored(g.rng.normal(1, 0.2, 8), np.int8)
    bias = g.stored(g.rng.normal(0, 0.2, 8), np.int32)
    g.add("LayerNormalization", [g.quantized("x", -4, 4), weight, bias], "n", axis=-1)
    g.add("Relu", [g.quantized("n", -4, 4)], "y")
    model = g.model("y", [4, 8])
    made = adapted(model)
    norm = next(node for node in made.graph.node if node.op_type == "LayerNormalization")
    maker = {node.output[0]: node for node in made.graph.node}
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    kinds = [stored[maker[name].input[0]].data_type for name in norm.input[1:]]
    assert kinds == [TensorProto.UINT8, TensorProto.INT32]
    x = g.rng.normal(0, 1, (4, 8)).astype(np.float32)
    np.testing.assert_array_equal(ran(made, {"x": x}), ran(model, {"x": x}))


def test_quantized_bounds_of_a_clip_become_constants_again() -> None:
    g = Graph()
    g.add("Clip", ["x", g.stored(0.25), g.stored(6.0)], "y")
    made = adapted(model := g.model("y", [4, 8]))
    stored = {tensor.name for tensor in made.graph.initializer}
    assert ops(made).count("Clip") == 1
    clip = next(node for node in made.graph.node if node.op_type == "Clip")
    assert set(clip.input[1:]) <= stored
    x = g.rng.normal(0, 4, (4, 8)).astype(np.float32)
    np.testing.assert_array_equal(ran(made, {"x": x}), ran(model, {"x": x}))


FULL = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0)}


@settings(max_examples=25, deadline=None)
@given(op=st.sampled_from(sorted(FULL)), width=st.floats(0.7, 3), seed=st.integers(0, 99))
def test_sixteen_bit_outputs_get_the_scale_that_the_htp_assumes(
    op: str, width: float, seed: int
) -> None:
    """And what moves them about follows; values that the old range held stay what they were."""
    g = Graph()
    low, high = (width * end for end in FULL[op])
    g.add(op, [g.quantized("x", -6, 6, np.uint16)], "s")
    s = g.quantized("s", low, high, np.uint16)
    ends = list(g.nodes[-1].input[1:])
    moved = g.add("Transpose", [s], "t", perm=[1, 0])
    stored = g.add("QuantizeLinear", [moved, *ends], "t_q")
    g.add("Relu", [g.add("DequantizeLinear", [stored, *ends], "t_dq")], "y")
    model = g.model("y", [4, 8])
    made = adapted(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    after = [n for n in made.graph.node if n.op_type == "QuantizeLinear"][1:]
    for node in after:
        scale = 1 / 32768 if op == "Tanh" else 1 / 65536
        assert values[node.input[1]] == np.float32(scale)
        assert values[node.input[2]] == (32768 if op == "Tanh" else 0)
    x = np.random.default_rng(seed).normal(0, 2, (4, 8)).astype(np.float32)
    before = ran(model, {"x": x})
    inside = before < 0.999 * high
    gap = np.abs(ran(made, {"x": x}) - before)[inside]
    assert gap.max(initial=0) <= 2 * (high - low) / 65535 + 4e-5


def test_eight_bit_outputs_keep_their_scale() -> None:
    g = Graph()
    g.add("Sigmoid", [g.quantized("x", -6, 6)], "s")
    g.add("Relu", [g.quantized("s", 0, 0.5)], "y")
    model = g.model("y", [4, 8])
    assert adapted(model).graph.initializer[:] == model.graph.initializer[:]


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT16, TensorProto.INT32])
def test_small_integers_become_floats_by_way_of_int32(kind: int) -> None:
    """Results of it on the HTP are in the suite above: its case `integers` casts bytes."""
    g = Graph()
    g.add("Cast", [g.add("Cast", ["x"], "small", to=kind)], "f", to=TensorProto.FLOAT)
    g.add("Neg", ["f"], "y")
    model = g.model("y", [4, 8])
    made = adapted(model)
    assert ops(made).count("Cast") == (2 if kind == TensorProto.INT32 else 3)
    x = g.rng.uniform(0, 127, (4, 8)).astype(np.float32)
    np.testing.assert_array_equal(ran(made, {"x": x}), ran(model, {"x": x}))


def test_every_node_has_a_name_afterwards() -> None:
    g = Graph()
    g.add("Relu", [g.add("Relu", ["x"], "a")], "y")
    for node in g.nodes:
        node.name = ""
    names = [node.name for node in adapted(g.model("y", [2])).graph.node]
    assert len(set(names)) == 2
    assert all(names)


# --- what is read and said


def test_precisions_are_those_of_the_tensors_around_a_node() -> None:
    g = Graph()
    x = g.quantized("x", -4, 4)
    g.add("Conv", [x, g.stored(g.rng.normal(size=(4, 2, 3, 3)), np.int8)], "c")
    wide = g.add("Tanh", [g.quantized("c", -9, 9)], "t")
    half = g.add("Neg", [g.quantized(wide, -1, 1, np.uint16)], "n")
    g.add("Relu", [half], "y")
    found = precisions(g.model("y", [1, 2, 8, 8]))
    assert found == {"Conv_c": "int8", "Tanh_t": "int16", "Neg_n": "fp16", "Relu_y": "fp16"}


LOG = """\
2026-11-22 14:24:08 [V:onnxruntime:, qnn_model_wrapper.cc:557 CreateQnnNode] Qnn_OpConfig node name: \
/a b/norm package_name: qti.aisw QNN_op_type: LayerNorm num_of_inputs: 2 num_of_outputs: 1
 node_inputs:
 name=x id=0 dataType=QNN_DATATYPE_UFIXED_POINT_8 rank=3
 name=w id=0 dataType=QNN_DATATYPE_SFIXED_POINT_8 rank=1
 node_outputs:
 name=y id=0 dataType=QNN_DATATYPE_UFIXED_POINT_8 rank=3
[W:onnxruntime:, qnn_model_wrapper.cc:565 CreateQnnNode] QNN.backendValidateOpConfig() failed for node \
`/a b/norm` of type `LayerNorm` with error code 3110
[V:onnxruntime:, qnn_execution_provider.cc:1713] Validation FAILED for 2 nodes in OrtNodeUnit (LN) :
\tOperator type: DequantizeLinear Node name: x_dq Node index: 124
\tOperator type: LayerNormalization Node name: /a b/norm Node index: 125
\tREASON : Failed to add node.

[V:onnxruntime:, qnn_execution_provider.cc:1713] Validation PASSED for 1 nodes in OrtNodeUnit (Add) :
\tOperator type: Add Node name: fine Node index: 1

[V:onnxruntime:, qnn_execution_provider.cc:1713] Validation FAILED for 1 nodes in OrtNodeUnit (Erf) :
\tOperator type: Erf Node name: erf Node index: 200
\tREASON : Operators of type `Erf` are not supported by QNN EP.Erf node `erf` will not be assigned.
"""


def test_reasons_are_read_from_the_log() -> None:
    found = read_reasons(LOG)
    norm = "the HTP refuses LayerNorm with inputs UFIXED_POINT_8, SFIXED_POINT_8 (QNN error 3110)"
    assert found == {
        "x_dq": norm,
        "/a b/norm": norm,
        "erf": "Operators of type `Erf` are not supported by QNN EP",
    }
    assert reason_for("erf", "Erf", found) == found["erf"]
    assert "end of the graph" in reason_for("in", "QuantizeLinear", found)
    assert "no reason" in reason_for("other", "Add", found)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "lacks htp_arch"),
        ({"htp_arch": "79"}, "lacks soc_model"),
        ({**V79, "cores": "2"}, "has 'cores'"),
        ({**V79, "htp_arch": "72"}, "legal: 68, 69"),
        ({**V79, "soc_model": "0"}, "soc_model = '0'"),
        ({**V79, "soc_model": "SM8750"}, "soc_model = 'SM8750'"),
    ],
)
def test_a_wrong_target_is_refused(table: dict[str, str], told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        Target.read(table)


def test_every_generation_is_a_target() -> None:
    for arch in ARCHES:
        target = Target.read({**V79, "htp_arch": arch})
        assert target.has_half == (arch != "68")


def test_recipes_that_gain_nothing_are_rejected() -> None:
    taken: tuple[str, ...] = ("fp16", "w8a8-static", "w8a8-static-fp16", "w8a16-static-fp16")
    taken += ("w8a8-static-percentile-smooth", "w8b32-only-fp16", "w4b32-only-fp16")
    for name in taken:
        assert against(Recipe.parse(name)) is None, name
    refused = {
        "fp32": "take fp16",
        "fp32-w16": "take fp16",
        "w8a8-dynamic": "when it compiles",
        "w8-only": "w8b32-only-fp16",
        "w8a8-static-weighted": "-weighted",
        "w8a16-static-symmetric": "-symmetric",
        "w8a8-static-reduce": "32 bits",
        "w8a8-static-nncf": "-nncf",
    }
    for name, told in refused.items():
        assert told in str(against(Recipe.parse(name))), name
    backend = load_backend("qnn")
    assert backend.rejects(Recipe.parse("bf16")) == "qnn does not execute in bf16"


# --- the real compiler and simulator


@pytest.fixture(scope="session")
def qnn() -> Any:
    backend = load_backend("qnn")
    problem = backend.unavailable()
    if problem:
        pytest.skip(problem)
    if platform.machine() != "x86_64":
        pytest.skip("the HTP simulator runs on x86-64 only")
    return backend


@pytest.fixture(scope="session")
def cnn(small_cnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small convolution net with one image at a time."""
    proto = onnx.load(small_cnn)
    fix_input_shapes(proto, {"image": (1, 3, 32, 32)})
    path = tmp_path_factory.mktemp("cnn") / "model.onnx"
    onnx.save(proto, path)
    return path


def images(count: int) -> list[Row]:
    rng = np.random.default_rng(5)
    return [
        Row({"image": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)}) for _ in range(count)
    ]


def made(backend: Any, model: Path, recipe: str, target: dict[str, str], out: Path) -> Compiled:
    """The way of a candidate: compress, convert, compile."""
    compressed = compress(model, Recipe.parse(recipe), out / "onnx", calibration=images(8))
    (out / "artifact").mkdir()
    artifact = backend.convert(compressed.path, Recipe.parse(recipe), out / "artifact")
    compiled: Compiled = backend.compile(artifact, target, out / "program", simulate=True)
    return compiled


def close(got: Any, wanted: Any) -> float:
    """Cosine of two results."""
    a, b = (np.asarray(v, np.float64).ravel() for v in (got, wanted))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.slow
@pytest.mark.parametrize("target", [V73, V79], ids=["V73", "V79"])
@pytest.mark.parametrize(
    ("recipe", "precision", "least"),
    [("w8a8-static", "int8", 0.99), ("w8a16-static", "int16", 0.999)],
)
def test_a_convolution_net_runs_in_integers(
    qnn: Any,
    cnn: Path,
    tmp_path: Path,
    target: dict[str, str],
    recipe: str,
    precision: str,
    least: float,
) -> None:
    compiled = made(qnn, cnn, recipe, target, tmp_path)
    placed = {item.origin: item for item in compiled.placement}
    convolution = placed["conv_a",]
    assert (convolution.op, convolution.unit) == ("Conv", "npu")
    assert convolution.precision == precision
    on_cpu = {item.op for item in compiled.placement if item.unit == "cpu"}
    assert on_cpu == {"QuantizeLinear", "DequantizeLinear"}
    assert all(item.why for item in compiled.placement if item.unit == "cpu")
    assert compiled.notes == ()
    quantized = onnxruntime.InferenceSession(
        tmp_path / "artifact/model.onnx", providers=["CPUExecutionProvider"]
    )
    floats = onnxruntime.InferenceSession(cnn, providers=["CPUExecutionProvider"])
    with qnn.open(compiled.program, SIMULATED) as session:
        assert session.placement() == compiled.placement
        for row in images(2):
            result = session.run(row.inputs)["logits"]
            assert close(result, floats.run(None, row.inputs)[0]) > least
            assert close(result, quantized.run(None, row.inputs)[0]) > 0.999


@pytest.mark.slow
def test_a_program_is_compiled_alike_for_its_own_generation_and_moves(
    qnn: Any, cnn: Path, tmp_path: Path
) -> None:
    artifact = qnn.convert(cnn, Recipe.parse("fp16"), tmp_path)
    once, twice, other = (
        qnn.compile(artifact, target, tmp_path / name).program
        for name, target in (("1", V79), ("2", V79), ("3", V73))
    )
    names = {file.name for file in once.parent.iterdir()}
    assert names == {"program.onnx", "program_qnn.bin", "program.json"}
    binaries = [(p.parent / "program_qnn.bin").read_bytes() for p in (once, twice, other)]
    assert binaries[0] != binaries[2]
    row = images(1)[0]
    with qnn.open(once, HALF) as session:
        wanted = session.run(row.inputs)["logits"]
    for program in (once, twice):
        moved = program.parent.rename(tmp_path / f"moved {program.parent.name}")
        with qnn.open(moved / program.name, HALF) as session:
            np.testing.assert_array_equal(session.run(row.inputs)["logits"], wanted)
    with pytest.raises(BackendUnavailable, match=r"half precision \(conv_a"):
        qnn.open(moved / program.name, SIMULATED)


@pytest.mark.slow
@pytest.mark.parametrize("target", [V73, V79], ids=["V73", "V79"])
def test_an_operator_that_the_htp_lacks_falls_back_by_name(
    qnn: Any, tmp_path: Path, target: dict[str, str]
) -> None:
    g = Graph()
    g.add("MatMul", ["x", g.constant(g.rng.normal(size=(4, 4)).astype(np.float32))], "a")
    g.add("Det", ["a"], "y")
    onnx.save(g.model("y", [2, 4, 4]), tmp_path / "given.onnx")
    artifact = qnn.convert(tmp_path / "given.onnx", Recipe.parse("fp16"), tmp_path)
    compiled = qnn.compile(artifact, target, tmp_path / "program")
    placed = {item.op: item for item in compiled.placement}
    assert (placed["MatMul"].unit, placed["MatMul"].precision) == ("npu", "fp16")
    assert (placed["Det"].unit, placed["Det"].node) == ("cpu", "Det_y")
    assert "`Det` are not supported" in placed["Det"].why
    assert compiled.notes == ("1 of 2 nodes fall back to the CPU: 1 Det",)
    x = g.rng.normal(size=(2, 4, 4)).astype(np.float32)
    with qnn.open(compiled.program, HALF) as session:
        got = session.run({"x": x})["y"]
    wanted = np.linalg.det(x @ numpy_helper.to_array(g.tensors[0]))
    np.testing.assert_allclose(got, wanted, atol=5e-3 * np.abs(wanted).max())


@pytest.mark.slow
def test_attention_in_integers_stays_on_the_npu(
    qnn: Any, tmp_path: Path, small_attention: Path
) -> None:
    """Its norms and masks would fall back as quantizers write them."""
    proto = onnx.load(small_attention)
    fix_input_shapes(proto, {"ids": (1, 12)})
    onnx.save(proto, tmp_path / "given.onnx")
    rng = np.random.default_rng(6)
    rows = [Row({"ids": rng.integers(0, 100, (1, 12))}) for _ in range(8)]
    compressed = compress(
        tmp_path / "given.onnx", Recipe.parse("w8a16-static"), tmp_path / "c", calibration=rows
    )
    artifact = qnn.convert(compressed.path, Recipe(), tmp_path)
    compiled = qnn.compile(artifact, V79, tmp_path / "program")
    fallen = {item.op for item in compiled.placement if item.unit == "cpu"}
    assert fallen <= {"QuantizeLinear", "DequantizeLinear"}
    floats = onnxruntime.InferenceSession(
        tmp_path / "given.onnx", providers=["CPUExecutionProvider"]
    )
    with qnn.open(compiled.program, HALF) as session:
        got = session.run(rows[0].inputs)["states"]
        assert close(got, floats.run(None, rows[0].inputs)[0]) > 0.999
        with pytest.raises(SamplesError, match="beyond int32"):
            session.run({"ids": np.full((1, 12), 2**40)})


@pytest.mark.slow
def test_what_cannot_be_compiled_is_refused(qnn: Any, tmp_path: Path, small_cnn: Path) -> None:
    with pytest.raises(StepFailed, match=r"no open shapes.*'image' is \['N', 3, 32, 32\]"):
        qnn.convert(small_cnn, Recipe(), tmp_path)
    g = Graph()
    g.add("Det", ["x"], "y")
    onnx.save(g.model("y", [2, 4, 4]), tmp_path / "given.onnx")
    artifact = qnn.convert(tmp_path / "given.onnx", Recipe(), tmp_path)
    with pytest.raises(
        StepFailed, match=r"nothing of this model runs on the HTP: Det_y \(Det\): Op"
    ):
        qnn.compile(artifact, V79, tmp_path / "nothing")
    g = Graph()
    g.add("Relu", ["x"], "y")
    onnx.save(g.model("y", [2, 4]), tmp_path / "given.onnx")
    artifact = qnn.convert(tmp_path / "given.onnx", Recipe(), tmp_path)
    with pytest.raises(StepFailed, match="V68 computes in integers only"):
        qnn.compile(artifact, {"htp_arch": "68", "soc_model": "30"}, tmp_path / "floats")
    with pytest.raises(ProfileError, match="lacks htp_arch"):
        qnn.compile(artifact, {}, tmp_path / "none")


@pytest.mark.slow
def test_opening_needs_the_unit_or_the_simulator_and_whole_files(
    qnn: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    g = Graph()
    g.add("Relu", ["x"], "y")
    onnx.save(g.model("y", [2, 4]), tmp_path / "given.onnx")
    artifact = qnn.convert(tmp_path / "given.onnx", Recipe(), tmp_path)
    program = qnn.compile(artifact, V79, tmp_path / "program").program
    assert qnn.simulation is Evidence.SIMULATED
    with pytest.raises(BackendUnavailable, match="needs the device"):
        qnn.open(program, replace(HALF, simulate=False))
    with pytest.raises(StepFailed, match="opens what it has compiled"):
        qnn.open(artifact, HALF)
    capfd.readouterr()
    x = np.array([[1, -2, 3, -4], [0, 0, 1, 1]], np.float32)
    with qnn.open(program, HALF) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x, 0), rtol=1e-3)
    assert capfd.readouterr().out == ""
    binary = program.parent / "program_qnn.bin"
    binary.write_bytes(binary.read_bytes()[:-1])
    with pytest.raises(StepFailed, match=r"bytes; program\.json says"):
        qnn.open(program, HALF)
    binary.unlink()
    with pytest.raises(StepFailed, match="missing or damaged"):
        qnn.open(program, HALF)


@pytest.mark.slow
def test_onnxruntime_itself_is_left_alone(qnn: Any, cnn: Path, tmp_path: Path) -> None:
    """The provider's library serves only sessions that ask for it."""
    plain = load_backend("onnxruntime")
    artifact = plain.convert(cnn, Recipe(), tmp_path)
    row = images(1)[0]
    with plain.open(artifact, OpenOptions()) as session:
        before, placed = session.run(row.inputs)["logits"], session.placement()
    (tmp_path / "qnn").mkdir()
    other = qnn.convert(cnn, Recipe(), tmp_path / "qnn")
    program = qnn.compile(other, V79, tmp_path / "program").program
    with qnn.open(program, HALF) as unit, plain.open(artifact, OpenOptions()) as session:
        unit.run(row.inputs)
        np.testing.assert_array_equal(session.run(row.inputs)["logits"], before)
        assert session.placement() == placed
