"""The whole path on small real models with the real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgesdk
from edgesdk.budget import Budget, parse_budget, parse_floor
from edgesdk.cache import Cache
from edgesdk.deployment import BUNDLE, REPORT_HTML, REPORT_JSON, Deployment, deploy, preview
from edgesdk.errors import BudgetNotMet, DeviceError, OutputError
from edgesdk.events import Event
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.testing.quick import QUICK

"""Too short to trust a time, long enough to take the whole path; never noisy, for equal results."""
FEW = ("onnxruntime/fp32", "onnxruntime/w8a8-static", "openvino/fp32")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "images.npz"
    rng = np.random.default_rng(0)
    image = rng.standard_normal((40, 3, 32, 32)).astype(np.float32)
    np.savez(path, image=image, label=rng.integers(0, 10, 40))
    return path


def run(model: Path, out: Path, cache: Cache, **options: Any) -> Deployment:
    settled = {"settings": QUICK, "recipes": FEW, **options}
    return deploy(model, profile="x86", out=out, cache=cache, **settled)


def test_a_deploy_ends_in_a_bundle_that_runs(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(small_cnn, out, cache, samples=str(images), recipes=())
    assert sorted(item.name for item in out.iterdir()) == sorted([BUNDLE, REPORT_HTML, REPORT_JSON])
    report = json.loads((out / REPORT_JSON).read_text())
    assert report["chosen"] == done.decision.chosen
    assert {row["name"] for row in report["rows"]} >= {ORIGINAL, "onnxruntime/fp32"}
    assert all(row["reason"] for row in report["rows"])
    measured = [row for row in report["rows"] if row["latency"]]
    assert measured
    assert all(row["evidence"] == "measured" for row in measured)
    image = np.load(images)["image"][:1]
    with edgesdk.load(out / BUNDLE) as session:
        assert session.self_test().ok
        assert session.run({"image": image})["logits"].shape == (1, 10)
        placed = session.manifest.figure("time_share", of="cpu")
    assert placed is not None
    assert (placed.value, placed.evidence) == (1.0, "measured")
    assert report["headline"] == done.decision.headline
    assert "Not on cpu" not in (out / REPORT_HTML).read_text()


def test_a_second_deploy_takes_every_result_from_the_cache(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    run(small_cnn, tmp_path / "first", cache, samples=str(images))
    heard: list[Event] = []
    run(small_cnn, tmp_path / "second", cache, samples=str(images), listen=heard.append)
    finished = [e for e in heard if e.state == "done" and e.stage in ("check", "prepare", "try")]
    assert finished
    assert all(event.cached for event in finished)


def test_what_is_too_noisy_to_judge_is_measured_again_once(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    always = replace(QUICK, noisy_interval=-1.0)
    bounded = Budget(objective="size", limits=parse_budget("latency=1s"))
    asked = {"samples": str(images), "settings": always, "budget": bounded}
    caching = []
    for attempt in ("first", "second"):
        heard: list[Event] = []
        done = run(small_cnn, tmp_path / attempt, cache, listen=heard.append, **asked)
        again = [e for e in heard if e.message.startswith("measured again")]
        assert {event.subject for event in again} <= set(FEW)
        assert all(not o.measurement.stable for o in done.outcomes if o.measurement)
        assert done.decision.chosen == ORIGINAL
        caching += [event.cached for event in again]
    half = len(caching) // 2
    assert half  # the int8 form at least is smaller than the original
    assert caching == [False] * half + [True] * half


def test_a_killed_deploy_goes_on_where_it_was(
    small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    recipes = ["fp32", "w8a8-static"]
    command = [sys.executable, "-m", "edgesdk", "deploy", str(small_cnn), "--profile", "x86"]
    command += ["--samples", str(images), "--backend", "onnxruntime", "--out", str(tmp_path / "o")]
    command += [part for recipe in recipes for part in ("--recipe", recipe)]
    environment = {**os.environ, "EDGESDK_CACHE": str(tmp_path / "cache")}
    entries = tmp_path / "cache" / "entries"
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(entries.glob("check-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {entry.name for entry in entries.iterdir() if not entry.name.startswith(".")}
    assert not (tmp_path / "o").exists()
    heard: list[Event] = []
    run(
        small_cnn,
        tmp_path / "o",
        Cache(tmp_path / "cache"),
        samples=str(images),
        backends=("onnxruntime",),
        recipes=tuple(recipes),
        listen=heard.append,
    )
    assert any(name.startswith("reference") for name in before)
    assert next(e for e in heard if e.subject == ORIGINAL and e.state == "done").cached
    assert (tmp_path / "o" / BUNDLE).is_dir()


def test_an_impossible_budget_leaves_a_report_but_no_bundle(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    budget = Budget(limits=parse_budget("size=1kB"))
    with pytest.raises(BudgetNotMet, match=r"size .* limit 1kB"):
        run(small_cnn, out, cache, samples=str(images), budget=budget)
    assert (out / REPORT_HTML).is_file()
    assert not (out / BUNDLE).exists()


def test_without_samples_nothing_is_calibrated_and_quality_is_unknown(
    small_cnn: Path, cache: Cache, tmp_path: Path
) -> None:
    done = run(small_cnn, tmp_path / "out", cache, recipes=())
    tried = [outcome.candidate.single.recipe for outcome in done.outcomes]
    assert not any(recipe.needs_calibration for recipe in tried)
    assert any("calibration" in item.reason for item in done.plan.rejected)
    assert any("UNKNOWN" in note for note in done.report.notes)
    with edgesdk.load(tmp_path / "out" / BUNDLE) as session:
        assert session.manifest.quality.verdict == "unknown"


def test_a_strict_floor_rules_candidates_out_with_the_figure(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    budget = Budget(floors=parse_floor("sqnr=100dB"))
    done = run(small_cnn, tmp_path / "out", cache, samples=str(images), budget=budget)
    failed = [item for item in done.decision.judged if item.status == "failed"]
    assert failed
    assert all("sqnr" in item.reason for item in failed)


def test_control_flow_and_lstm_still_deploy_with_what_works(
    vad_model: Path, cache: Cache, tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(3)
    state = np.zeros((2, 1, 128), np.float32)
    for row in range(12):
        frame = 0.1 * rng.standard_normal((1, 576)).astype(np.float32)
        np.savez(folder / f"{row:03d}.npz", input=frame, state=state, sr=np.array(16000))
    recipes = ("fp32", "w8-only")
    done = run(vad_model, tmp_path / "out", cache, samples=str(folder), recipes=recipes)
    assert done.bundle is not None
    for judged in done.decision.judged:
        assert judged.reason
    with edgesdk.load(done.bundle) as session:
        assert session.self_test().ok


def test_another_device_is_refused_with_the_command_that_works(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match="edgesdk plan"):
        deploy(
            small_cnn,
            profile="raspberry-pi-5",
            samples=str(images),
            out=tmp_path / "out",
            cache=cache,
        )
    assert not (tmp_path / "out").exists()


def test_a_taken_output_place_is_refused_before_any_work(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    heard: list[Event] = []
    with pytest.raises(OutputError, match="not empty"):
        run(small_cnn, tmp_path, cache, samples=str(images), listen=heard.append)
    with pytest.raises(OutputError, match="no output of edgesdk"):
        run(small_cnn, tmp_path, cache, samples=str(images), force=True)
    assert not heard
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_plan_is_the_same_twice_and_runs_nothing(small_cnn: Path, images: Path) -> None:
    first = preview(small_cnn, profile="x86", samples=str(images))
    second = preview(small_cnn, profile="x86", samples=str(images))
    assert first == second
    assert first.candidates


def test_static_recipes_share_one_observation(
    small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    recipes = tuple(f"onnxruntime/w8a8-static{way}" for way in ("", "-mse"))
    cache = Cache(tmp_path / "cache")
    done = run(small_cnn, tmp_path / "out", cache, samples=str(images), recipes=recipes)
    assert all(item.quality for item in done.outcomes[1:])
    steps = Counter(entry.name.split("-")[0] for entry in (cache.root / "entries").iterdir())
    assert steps["compress"] == 2
    assert steps["ranges"] == 1
    assert not list((cache.root / "unfinished").iterdir())
