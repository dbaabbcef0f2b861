"""Arm Ethos-U: integer files with the model's own interface, what Vela makes of them, and why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgesdk.backend import Backend, Compiled, NodePlacement, OpenOptions, load_backend
from edgesdk.errors import (
    BackendUnavailable,
    ProfileError,
    RecipeError,
    SamplesError,
    StepFailed,
)
from edgesdk.evidence import Evidence
from edgesdk.profile import load_profile
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo
from edgesdk.testing.graphs import Feed
from edgesdk_backends.litert.ethosu import PLACEMENT, PROGRAM
from edgesdk_backends.litert.interface import Port, read_interface
from edgesdk_backends.litert.vela import Target, reasons_in

pytestmark = pytest.mark.usefixtures("one_conversion_each")

TARGET = {
    "accelerator_config": "ethos-u65-256",
    "system_config": "Ethos_U65_High_End",
    "memory_mode": "Dedicated_Sram_384KB",
}
FLOAT = Recipe()
HERE = OpenOptions(simulate=True)


@pytest.fixture(scope="module")
def ethos_u() -> Backend:
    backend = load_backend("ethos-u")
    problem = backend.unavailable()
    if problem:
        pytest.skip(problem)
    return backend


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
def cnn(ethos_u: Backend, small_cnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float form of a small image classifier with its shapes fixed."""
    folder = tmp_path_factory.mktemp("cnn")
    proto = onnx.load(small_cnn)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, folder / "model.onnx")
    return ethos_u.convert(folder / "model.onnx", FLOAT, folder)


def made(backend: Backend, artifact: Path, recipe: str, folder: Path) -> tuple[Path, Compiled]:
    """A quantized form of an image model, compiled."""
    (folder / "quantized").mkdir()
    (folder / "compiled").mkdir()
    file = backend.quantize(artifact, Recipe.parse(recipe), folder / "quantized", Rows(image, 8))
    return file, backend.compile(file, TARGET, folder / "compiled", simulate=True)


@pytest.fixture(scope="module")
def small(
    ethos_u: Backend, cnn: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Compiled]:
    """The image classifier in int8, and what Vela makes of it."""
    return made(ethos_u, cnn, "w8a8-static", tmp_path_factory.mktemp("int8"))


@pytest.fixture
def compiled(small: tuple[Path, Compiled], tmp_path: Path) -> Path:
    """A copy of the compiled folder, to spoil; its program."""
    return shutil.copytree(small[1].program.parent, tmp_path / "copy") / PROGRAM


def computed(session_of: Path, backend: Backend, feed: Feed) -> Any:
    with backend.open(session_of, HERE) as session:
        (value,) = session.run(feed).values()
    return value


# --- compiling


def test_a_quantized_network_runs_wholly_on_the_npu_at_an_estimated_cost(
    small: tuple[Path, Compiled],
) -> None:
    _, found = small
    assert found.program.name == PROGRAM
    assert {item.unit for item in found.placement} == {"npu"}
    assert {item.provider for item in found.placement} == {"ethos-u65-256"}
    assert {item.precision for item in found.placement} == {"int8"}
    origins = {name for item in found.placement for name in item.origin}
    assert {"relu_1", "relu_4", "pool", "flatten"} <= origins
    assert found.cycles is not None
    assert found.estimate_ms == pytest.approx(found.cycles / 1e6)  # at 1 GHz
    assert found.memory_bytes is not None
    assert 1 << 10 < found.memory_bytes < 384 << 10
    told = " ".join(found.notes)
    assert "Ethos_U65_High_End" in told
    assert "KiB of DRAM" in told
    assert "estimate" in told


def test_compiling_twice_gives_the_same_program(
    small: tuple[Path, Compiled], ethos_u: Backend, tmp_path: Path
) -> None:
    file, first = small
    again = ethos_u.compile(file, TARGET, tmp_path)
    assert again.program.read_bytes() == first.program.read_bytes()
    assert (again.placement, again.cycles) == (first.placement, first.cycles)


def test_16_bit_activations_are_closer_and_cost_more(
    small: tuple[Path, Compiled], cnn: Path, ethos_u: Backend, tmp_path: Path
) -> None:
    _, coarse = small
    _, fine = made(ethos_u, cnn, "w8a16-static", tmp_path)
    assert {(item.unit, item.precision) for item in fine.placement} == {("npu", "int16")}
    assert coarse.cycles is not None
    assert fine.cycles is not None
    assert fine.cycles > coarse.cycles
    feed = image(100)
    whole = computed(cnn, ethos_u, feed)
    errors = [
        np.abs(computed(item.program, ethos_u, feed) - whole).max() for item in (coarse, fine)
    ]
    assert errors[1] < errors[0]


def test_a_float_file_stays_on_the_cpu_and_has_no_estimate(
    cnn: Path, ethos_u: Backend, tmp_path: Path
) -> None:
    found = ethos_u.compile(cnn, TARGET, tmp_path)
    assert {item.unit for item in found.placement} == {"cpu"}
    assert all("Float32" in item.why for item in found.placement)
    assert (found.estimate_ms, found.cycles, found.memory_bytes) == (None, None, None)
    assert "No operation runs on the NPU" in " ".join(found.notes)
    np.testing.assert_allclose(
        computed(found.program, ethos_u, image(0)), computed(cnn, ethos_u, image(0)), atol=1e-6
    )


def with_a_sine(folder: Path) -> Path:
    """A convolution, a sine (which no Ethos-U has) and another convolution."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in (("w0", (8, 3, 3, 3)), ("w1", (4, 8, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], name="first"),
        helper.make_node("Sin", ["a"], ["b"], name="wave"),
        helper.make_node("Conv", ["b", "w1"], ["y"], name="second"),
    ]
    shapes: Mapping[str, Sequence[int]] = {"image": [1, 3, 32, 32], "y": [1, 4, 30, 30]}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_an_operation_that_falls_back_is_named_with_velas_reason(
    ethos_u: Backend, tmp_path: Path
) -> None:
    artifact = ethos_u.convert(with_a_sine(tmp_path), FLOAT, tmp_path)
    _, found = made(ethos_u, artifact, "w8a8-static", tmp_path)
    units: dict[str, list[NodePlacement]] = {"npu": [], "cpu": []}
    for item in found.placement:
        units[item.unit].append(item)
    assert [item.op for item in units["npu"] if item.op == "CONV_2D"] == ["CONV_2D"] * 2
    (sine,) = (item for item in units["cpu"] if item.op == "SIN")
    assert sine.origin == ("wave",)
    assert sine.why
    assert all(item.why for item in units["cpu"])
    assert not any(item.why for item in units["npu"])
    assert f"{len(units['cpu'])} operations run on the CPU" in found.notes[-1]
    assert "SIN" in found.notes[-1]


def test_velas_words_are_kept_by_the_tensor_that_an_operation_writes() -> None:
    said = (
        "\nWarning (supported operators) operator: SIN, ofm: 'it's, a/name'\n"
        "Reason: Unsupported opType\n\n"
        "Warning (supported operators) operator: PAD, ofm: 'b'\n"
        'Reason: Wrong DataType (x)\nLegal: {"INT8"}\n\nNetwork summary for model\n'
    )
    assert reasons_in(said) == {
        "it's, a/name": "Unsupported opType",
        "b": 'Wrong DataType (x) Legal: {"INT8"}',
    }


def test_open_shapes_are_refused(small_cnn: Path, ethos_u: Backend, tmp_path: Path) -> None:
    artifact = ethos_u.convert(small_cnn, FLOAT, tmp_path)
    with pytest.raises(StepFailed, match=r"image.* has an open shape"):
        ethos_u.compile(artifact, TARGET, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system_config": ""}, "lacks system_config"),
        ({"clock": "1"}, "has clock"),
        ({"accelerator_config": "ethos-u95-256"}, "invalid choice.*ethos-u65-256"),
        ({"system_config": "Nowhere"}, "System_Config.Nowhere not found"),
        ({"memory_mode": "Nothing"}, "Memory_Mode.Nothing not found"),
        ({"system_config": "Ethos_U55_High_End_Embedded"}, "arena_mem_area"),
        ({"config": "/nowhere/vela.ini"}, "File not found"),
    ],
)
def test_a_target_that_is_none_is_refused_with_what_is_legal(
    change: Mapping[str, str],
    said: str,
    small: tuple[Path, Compiled],
    ethos_u: Backend,
    tmp_path: Path,
) -> None:
    assert ethos_u.compiles(TARGET)
    with pytest.raises(ProfileError, match=said):
        ethos_u.compile(small[0], {**TARGET, **change}, tmp_path)


def test_a_crash_of_the_compiler_is_an_error(
    small: tuple[Path, Compiled], ethos_u: Backend, tmp_path: Path
) -> None:
    """Half a file ends Vela 5.2 with a segmentation fault."""
    folder = shutil.copytree(small[0].parent, tmp_path / "half")
    file = folder / small[0].name
    file.write_bytes(file.read_bytes()[:3000])
    facts = json.loads((folder / "interface.json").read_text())
    (folder / "interface.json").write_text(json.dumps({**facts, "file_bytes": 3000}))
    with pytest.raises(StepFailed, match="vela"):
        ethos_u.compile(file, TARGET, tmp_path)


def test_the_profile_is_what_velas_file_says() -> None:
    """Its clock and bandwidth are of the system that plans are compiled for."""
    profile = load_profile("ethos-u")
    unit = profile.unit("npu")
    assert unit.clock is not None
    assert unit.clock.base == 1e9
    peak = dict(unit.peak)["int8"]
    macs = int(TARGET["accelerator_config"].rpartition("-")[2])
    assert peak.base == 2 * macs * unit.clock.base


# --- computing here


def test_what_needs_the_board_is_refused_here(compiled: Path, ethos_u: Backend) -> None:
    assert ethos_u.simulation == Evidence.ESTIMATED
    with pytest.raises(BackendUnavailable, match="board with an Ethos-U"):
        ethos_u.open(compiled, OpenOptions())


def test_a_program_is_simulated_behind_the_models_own_interface(
    small: tuple[Path, Compiled], cnn: Path, ethos_u: Backend
) -> None:
    file, found = small
    ends = read_interface(file)
    assert {port.dtype for port in (*ends.inputs, *ends.outputs)} == {"int8"}
    feed = image(100)
    with ethos_u.open(cnn, HERE) as whole, ethos_u.open(found.program, HERE) as session:
        assert (session.inputs, session.outputs) == (whole.inputs, whole.outputs)
        assert session.placement() == found.placement
        results: list[Feed] = [dict(one.run(feed)) for one in (whole, session)]
    (want,), (got,) = (result.values() for result in results)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert np.vdot(want, got) / np.linalg.norm(want) / np.linalg.norm(got) > 0.99


@pytest.mark.parametrize("name", [PROGRAM, PLACEMENT, "model.tflite", "interface.json"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_program_without_all_that_belongs_to_it_is_refused(
    name: str, how: str, compiled: Path, ethos_u: Backend
) -> None:
    file = compiled.with_name(name)
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(StepFailed):
        ethos_u.open(compiled, HERE)


@given(
    scale=st.floats(0.0009765625, 10, width=32),
    zero_point=st.integers(-128, 127),
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
)
def test_rounding_there_and_back_errs_by_half_a_step(
    scale: float, zero_point: int, values: list[float]
) -> None:
    array = np.array(values, np.float32)
    info = TensorInfo(name="x", dtype="float32", shape=array.shape)
    port = Port(info=info, tensor="x", dtype="int8", scale=scale, zero_point=zero_point)
    there = port.to_file(array)
    assert there.dtype == np.int8
    low, high = ((limit - zero_point) * scale for limit in (-128, 127))
    back: Any = port.from_file(there)
    np.testing.assert_allclose(back, np.clip(array, low, high), atol=0.501 * scale, rtol=1e-5)


def test_halves_are_rounded_away_from_zero_and_nan_is_refused() -> None:
    info = TensorInfo(name="x", dtype="float32", shape=(6,))
    port = Port(info=info, tensor="x", dtype="int8", scale=2.0, zero_point=1)
    values = np.array([1, -1, 3, -3, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(port.to_file(values), [2, 0, 3, -1, 127, -128])
    with pytest.raises(SamplesError, match="NaN"):
        port.to_file(np.full(6, np.nan, np.float32))


# --- recipes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w8a8-dynamic", "fixed when it is compiled"),
        ("w8-only", "fixed when it is compiled"),
        ("fp32-w16", "fixed when it is compiled"),
        ("w8a8-static-weighted", "leave out -weighted"),
        ("w8a8-static-nncf", "NNCF"),
        ("bf16", "bf16"),
    ],
)
def test_what_no_ethos_u_computes_is_rejected_with_the_reason(
    name: str, said: str, tmp_path: Path
) -> None:
    backend = load_backend("ethos-u")
    recipe = Recipe.parse(name)
    assert said in (backend.rejects(recipe) or "")
    with pytest.raises(RecipeError, match=said):
        backend.quantize(tmp_path / "never read", recipe, tmp_path, None)


@pytest.mark.parametrize("name", ["fp32", "w8a8-static", "w8a16-static", "w8a8-static-smooth"])
def test_what_it_takes_is_not_rejected(name: str) -> None:
    assert load_backend("ethos-u").rejects(Recipe.parse(name)) is None


def test_a_target_is_read_with_arms_own_file_by_default() -> None:
    assert Target.read(TARGET).config == "Arm/vela.ini"
    assert Target.read({**TARGET, "config": "/my/board.ini"}).config == "/my/board.ini"
