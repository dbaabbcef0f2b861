import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesdk.errors import ProfileError
from edgesdk.evidence import Evidence
from edgesdk.machine import X86_FEATURES, Machine
from edgesdk.profile import (
    Profile,
    load_profile,
    profile_from_json,
    profile_names,
    profile_sources,
)
from edgesdk.profile_reader import merge
from edgesdk.profile_values import GRANULARITIES, PEAKS, PRECISIONS
from edgesdk.recipe import Recipe

SHIPPED = (
    "arm-cpu",
    "ethos-u",
    "jetson",
    "jetson-agx-orin",
    "jetson-orin",
    "mobile-npu",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "x86",
    "x86-amx",
    "x86-avx2",
    "x86-haswell",
    "x86-bf16",
    "x86-vnni",
)
FIXED = tuple(name for name in SHIPPED if name != "x86")
AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"})
PI_5 = frozenset({"neon", "neon_dotprod", "fp16"})


def machine(
    arch: str = "x86_64", features: frozenset[str] = AVX2, board: str = "", os: str = "linux"
) -> Machine:
    return Machine(
        arch=arch,
        os=os,
        kernel="6.1",
        cpu="some CPU",
        board=board,
        features=features,
        physical_cores=2,
        logical_cores=4,
        memory_bytes=1 << 33,
    )


def source(name: str) -> str:
    return (files("edgesdk_profiles") / f"{name}.toml").read_text(encoding="utf-8")


def write(folder: Path, text: str, name: str = "board.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def figures(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table with a value and a unit inside plain data, with its path."""
    if isinstance(value, dict):
        if "value" in value:
            yield path, value
        for key, inner in value.items():
            yield from figures(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from figures(inner, f"{path}.{index}")


# --- what is shipped


def test_the_shipped_profiles_are_found() -> None:
    assert set(SHIPPED) <= set(profile_names())
    assert profile_sources()["jetson"] == "edgesdk_profiles/jetson.toml"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_loads_under_its_file_name(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.backends
    assert all(profile.runtime(backend).units for backend in profile.backends)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_has_a_source_and_a_date(name: str) -> None:
    for path, figure in figures(load_profile(name).to_json()):
        assert figure["source"], path
        assert re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", figure["date"]), path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_survives_the_way_through_json(name: str) -> None:
    profile = load_profile(name)
    assert profile_from_json(json.loads(json.dumps(profile.to_json()))) == profile


@pytest.mark.parametrize("name", ["x86-avx2", "arm-cpu"])
def test_onnxruntime_reads_up_to_the_stated_versions_and_no_further(name: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    runtime = load_profile(name).runtime("onnxruntime")
    if not ort.__version__.startswith("1.31."):
        pytest.skip(f"the figures are of onnxruntime 1.31, installed is {ort.__version__}")
    assert runtime.refuses_version(ort.__version__) is None
    assert runtime.max_opset is not None
    assert runtime.max_ir is not None
    opset, ir = int(runtime.max_opset.value), int(runtime.max_ir.value)

    def load(opset: int, ir: int) -> None:
        tensor = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "graph",
            [tensor("x", onnx.TensorProto.FLOAT, [1])],
            [tensor("y", onnx.TensorProto.FLOAT, [1])],
        )
        imports = [onnx.helper.make_opsetid("", opset)]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir)
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    load(opset, ir)
    with pytest.raises(Exception, match="opset"):
        load(opset + 1, ir)
    with pytest.raises(Exception, match="IR version"):
        load(opset, ir + 1)


# --- extends and merging


def test_a_child_keeps_what_it_does_not_say() -> None:
    child, base = load_profile("raspberry-pi-5"), load_profile("arm-cpu")
    assert child.runtimes == base.runtimes
    assert child.arch == base.arch
    assert [sensor.name for sensor in child.sensors] == ["temperature", "throttling"]
    assert child.unit("cpu").features == ("neon", "neon_dotprod", "fp16")


def test_a_new_cell_does_not_keep_the_old_reason() -> None:
    assert load_profile("arm-cpu").support("onnxruntime", "cpu", "fp16", "tensor")[0] == "emulated"
    support, cited = load_profile("raspberry-pi-5").support("onnxruntime", "cpu", "fp16", "tensor")
    assert support == "fast"
    assert "converted" not in cited


def test_figures_of_a_sibling_are_not_inherited() -> None:
    nano, agx = load_profile("jetson"), load_profile("jetson-agx-orin")
    assert nano.memory.bandwidth is not None
    assert agx.memory.bandwidth is None
    assert agx.unit("gpu").clock is None


def test_a_file_extends_an_installed_profile_and_a_file_beside_it(tmp_path: Path) -> None:
    mine = 'schema = 1\nextends = "raspberry-pi-5"\nname = "mine"\ntitle = "Mine"\n'
    figure = '{ value = 8, unit = "GiB", source = "the label on the box", date = 2026-01-31 }'
    write(tmp_path, f"{mine}[memory]\ntotal = {figure}\n", "mine.toml")
    path = write(tmp_path, 'schema = 1\nextends = "mine.toml"\nname = "yours"\n', "yours.toml")
    profile = load_profile(path)
    assert (profile.name, profile.title) == ("yours", "Mine")
    assert profile.memory.total is not None
    assert profile.memory.total.base == 8 * 2**30
    assert profile.memory.bandwidth == load_profile("raspberry-pi-5").memory.bandwidth


def test_a_circle_is_named(tmp_path: Path) -> None:
    write(tmp_path, 'schema = 1\nextends = "b.toml"\n', "a.toml")
    write(tmp_path, 'schema = 1\nextends = "a.toml"\n', "b.toml")
    with pytest.raises(ProfileError, match=r"circle: a\.toml -> b\.toml -> a\.toml"):
        load_profile(str(tmp_path / "a.toml"))


_SCALARS = st.integers() | st.text(max_size=3) | st.booleans()
_FIGURES = st.fixed_dictionaries({"value": st.integers(1, 9)}, optional={"source": st.just("s")})
_PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "title": _SCALARS,
        "backends": st.lists(_SCALARS, max_size=2),
        "clock": _FIGURES,
        "memory": st.dictionaries(st.sampled_from("ab"), _SCALARS, max_size=2),
    },
)
_NAMED = st.lists(
    st.tuples(st.sampled_from("xyz"), _PLAIN), max_size=3, unique_by=lambda pair: pair[0]
).map(lambda pairs: [{"name": name, **table} for name, table in pairs])
_DOCUMENTS = st.tuples(_PLAIN, _NAMED, st.booleans()).map(
    lambda parts: {**parts[0], "units": parts[1]} if parts[2] else parts[0]
)


@given(_DOCUMENTS, _DOCUMENTS, _DOCUMENTS)
def test_merging_is_associative(a: Any, b: Any, c: Any) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(_DOCUMENTS)
def test_merging_with_nothing_changes_nothing(a: Any) -> None:
    assert merge({}, a) == merge(a, {}) == a


# --- what is wrong is named

_LEGAL = {
    *("schema", "extends", "detect", "name", "title", "vendor", "arch", "os", "source", "date"),
    *("backends", "boards", "notes", "units", "memory", "runtimes", "sensors", "limits"),
    *("taken_from", "kind", "features", "cores", "threads", "clock", "peak", "capabilities"),
    *("versions", "max_opset", "max_ir", "u8s8_saturates", "symmetric_only", "read", "at", "unit"),
    *("value", "note", "total", "bandwidth", "model_memory", "static_shapes", "support", "why"),
    *("*", *PRECISIONS, *GRANULARITIES, *PEAKS),
    *(schema.name for schema in onnx.defs.get_all_schemas()),
}
_KEY = re.compile(r"^\s*([\w-]+)(?= =)|(?<=[{,] )([\w-]+)(?= =)|(?<=[\[.\"])([\w*-]+)(?=[\].\"])")


def _keys(text: str) -> list[tuple[int, int]]:
    """Where the keys of a TOML text are: of lines, of inline tables and of headers."""
    found, start = [], 0
    for line in text.splitlines(keepends=True):
        header, comment = line.startswith("["), line.startswith("#")
        for match in () if comment else _KEY.finditer(line):
            group = match.lastindex or 0
            if (group == 3) == header:
                found.append((start + match.start(group), start + match.end(group)))
        start += len(line)
    return found


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_corrupted_key_is_named_or_means_the_same(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SHIPPED))
    text = source(name)
    start, end = data.draw(st.sampled_from(_keys(text)))
    place = data.draw(st.integers(start, end - 1))
    letter = data.draw(st.sampled_from('abcdefghijklmnopqrstuvwxyzABC0123456789_-. "='))
    corrupted = text[:place] + letter + text[place + 1 :]
    key = corrupted[start:end]
    assume(corrupted != text)
    assume(key not in _LEGAL)
    line = corrupted[: corrupted.find("\n", place)].splitlines()[-1].strip()
    assume(
        not line.startswith("target = ")
    )  # its keys are a compiler's words; its adapter checks them
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), corrupted)
        try:
            loaded = load_profile(path)
        except ProfileError as exc:
            message = str(exc)
            # A dot makes two keys of one; what TOML cannot read at all is shown as its line.
            assert key in message or key.split(".")[0].strip('" ') in message or line in message
        else:
            assert loaded == load_profile(name)


def test_a_misspelt_key_is_named_with_its_path_and_the_nearest() -> None:
    for old, new, named in (
        ("[[runtimes]]", "[[runtime]]", "unknown key 'runtime'"),
        ("bf16 = {", "bf61 = {", r"'units\.cpu\.capabilities\.\*\.bf61' \(did you mean 'bf16'"),
        ("u8s8_saturates", "u8s8_saturate", r"u8s8_saturate' \(did you mean 'u8s8_saturates'"),
        ("max_opset = { value", "max_opset = { valu", r"runtimes\.onnxruntime\.max_opset\.valu'"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), source("x86-avx2").replace(old, new, 1))
            with pytest.raises(ProfileError, match=f"board.toml: .*{named}"):
                load_profile(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('arch = "x86_64"', 'arch = "x86"', r"arch: 'x86' \(did you mean 'x86_64'\?\); legal: "),
        ('os = "any"', "os = 1", "os = 1; legal: text"),
        ("date = 2026-11-21\nback", 'date = "2026-13"\nback', "date = '2026-13'; legal: YYYY"),
        ('"fma", ', '"fmla", ', r"units\.cpu\.features: 'fmla' .*legal: avx2, fma"),
        ('fp32 = "fast"', 'fp32 = "quick"', r"capabilities\.\*\.fp32.*'quick'; legal: fast, emu"),
        ('fp32 = "fast"', "fp32 = 3", r"capabilities\.\*\.fp32 = 3; legal: fast, emulated"),
        ('w8a8 = "fast"\n', "", r"missing key units\.cpu\.capabilities\.\*: w8a8"),
        ('w8a8 = "fast"', 'w8a8 = { tensor = "fast" }', r"missing key .*\.\*\.w8a8\.channel"),
        ("capabilities.Conv", "capabilities.Convv", r"'Convv' \(did you mean 'Conv'\?\)"),
        ('versions = ">=1.31"', 'versions = "1.31 up"', r"onnxruntime\.versions = '1\.31 up'"),
        (
            'units = ["cpu"]',
            'units = ["gpu"]',
            r"runtimes\.onnxruntime\.units: 'gpu' .*; legal: cpu",
        ),
        ('["onnxruntime", ', '["onnxrt", ', r"backends: 'onnxrt' \(did you mean 'onnxruntime'"),
        ("value = 26", "value = -26", r"max_opset\.value = -26; legal: a number above 0"),
        ("value = 26", "value = nan", r"max_opset\.value = nan; legal: a number above 0"),
        ('unit = "opset"', 'unit = "GiB"', r"max_opset\.unit: 'GiB'; legal: opset"),
        ("u8s8_saturates = true", "u8s8_saturates = 1", r"saturates = 1; legal: true, false"),
        ("schema = 1", "schema = 2", "schema = 2; legal: 1"),
        ("schema = 1", "schema = true", "schema = True; legal: 1"),
        ('name = "openvino"', 'name = "onnxruntime"', r"runtimes\.onnxruntime is there twice"),
        ('name = "x86-avx2"', "", "missing key 'name'"),
        ("schema = 1", "schema 1", r"is not TOML: .*: schema 1"),
    ],
)
def test_a_wrong_value_is_named_with_the_legal_ones(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = source("x86-avx2")
    assert old in text
    with pytest.raises(ProfileError, match=message):
        load_profile(write(tmp_path, text.replace(old, new, 1)))


@pytest.mark.parametrize("name", [name for name in FIXED if "value =" in source(name)])
def test_a_figure_without_a_source_is_refused(tmp_path: Path, name: str) -> None:
    text = source(name)
    for match in re.finditer(r'source = "[^"]*", date', text):
        path = write(tmp_path, text[: match.start()] + "date" + text[match.end() :])
        with pytest.raises(ProfileError, match=r"missing key '.*\.source'"):
            load_profile(path)


def test_a_bare_number_is_no_figure(tmp_path: Path) -> None:
    text = 'schema = 1\nextends = "arm-cpu"\n[memory]\ntotal = 8\n'
    with pytest.raises(ProfileError, match=r"memory\.total = 8; legal: \{ value"):
        load_profile(write(tmp_path, text))


def test_an_unknown_profile_is_named_with_the_installed_ones() -> None:
    with pytest.raises(ProfileError, match=r"'jetsom' \(did you mean 'jetson'\?\); installed: arm"):
        load_profile("jetsom")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"none\.toml: cannot be read: No such file"):
        load_profile(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"binary\.toml: is not UTF-8"):
        load_profile(str(tmp_path / "binary.toml"))


@given(st.text(max_size=60))
def test_any_text_is_a_profile_or_a_profile_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.toml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(ProfileError):
            load_profile(str(path))


# --- packages of others


def test_another_package_registers_profiles_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, dist = tmp_path / "acme_boards", tmp_path / "acme_boards-1.0.dist-info"
    package.mkdir()
    dist.mkdir()
    write(package, "", "__init__.py")
    write(package, source("arm-cpu").replace('"arm-cpu"', '"acme"', 1), "acme.toml")
    write(dist, "Metadata-Version: 2.1\nName: acme-boards\nVersion: 1.0\n", "METADATA")
    write(dist, "[edgesdk.profiles]\nacme = acme_boards\n", "entry_points.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert profile_sources()["acme"] == "acme_boards/acme.toml"
    assert load_profile("acme").name == "acme"
    write(package, source("jetson"), "jetson.toml")
    with pytest.raises(ProfileError, match=r"two profiles are named 'jetson': acme_boards/jetson"):
        profile_names()


# --- judgements


def rejects(profile: Profile, recipe: str, backend: str) -> str | None:
    return profile.rejects(Recipe.parse(recipe), backend)


@pytest.mark.parametrize("name", FIXED)
def test_a_reason_cites_a_key_of_the_profile(name: str) -> None:
    profile = load_profile(name)
    text = source(name)
    for recipe in (
        "bf16",
        "fp16",
        "w8a16-static",
        "w8a8-dynamic",
        "w8a8-static-reduce",
        "w4b32-only",
    ):
        for backend in profile.backends:
            reason = rejects(profile, recipe, backend)
            if reason:
                assert reason.startswith(f"profile {name}: ")
                assert re.search(r"(units|runtimes)\.[\w-]+\.\w+", reason), reason
    assert tomllib.loads(text)["name"] == name


def test_bfloat16_needs_the_instructions_and_the_engine() -> None:
    old, new = load_profile("x86-avx2"), load_profile("x86-amx")
    for recipe in ("bf16", "w8a8-static-nncf-reduce-bf16"):
        reason = rejects(old, recipe, "openvino")
        assert reason is not None
        assert "units.cpu.capabilities.*.bf16" in reason
    assert rejects(new, "bf16", "openvino") is None
    assert "runtimes.onnxruntime" in str(rejects(new, "bf16", "onnxruntime"))


def test_an_emulated_precision_is_rejected_unless_it_saves_memory() -> None:
    profile = load_profile("x86-amx")
    assert "w8a16.channel = 'emulated'" in str(rejects(profile, "w8a16-static", "onnxruntime"))
    jetson = load_profile("jetson")
    assert jetson.support("tensorrt", "gpu", "w8-only", "channel")[0] == "emulated"
    assert rejects(jetson, "w8-only", "tensorrt") is None


def test_granularity_decides() -> None:
    phone = load_profile("mobile-npu")
    assert rejects(phone, "w8a8-static", "qnn") is None
    assert phone.support("qnn", "npu", "w8a8", "block")[0] == "unsupported"


def test_saturating_products_need_seven_bits_and_others_refuse_them() -> None:
    avx2, vnni = load_profile("x86-avx2"), load_profile("x86-vnni")
    for backend in ("onnxruntime", "openvino"):
        assert "use the option '-reduce'" in str(rejects(avx2, "w8a8-static", backend))
        assert rejects(avx2, "w8a8-static-reduce", backend) is None
        assert rejects(vnni, "w8a8-static", backend) is None
        assert "'-reduce' only costs" in str(rejects(vnni, "w8a8-static-reduce", backend))


def test_an_engine_with_zero_points_of_zero_needs_symmetric_activations() -> None:
    jetson = load_profile("jetson")
    assert "-symmetric" in str(rejects(jetson, "w8a8-static", "tensorrt"))
    assert rejects(jetson, "w8a8-static-symmetric", "tensorrt") is None


def test_a_runtime_too_old_for_a_quantization_is_cited(tmp_path: Path) -> None:
    old = source("mobile-npu").replace("value = 26", "value = 20")
    reason = rejects(load_profile(write(tmp_path, old)), "w8a16-static", "qnn")
    assert "runtimes.qnn.max_opset = 20" in str(reason)
    assert rejects(load_profile("mobile-npu"), "w8a16-static", "qnn") is None


def test_one_capable_unit_is_enough() -> None:
    agx = load_profile("jetson-agx-orin")
    assert agx.support("tensorrt", "dla", "bf16", "tensor")[0] == "unsupported"
    assert rejects(agx, "bf16", "tensorrt") is None
    reason = str(rejects(agx, "w8a16-static-symmetric", "tensorrt"))
    assert "units.gpu" in reason
    assert "units.dla" in reason


def test_an_operation_has_a_row_of_its_own() -> None:
    profile = load_profile("x86-avx2")
    assert profile.support("onnxruntime", "cpu", "w8-only", "channel")[0] == "fast"
    assert profile.support("onnxruntime", "cpu", "w8-only", "channel", "Conv")[0] == "emulated"


def test_a_backend_the_device_does_not_run_is_named_with_those_it_does() -> None:
    assert "it has: tensorrt, onnxruntime" in str(rejects(load_profile("jetson"), "fp32", "litert"))
    with pytest.raises(ProfileError, match="no runtime for backend 'litert'"):
        load_profile("jetson").runtime("litert")
    with pytest.raises(ProfileError, match="no unit 'npu'; it has: gpu, cpu"):
        load_profile("jetson").unit("npu")


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.3", True), ("10.3.0.30", True), ("10.2.9", False), ("11", False), ("11.0", False)],
)
def test_versions_are_compared_as_numbers(version: str, fits: bool) -> None:
    reason = load_profile("jetson").runtime("tensorrt").refuses_version(version)
    assert (reason is None) is fits
    assert fits or "runtimes.tensorrt.versions = '>=10.3,<11'" in str(reason)


# --- machines


def test_another_architecture_cannot_stand_in() -> None:
    profile = load_profile("raspberry-pi-5")
    assert profile.mismatch(machine()) == "arch = 'aarch64', this machine is 'x86_64'"
    assert profile.resembles(machine()) is Evidence.UNKNOWN


def test_a_missing_instruction_set_is_named() -> None:
    reason = load_profile("x86-vnni").mismatch(machine())
    assert reason == "units.cpu.features: this machine has no avx_vnni|avx512_vnni"


def test_figures_are_measured_only_with_exactly_the_same_features() -> None:
    profile = load_profile("x86-vnni")
    assert profile.resembles(machine(features=AVX2 | {"avx_vnni"})) is Evidence.MEASURED
    more = machine(features=AVX2 | {"avx_vnni", "amx_int8"})
    assert profile.mismatch(more) is None
    assert profile.resembles(more) is Evidence.ESTIMATED


def test_a_board_is_measured_only_on_that_board() -> None:
    profile = load_profile("raspberry-pi-5")
    pi = machine("aarch64", PI_5, "Raspberry Pi 5 Model B Rev 1.0")
    server = machine("aarch64", PI_5)
    assert profile.resembles(pi) is Evidence.MEASURED
    assert profile.resembles(server) is Evidence.ESTIMATED
    assert load_profile("raspberry-pi-4").resembles(pi) is Evidence.ESTIMATED


def test_an_accelerator_that_is_not_there_cannot_be_stood_in_for() -> None:
    profile = load_profile("jetson")
    assert "units.gpu: no gpu of this device here" in str(
        profile.mismatch(machine("aarch64", PI_5))
    )
    board = machine("aarch64", PI_5, "NVIDIA Jetson Orin Nano Developer Kit")
    assert profile.mismatch(board) is None
    assert profile.resembles(board) is Evidence.MEASURED


@pytest.mark.parametrize(
    ("features", "taken"),
    [
        (AVX2, "x86-avx2"),
        (AVX2 | {"avx512f"}, "x86-avx2"),
        (AVX2 | {"avx_vnni"}, "x86-vnni"),
        (AVX2 | AVX512, "x86-vnni"),
        (AVX2 | AVX512 | {"avx512_bf16"}, "x86-bf16"),
        (frozenset(X86_FEATURES), "x86-amx"),
        (frozenset({"f16c"}), "x86-avx2"),
        (frozenset(), "x86-avx2"),
    ],
)
def test_x86_is_this_machine_and_says_what_it_was_taken_from(
    features: frozenset[str], taken: str
) -> None:
    here = machine(features=features)
    profile = load_profile("x86", here)
    assert (profile.name, profile.taken_from) == ("x86", taken)
    assert profile.features == features
    assert profile.runtimes == load_profile(taken).runtimes
    assert profile.mismatch(here) is None
    assert profile.resembles(here) is Evidence.MEASURED
    cpu = profile.unit("cpu")
    assert cpu.cores is not None
    assert cpu.threads is not None
    assert profile.memory.total is not None
    assert (cpu.cores.value, cpu.threads.value, profile.memory.total.base) == (2, 4, 1 << 33)
    assert "read from this machine" in cpu.cores.source


def test_x86_on_an_arm_machine_says_so_when_asked() -> None:
    here = machine("aarch64", PI_5)
    assert load_profile("x86", here).mismatch(here) == "arch = 'x86_64', this machine is 'aarch64'"


def test_another_machine_than_the_detected_one_is_told_apart() -> None:
    profile = load_profile("x86", machine(features=AVX2 | {"avx_vnni"}))
    assert profile.mismatch(machine()) is not None
