"""Deploys for units that are not here: what compilers and simulators tell, and what they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgesdk
from edgesdk.backend import OpenOptions, load_backend
from edgesdk.budget import Budget, parse_budget
from edgesdk.bundle.read import read_manifest
from edgesdk.cache import Cache
from edgesdk.deployment import Deployment, deploy
from edgesdk.device.simulated import SIMULATED, SimulatedDevice
from edgesdk.errors import BackendUnavailable, BudgetError, BundleError, DeviceError
from edgesdk.installing import install_bundle
from edgesdk.report.document import DeployReport
from edgesdk.report.markdown import render_markdown
from edgesdk.testing.quick import QUICK
from edgesdk.validation import validate_bundle


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows for `small_cnn`, one image each."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("images") / "rows.npz"
    np.savez(file, image=rng.standard_normal((24, 1, 3, 32, 32)).astype(np.float32))
    return file


@pytest.fixture(scope="module")
def on_ethos_u(
    small_cnn: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    problem = load_backend("ethos-u").unavailable()
    if problem:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("ethos-u")
    return deploy(
        small_cnn,
        profile="ethos-u",
        device=SIMULATED,
        samples=str(images),
        out=folder / "out",
        cache=Cache(folder / "cache"),
        recipes=("ethos-u/w8a8-static",),
        budget=Budget(max_fallback=0.05),
        accept_undecided=True,
    )


def test_every_figure_says_that_it_was_not_measured(on_ethos_u: Deployment) -> None:
    report = json.loads((on_ethos_u.folder / "report.json").read_text())
    assert on_ethos_u.decision.chosen == "ethos-u/w8a8-static"
    (row,) = (row for row in report["rows"] if row["name"] == "ethos-u/w8a8-static")
    assert row["latency"] is row["peak_mib"] is row["instructions"] is None
    assert row["evidence"] == "estimated"
    assert row["estimate_ms"] > 0
    assert row["working_bytes"] > 0
    assert row["cosine"] > 0.9
    assert on_ethos_u.bundle is not None
    manifest = json.loads((on_ethos_u.bundle / "manifest.json").read_text())
    kinds = {item["name"]: item["evidence"] for item in manifest["measured"]}
    assert kinds.pop("artifact_size") == kinds.pop("smaller") == "measured"
    assert kinds.keys() >= {"estimated_run", "estimated_run_cycles", "working_memory"}
    assert set(kinds.values()) == {"estimated"}
    assert {item["evidence"] for item in manifest["quality"]["figures"]} == {"estimated"}


def test_an_original_that_the_unit_cannot_run_is_only_compared_with(on_ethos_u: Deployment) -> None:
    (judged,) = (item for item in on_ethos_u.decision.judged if item.name == "original")
    assert judged.status == "reference"
    assert "ethos-u does not run onnxruntime/fp32" in judged.reason


def test_the_headline_speaks_of_an_estimate_and_of_the_unit(on_ethos_u: Deployment) -> None:
    headline = on_ethos_u.report.headline
    assert "by its compiler's estimate" in headline
    assert "npu 100 %" in headline
    assert "speed of" not in headline
    again = DeployReport.from_json(on_ethos_u.report.to_json())
    assert "estimated ms" in render_markdown(again)


def test_its_bundle_is_validated_in_place_of_the_unit_and_refused_without(
    on_ethos_u: Deployment, images: Path
) -> None:
    bundle = on_ethos_u.bundle
    assert bundle is not None
    assert validate_bundle(bundle, device=SIMULATED).passed
    with pytest.raises(BackendUnavailable, match="board"):
        edgesdk.load(bundle)
    with edgesdk.load(bundle, simulate=True) as session:
        found = session.run({"image": np.load(images)["image"][0]})
        assert found["logits"].shape == (1, 10)


def test_times_and_memory_cannot_be_asked_of_a_unit_that_is_not_here(small_cnn: Path) -> None:
    for budget in (Budget(limits=parse_budget("latency=20ms")), Budget(objective="memory")):
        with pytest.raises(BudgetError, match="simulated tells neither times nor memory"):
            deploy(small_cnn, profile="ethos-u", device=SIMULATED, budget=budget)


def test_what_cannot_be_simulated_needs_the_device(small_cnn: Path) -> None:
    found = SimulatedDevice().engines(["onnxruntime"])["onnxruntime"]
    assert "only run on it" in (found.unavailable or "")
    with pytest.raises(BackendUnavailable, match="cannot simulate"):
        deploy(small_cnn, profile="raspberry-pi-5", device=SIMULATED)
    with pytest.raises(BackendUnavailable, match="it needs the device"):
        load_backend("onnxruntime").check_options(OpenOptions(simulate=True))


def test_without_the_device_the_way_to_its_compiler_is_named(small_cnn: Path) -> None:
    with pytest.raises(DeviceError, match="--device simulated"):
        deploy(small_cnn, profile="ethos-u")


@pytest.fixture(scope="module")
def on_jetson(
    small_cnn: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    problem = load_backend("tensorrt").unavailable()
    if problem:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("jetson")
    return deploy(
        small_cnn,
        profile="jetson",
        device=SIMULATED,
        samples=str(images),
        out=folder / "out",
        cache=Cache(folder / "cache"),
        recipes=("tensorrt/w8a8-static-symmetric-fp16",),
        accept_undecided=True,
    )


def test_a_jetson_gets_what_its_parser_and_builder_took(on_jetson: Deployment) -> None:
    assert on_jetson.decision.chosen == "tensorrt/w8a8-static-symmetric-fp16"
    assert "only the device can tell" in on_jetson.report.headline
    assert "gpu" in on_jetson.report.headline
    assert on_jetson.bundle is not None
    (component,) = read_manifest(on_jetson.bundle).components
    assert component.target == {"compute_capability": "8.7"}
    assert component.unit == "gpu"
    assert validate_bundle(on_jetson.bundle, device=SIMULATED).passed


def test_its_engine_is_built_on_the_device_and_nowhere_else(on_jetson: Deployment) -> None:
    assert on_jetson.bundle is not None
    with pytest.raises(BackendUnavailable, match="TensorRT does not import"):
        install_bundle(on_jetson.bundle)
    with pytest.raises(BackendUnavailable, match="TensorRT does not import"):
        edgesdk.load(on_jetson.bundle)


def test_a_bundle_without_a_compiler_is_ready_where_it_works(
    small_mlp: Path, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((12, 1, 64)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x)
    done = deploy(
        small_mlp,
        profile="x86",
        samples=str(tmp_path / "rows.npz"),
        out=tmp_path / "out",
        cache=Cache(tmp_path / "cache"),
        recipes=("onnxruntime/fp32-w16",),
        settings=QUICK,
        accept_undecided=True,
    )
    assert done.bundle is not None
    found = install_bundle(done.bundle)
    assert found.works
    assert not found.built
    zipped = shutil.make_archive(str(tmp_path / "bundle"), "zip", done.bundle)
    with pytest.raises(BundleError, match="unpack it"):
        install_bundle(Path(zipped))
