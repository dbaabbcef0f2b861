"""The built-in backends keep the contract, and agree with each other on real models."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesdk.backend import Array, Backend, FeedCheck, OpenOptions, Session, load_backend
from edgesdk.errors import InputError, SamplesError, StepFailed
from edgesdk.files import tree_bytes
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo
from edgesdk.testing import BackendConformance, ProfileConformance
from edgesdk.testing.graphs import Feed, build

FLOAT = Recipe.parse("fp32")
DOCS = Path(__file__).resolve().parent.parent / "docs" / "backends.md"
EXAMPLE, EXAMPLE_TEST = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


class TestOnnxRuntime(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return load_backend("onnxruntime")


class TestOpenVino(BackendConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return load_backend("openvino")


class TestNull(BackendConformance):
    engine_modules = frozenset({"onnx"})
    keeps_threads = False
    tells_times = False

    @pytest.fixture
    def backend(self) -> Backend:
        return load_backend("null")


class TestTheExampleInTheDocs(BackendConformance):
    registered = False
    engine_modules = frozenset({"onnxruntime"})
    tells_placement = False
    tells_times = False

    @pytest.fixture
    def backend(self, tmp_path_factory: pytest.TempPathFactory) -> Backend:
        file = tmp_path_factory.mktemp("example") / "plain_example.py"
        file.write_text(EXAMPLE)
        spec = spec_from_file_location(file.stem, file)
        assert spec
        assert spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        # Where `inspect` looks for the file of a class.
        sys.modules[file.stem] = module
        backend: Backend = module.PlainBackend()
        return backend

    def test_its_flags_are_those_of_the_docs(self) -> None:
        assert 'engine_modules = frozenset({"onnxruntime"})' in EXAMPLE_TEST
        assert "tells_placement = False" in EXAMPLE_TEST
        assert "tells_times = False" in EXAMPLE_TEST


class TestBuiltinProfiles(ProfileConformance):
    @pytest.fixture
    def names(self) -> tuple[str, ...]:
        return tuple(file.stem for file in _profile_folder().glob("*.toml"))


def _profile_folder() -> Path:
    import edgesdk_profiles

    return Path(edgesdk_profiles.__path__[0])


# --- real models


def _image(*shape: int) -> Feed:
    """Smooth values in the range of a normalised picture."""
    rng = np.random.default_rng(0)
    return {"x": np.cumsum(rng.normal(0, 0.1, shape), axis=-1).clip(-1, 1).astype(np.float32)}


REAL = {
    "rec_model": ([(1, 3, 48, 320), (2, 3, 48, 160)], 1e-4),
    "det_model": ([(1, 3, 96, 160), (1, 3, 160, 96)], 1e-3),
    "cls_model": ([(1, 3, 48, 192), (5, 3, 48, 192)], 1e-4),
}


def _open(
    backend: str,
    model: Path,
    folder: Path,
    options: OpenOptions | None = None,
    recipe: Recipe = FLOAT,
) -> Session:
    engine = load_backend(backend)
    out = folder / f"{backend}-{recipe.name}"
    out.mkdir(parents=True, exist_ok=True)
    return engine.open(engine.convert(model, recipe, out), options or OpenOptions())


@pytest.mark.parametrize("name", sorted(REAL))
@pytest.mark.parametrize("fixed", [False, True], ids=["dynamic", "fixed"])
def test_the_engines_agree_on_real_models(
    name: str, fixed: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(name)
    shapes, tolerance = REAL[name]
    if fixed:
        shapes = shapes[:1]
        model = _with_shape(model, shapes[0], tmp_path / "fixed.onnx")
    with (
        _open("onnxruntime", model, tmp_path, OpenOptions(threads=2)) as one,
        _open("openvino", model, tmp_path, OpenOptions(threads=2)) as two,
    ):
        assert [i.name for i in one.inputs] == [i.name for i in two.inputs]
        assert all(session.inputs[0].is_static == fixed for session in (one, two))
        for shape in shapes:
            feed = _image(*shape)
            results: Feed = dict(one.run(feed))
            others: Feed = dict(two.run(feed))
            assert list(results) == list(others)
            for output, value in results.items():
                np.testing.assert_allclose(others[output], value, atol=tolerance, rtol=0)


def _with_shape(model: Path, shape: tuple[int, ...], target: Path) -> Path:
    proto = onnx.load(model)
    for dim, length in zip(proto.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = length
    onnx.save(proto, target)
    return target


def _speech(batch: int, steps: int) -> list[Array]:
    """Chunks of 64 + 512 samples at 16 kHz: a tone that swells, in noise."""
    rng = np.random.default_rng(1)
    length = 576 * steps
    tone = np.sin(2 * np.pi * 200 * np.arange(length) / 16000) * np.linspace(0, 0.5, length)
    audio = tone + rng.normal(0, 0.01, (batch, length))
    return list(np.split(audio.astype(np.float32), steps, axis=1))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_recurrent_model_carries_its_state_like_the_standard(
    vad_model: Path, tmp_path: Path, batch: int
) -> None:
    sessions = [_open(name, vad_model, tmp_path) for name in ("onnxruntime", "null")]
    states: list[Any] = [np.zeros((2, batch, 128), np.float32)] * 2
    rate = np.array(16000)
    for chunk in _speech(batch, steps=3):
        results: list[Feed] = [
            session.run({"input": chunk, "state": state, "sr": rate})
            for session, state in zip(sessions, states, strict=True)
        ]
        for name in ("output", "stateN"):
            np.testing.assert_allclose(results[0][name], results[1][name], atol=1e-4)
        states = [result["stateN"] for result in results]
    assert not np.array_equal(states[0], np.zeros_like(states[0]))


def test_openvino_says_which_operations_it_could_not_convert(
    vad_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(StepFailed, match=r"Conversion is failed for: .*Conv"):
        _open("openvino", vad_model, tmp_path)


def test_times_inside_branches_are_counted_once(vad_model: Path, tmp_path: Path) -> None:
    chunk = _speech(1, steps=1)[0]
    feed = {"input": chunk, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)}
    with _open("onnxruntime", vad_model, tmp_path, OpenOptions(profiling=True)) as session:
        start = time.perf_counter()
        for _ in range(10):
            session.run(feed)
        wall_ms = 1e3 * (time.perf_counter() - start) / 10
        times = session.node_times()
    assert {"If", "LSTM"} <= {item.op for item in times}
    assert 0 < sum(item.ms for item in times) <= wall_ms


def test_a_trace_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    case = build("convolution")
    for read in (True, False):
        with _open(
            "onnxruntime", case.write(tmp_path), tmp_path, OpenOptions(profiling=True)
        ) as session:
            session.run(case.feeds[0])
            if read:
                assert session.node_times()
    assert not list(temporary.iterdir())


# --- what the adapters state, because the engines would do otherwise


def test_weight_only_recipes_keep_float_activations_in_openvino(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, columns, block = 64, 32, 32
    weight = rng.integers(-7, 8, (rows, columns)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (rows // block, columns)).astype(np.float32)
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["dq"], axis=0, block_size=block)
    model = _model(
        [node, helper.make_node("MatMul", ["x", "dq"], ["y"], name="matmul")],
        [("x", TensorProto.FLOAT, ["n", rows])],
        [("y", TensorProto.FLOAT, ["n", columns])],
        [
            helper.make_tensor("w", TensorProto.INT4, weight.shape, weight.ravel()),
            numpy_helper.from_array(scale, "s"),
        ],
        opset=21,
        target=tmp_path / "w4.onnx",
    )
    x = rng.normal(size=(8, rows)).astype(np.float32)
    exact = x.astype(np.float64) @ (weight * np.repeat(scale.astype(np.float64), block, axis=0))
    with _open("openvino", model, tmp_path, recipe=Recipe.parse("w4b32-only")) as session:
        results: Feed = dict(session.run({"x": x}))
    assert np.abs(results["y"] - exact).max() < 1e-5 * np.abs(exact).max()


def test_openvino_drops_16_bit_quantization_and_what_it_clips(tmp_path: Path) -> None:
    """When this fails, OpenVINO has learnt it: drop the reason from `rejects`."""
    # onnxruntime's quantizer leaves a Relu out where quantizing to an unsigned type clips as well.
    scale, zero = np.float32(1e-3), np.uint16(0)
    model = _model(
        [
            helper.make_node("Add", ["x", "x"], ["sum"]),
            helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
            helper.make_node("Mul", ["dq", "dq"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, [4])],
        [("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (("scale", scale), ("zero", zero))],
        opset=21,
        target=tmp_path / "a16.onnx",
    )
    feed: Feed = {"x": np.array([-2, -0.5, 0.25, 1], np.float32)}
    for name, wanted in {
        "null": [0, 0, 0.25, 4],
        "onnxruntime": [0, 0, 0.25, 4],
        "openvino": [16, 1, 0.25, 4],
    }.items():
        with _open(name, model, tmp_path) as session:
            results: Feed = dict(session.run(feed))
        np.testing.assert_allclose(results["y"], wanted, atol=1e-6)
    assert load_backend("openvino").rejects(Recipe.parse("w8a16-static"))


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[str | int]]],
    outputs: list[tuple[str, int, list[str | int]]],
    tensors: list[onnx.TensorProto],
    *,
    opset: int,
    target: Path,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    onnx.save(model, target)
    return target


def test_openvino_rejects_dynamic_int8_with_a_reason() -> None:
    assert "slower" in (load_backend("openvino").rejects(Recipe.parse("w8a8-dynamic")) or "")
    assert load_backend("onnxruntime").rejects(Recipe.parse("w8a8-dynamic")) is None


def test_16_bit_weights_halve_an_openvino_artifact(rec_model: Path, tmp_path: Path) -> None:
    sizes = {}
    for name in ("fp32", "fp32-w16"):
        with _open("openvino", rec_model, tmp_path, recipe=Recipe.parse(name)) as session:
            assert session.inputs
        sizes[name] = tree_bytes(tmp_path / f"openvino-{name}")
    assert sizes["fp32-w16"] < 0.6 * sizes["fp32"]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_session_costs_at_most_20_microseconds_over_the_engine(name: str, tmp_path: Path) -> None:
    case = build("convolution")
    feed = case.feeds[0]
    with _open(name, case.write(tmp_path), tmp_path) as session:
        raw = _raw_call(name, session, feed)
        rounds = [_overhead_us(lambda: session.run(feed), raw) for _ in range(5)]
    assert min(rounds) <= 20, f"microseconds in five rounds: {rounds}"


def _raw_call(name: str, session: Any, feed: Feed) -> Callable[[], object]:
    """The engine's own documented call on the very object that the session uses."""
    if name == "onnxruntime":
        return lambda: session._engine.run(None, feed)
    return lambda: session._request.infer(feed, share_inputs=True)


def _overhead_us(ours: Callable[[], object], raw: Callable[[], object]) -> float:
    differences = []
    for _ in range(200):
        start = time.perf_counter()
        raw()
        middle = time.perf_counter()
        ours()
        differences.append(time.perf_counter() - middle - (middle - start))
    return 1e6 * median(differences)


# --- feeds


INPUTS = (
    TensorInfo(name="image", dtype="float32", shape=("n", 3, None)),
    TensorInfo(name="rate", dtype="int64", shape=()),
)
GOOD: Feed = {"image": np.zeros((1, 3, 5), np.float32), "rate": np.array(16000)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": np.zeros((1, 3, 5))}, "dtype float64, expected float32"),
        ({"image": np.zeros((1, 4, 5), np.float32)}, r"shape \[1, 4, 5\], expected image"),
        ({"image": np.zeros((3, 5), np.float32)}, r"shape \[3, 5\], expected image"),
        ({"rate": np.array([16000])}, r"shape \[1\], expected rate: int64\[\]"),
        ({"rate": 16000}, "'rate' is a int, expected a numpy array"),
        ({"rate": np.array(16000, ">i8")}, "foreign byte order"),
        ({"Image": np.zeros(1)}, "no input named Image; the model takes image: float32"),
    ],
)
def test_a_wrong_feed_is_named_with_what_is_expected(change: Mapping[str, Any], said: str) -> None:
    check = FeedCheck(INPUTS)
    check(GOOD)
    with pytest.raises(SamplesError, match=said):
        check({**GOOD, **change})


def test_a_missing_input_is_named() -> None:
    with pytest.raises(SamplesError, match="'rate' is missing"):
        FeedCheck(INPUTS)({"image": GOOD["image"]})


def test_a_type_that_numpy_lacks_is_refused_at_once() -> None:
    with pytest.raises(SamplesError, match="numpy has no such type"):
        FeedCheck([TensorInfo(name="x", dtype="float3", shape=())])


# --- the suite itself finds what is wrong


class _Wrong(Session):
    """A real session in which one thing is spoiled."""

    def __init__(self, session: Session, fault: str) -> None:
        self._session, self._fault = session, fault
        self._last: dict[str, Array] = {}
        reverse = -1 if fault == "order" else 1
        self.inputs = session.inputs[::reverse]
        self.outputs = session.outputs[::reverse]

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        if self._fault == "casts":
            feed = {info.name: np.asarray(feed[info.name], info.dtype) for info in self.inputs}
        results = self._session.run(feed)
        if self._fault == "aliases":
            for name, array in results.items():
                if name in self._last and self._last[name].shape == array.shape:
                    self._last[name][...] = array
                    results[name] = self._last[name]
            self._last = dict(results)
        if self._fault == "rounds":
            for name, array in results.items():
                if array.dtype == np.float32:
                    results[name] = array.astype(np.float16).astype(np.float32)
        if self._fault == "writes":
            next(iter(feed.values()))[...] = 0
        return results

    def close(self) -> None:
        self._session.close()


class _WrongBackend(Backend):
    name = "wrong"
    install = "never"

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._real = load_backend("onnxruntime")

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        if self._fault == "litters":
            (model.parent / "model.tmp").touch()
        artifact = self._real.convert(model, recipe, out)
        return model if self._fault == "stays" else artifact

    def open(self, artifact: Path, options: OpenOptions) -> Session:
        if self._fault == "threads":
            options = replace(options, threads=2)
        return _Wrong(self._real.open(artifact, options), self._fault)


@pytest.mark.parametrize(
    ("fault", "test", "case"),
    [
        ("order", "test_the_interface_is_that_of_the_model", "attention"),
        ("casts", "test_a_wrong_feed_is_refused_and_the_next_one_runs", "dtype"),
        ("aliases", "test_results_belong_to_the_caller_and_inputs_stay_theirs", "scalars"),
        ("writes", "test_results_belong_to_the_caller_and_inputs_stay_theirs", "convolution"),
        ("rounds", "test_results_are_those_of_the_standard", "attention"),
        ("rounds", "test_each_execution_computes_in_its_type", None),
        ("threads", "test_one_thread_does_the_work_of_one_thread", None),
        ("litters", "test_conversion_writes_into_its_folder_and_nowhere_else", "branch"),
        ("stays", "test_conversion_writes_into_its_folder_and_nowhere_else", "branch"),
        ("stays", "test_an_artifact_works_where_it_is_moved_to", None),
        ("placement", "test_placement_names_the_nodes_and_their_units", None),
        ("times", "test_node_times_are_placed_and_add_up", None),
    ],
)
def test_the_suite_fails_a_backend_that(
    fault: str, test: str, case: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"engine": _WrongBackend(fault), "tmp_path": tmp_path}
    if case == "dtype":
        arguments["wrong"] = case
    elif case is not None:
        arguments["case"] = build(case)
    if fault in ("litters", "stays") and case:
        arguments["monkeypatch"] = monkeypatch
    with pytest.raises((AssertionError, ValueError, InputError, pytest.fail.Exception)):
        getattr(BackendConformance(), test)(**arguments)
