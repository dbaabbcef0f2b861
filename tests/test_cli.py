"""The command line: exit codes, one JSON document, nothing written on wrong input."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from edgesdk.arrays import save_arrays
from edgesdk.cli.app import app

Array = NDArray[np.generic]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / ".cache"))


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def images(path: Path, **arrays: Array) -> Path:
    image = np.zeros((6, 3, 32, 32), np.float32)
    image[:] = np.arange(6, dtype=np.float32)[:, None, None, None]
    save_arrays(path, arrays or {"image": image})
    return path


def node_model(path: Path, op: str, *, opset: int = 17, domain: str = "") -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)], "g", value[:1], value[1:]
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def refused(result: Result, out: Path, *words: str) -> None:
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.output.replace("\n", " ")
    assert not out.exists()
    assert "Traceback" not in result.output


BAD_MODELS: dict[str, Callable[[Path, Path], object]] = {
    "text": lambda path, _: path.write_text("hello, I am no model"),
    "truncated": lambda path, good: path.write_bytes(good.read_bytes()[:-500]),
    "newer opset": lambda path, _: node_model(path, "Relu", opset=99),
    "unknown op": lambda path, _: node_model(path, "Frobnicate"),
    "custom domain": lambda path, _: node_model(path, "Thing", domain="org.example"),
    "missing": lambda path, _: None,
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused(case: str, small_cnn: Path, tmp_path: Path) -> None:
    model = tmp_path / "bad.onnx"
    BAD_MODELS[case](model, small_cnn)
    result = call("deploy", model, "--profile", "x86", "--out", tmp_path / "out")
    refused(result, tmp_path / "out", "ModelError")


def test_missing_and_escaping_external_data_are_refused(tmp_path: Path) -> None:
    for location in ("gone.data", "../outside.data"):
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [weight]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / "external.onnx"
        path.write_bytes(model.SerializeToString())
        result = call("deploy", path, "--profile", "x86", "--out", tmp_path / "out")
        refused(result, tmp_path / "out", "ModelError", location)


BAD_SAMPLES: dict[str, dict[str, Array]] = {
    "imgae": {"imgae": np.zeros((6, 3, 32, 32), np.float32)},
    "shape": {"image": np.zeros((6, 3, 16, 32), np.float32)},
    "float64": {"image": np.zeros((6, 3, 32, 32), np.float64)},
    "nan": {"image": np.full((6, 3, 32, 32), np.nan, np.float32)},
    "no samples": {"image": np.zeros((0, 3, 32, 32), np.float32)},
}


@pytest.mark.parametrize("word", BAD_SAMPLES)
def test_bad_samples_are_refused(word: str, small_cnn: Path, tmp_path: Path) -> None:
    samples = images(tmp_path / "bad.npz", **BAD_SAMPLES[word])
    result = call(
        "deploy", small_cnn, "--profile", "x86", "--samples", samples, "--out", tmp_path / "out"
    )
    refused(result, tmp_path / "out", "SamplesError", word)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "x68"], ["ProfileError", "x68", "x86"]),
        (["--profile", "x86", "--budget", "latency=20parsec"], ["BudgetError", "parsec", "ms"]),
        (["--profile", "x86", "--budget", "latncy=20ms"], ["BudgetError", "latncy", "latency"]),
        (["--profile", "x86", "--max-fallback", "5"], ["BudgetError", "'5'", "5%"]),
        (["--profile", "x86", "--time-budget", "10parsec"], ["BudgetError", "parsec", "90s"]),
        (["--profile", "x86", "--floor", "cosin=0.9"], ["BudgetError", "cosin", "cosine"]),
        (["--profile", "x86", "--recipe", "int8!"], ["RecipeError", "int8!"]),
        (["--profile", "x86", "--metric", "topp1"], ["SamplesError", "topp1", "top1"]),
        (["--profile", "x86", "--metric", "top1"], ["SamplesError", "label"]),
        (["--profile", "x86", "--floor", "nowhere.cosine=0.9"], ["BudgetError", "nowhere"]),
    ],
)
def test_a_wrong_setting_is_named_with_the_legal_ones(
    arguments: list[str], words: list[str], small_cnn: Path, tmp_path: Path
) -> None:
    samples = images(tmp_path / "good.npz")
    result = call("deploy", small_cnn, *arguments, "--samples", samples, "--out", tmp_path / "out")
    refused(result, tmp_path / "out", *words)


def test_a_taken_output_folder_is_refused(small_cnn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    result = call("deploy", small_cnn, "--profile", "x86", "--out", out)
    assert result.exit_code == 2
    assert "not empty" in result.output
    assert [item.name for item in out.iterdir()] == ["mine.txt"]


def test_an_error_with_json_is_the_one_document(tmp_path: Path) -> None:
    result = call("deploy", tmp_path / "none.onnx", "--profile", "x86", "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["error"]["type"] == "ModelError"
    assert document["error"]["exit_code"] == 2


def test_another_device_exits_three(small_cnn: Path) -> None:
    result = call("deploy", small_cnn, "--profile", "jetson")
    assert result.exit_code == 3
    assert "DeviceError" in result.output


@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["backends"], ["profiles", "list"], ["profiles", "show", "x86"]],
)
def test_every_view_has_a_json_form(arguments: list[str]) -> None:
    shown = call(*arguments)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.strip()
    plain = call(*arguments, "--json")
    assert plain.exit_code == 0
    assert json.loads(plain.stdout)


def test_devices_are_listed_by_the_form_of_their_address() -> None:
    listed = call("devices", "list").stdout
    assert "ssh://[user@]host" in listed
    assert "adb://SERIAL" in listed


def test_a_plan_lists_candidates_and_what_is_ruled_out(small_cnn: Path, tmp_path: Path) -> None:
    samples = images(tmp_path / "good.npz")
    result = call("plan", small_cnn, "--profile", "x86", "--samples", samples, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["candidates"]
    assert all(item["why"] for item in document["candidates"])
    assert document["shapes"] == {"image": [1, 3, 32, 32]}
    unheard = tmp_path / "unheard.toml"
    unheard.write_text(
        files("edgesdk_profiles").joinpath("mobile-npu.toml").read_text().replace("qnn", "unheard")
    )
    phone = call("plan", small_cnn, "--profile", unheard, "--samples", samples)
    assert phone.exit_code == 3
    assert "unheard" in phone.output


def test_plan_shows_what_each_node_costs(small_cnn: Path, tmp_path: Path) -> None:
    samples = images(tmp_path / "images.npz")
    asked = ("plan", small_cnn, "--profile", "x86", "--recipe", "w8a8-static", "--sensitivity")
    result = call(*asked, "--samples", samples, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {item["precision"] for item in document["nodes"]} == {"w8a8"}
    assert {item["op"] for item in document["nodes"]} >= {"Conv", "Gemm"}
    assert all(item["damages"][0] > 0 for item in document["nodes"])
    shown = call(*asked, "--samples", samples)
    assert document["nodes"][0]["node"] in shown.output
    assert "All of them at once" in shown.output
    page = tmp_path / "page.html"
    assert call(*asked, "--samples", samples, "--html", page).exit_code == 0
    assert document["nodes"][0]["node"] in page.read_text()
    refused(call(*asked, "--samples", samples, "--html", page), tmp_path / "out", "exists")
    refused(call(*asked[:-1], "--html", tmp_path / "b"), tmp_path / "b", "--sensitivity")
    without = call(*asked)
    assert without.exit_code == 2
    assert "give --samples" in without.output.replace("\n", " ")


def test_init_writes_a_file_that_deploy_reads(small_cnn: Path, tmp_path: Path) -> None:
    result = call("init", small_cnn)
    assert result.exit_code == 0, result.output
    again = call("init", small_cnn)
    assert again.exit_code == 2
    planned = call("plan", "--profile", "x86", "--json")
    assert planned.exit_code == 0, planned.output


def test_a_deploy_can_be_run_validated_and_profiled(small_mlp: Path, tmp_path: Path) -> None:
    model = onnx.load(small_mlp)
    name = model.graph.input[0].name
    width = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((31, width)).astype(np.float32)
    save_arrays(tmp_path / "rows.npz", {name: rows[:30]})
    done = call(
        "deploy", small_mlp, "--profile", "x86", "--samples", tmp_path / "rows.npz",
        "--backend", "onnxruntime", "--recipe", "w8a8-dynamic", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["chosen"]
    bundle = tmp_path / "out" / "bundle"
    save_arrays(tmp_path / "one.npz", {name: rows[30:]})
    ran = call(
        "run", bundle, "--input", tmp_path / "one.npz", "--out", tmp_path / "y.npz", "--json"
    )
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "y.npz").is_file()
    valid = call(
        "validate", bundle, "--model", small_mlp, "--samples", tmp_path / "rows.npz", "--json"
    )
    assert valid.exit_code == 0, valid.output
    assert json.loads(valid.stdout)["passed"]
    profiled = call("profile", bundle, "--samples", tmp_path / "rows.npz", "--json")
    assert profiled.exit_code == 0, profiled.output
    assert json.loads(profiled.stdout)["node_times"]
    weights = next((bundle / "components" / "model").glob("*.onnx"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    broken = call("validate", bundle)
    assert broken.exit_code == 2
    assert weights.name in broken.output
    with zipfile.ZipFile(tmp_path / "not.zip", "w") as archive:
        archive.writestr("a", "b")
    assert call("run", tmp_path / "not.zip", "--input", tmp_path / "one.npz").exit_code == 2
