"""Many devices at once: Dask's own scheduler and workers on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import edgesdk
from edgesdk.cache import Cache
from edgesdk.cli.app import app
from edgesdk.deployment import BUNDLE, Deployment, deploy
from edgesdk.errors import DeviceError, ModelError, StepFailed
from edgesdk.events import Event
from edgesdk.farm.place import FarmPlace, open_farm
from edgesdk.farm.turns import turn
from edgesdk.files import sha256_file
from edgesdk.fleet import deploy_fleet
from edgesdk.profile import load_profile
from edgesdk.testing.farm import LocalFarm
from edgesdk.testing.quick import QUICK

pytest.importorskip("distributed")

FEW = ("onnxruntime/fp32", "onnxruntime/w8a8-static")
DRILL = "edgesdk.device.drill"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFarm]:
    """Two good workers, and two that are of no use."""
    path = tmp_path_factory.mktemp("farm")
    older = _other_sources(path / "older")
    with LocalFarm(cache=path / "cache") as farm:
        farm.add("one")
        farm.add("two")
        farm.add("gone", device="ssh://127.0.0.1:1")
        farm.add("older", environment={"PYTHONPATH": str(older)})
        farm.wait()
        yield farm


def _other_sources(folder: Path) -> Path:
    """This package with one line more."""
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("edgesdk", "edgesdk_backends", "edgesdk_profiles"):
        module = sys.modules.get(package) or __import__(package)
        shutil.copytree(Path(str(module.__file__)).parent, folder / package, ignore=ignore)
    with (folder / "edgesdk" / "arrays.py").open("a") as stream:
        stream.write("\n# another one\n")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, image=rng.standard_normal((40, 3, 32, 32)).astype(np.float32))
    return path


def opened(farm: LocalFarm, left_s: float = 600.0) -> FarmPlace:
    return open_farm(
        farm.address, load_profile("x86"), ("onnxruntime",), device="local", left_s=lambda: left_s
    )


def step(place: FarmPlace, name: str, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    return place.run_step(f"{DRILL}:{name}", request, folder=folder, timeout_s=20.0).response


def run(model: Path, images: Path, out: Path, cache: Path, **options: Any) -> Deployment:
    return deploy(
        model,
        profile="x86",
        out=out,
        cache=Cache(cache),
        samples=str(images),
        backends=("onnxruntime",),
        recipes=FEW,
        settings=QUICK,
        **options,
    )


def verdicts(done: Deployment) -> dict[str, Any]:
    """What the checks found, to the last digit."""
    return {item.name: item.quality and item.quality.to_json() for item in done.outcomes}


def test_two_devices_give_the_verdicts_of_one(
    farm: LocalFarm, small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    heard: list[Event] = []
    alone = run(small_cnn, images, tmp_path / "alone", tmp_path / "a")
    many = run(
        small_cnn,
        images,
        tmp_path / "many",
        tmp_path / "b",
        farm=farm.address,
        listen=heard.append,
    )
    assert verdicts(many) == verdicts(alone)
    measured = [item.measurement for item in many.outcomes if item.measurement]
    assert len(measured) == len([item for item in alone.outcomes if item.measurement])
    assert {item.environment["worker"] for item in measured} <= {"one", "two"}
    assert all(item.evidence == "measured" for item in measured)
    with edgesdk.load(tmp_path / "many" / BUNDLE) as session:
        assert session.self_test().ok
    notes = " ".join(many.report.notes)
    assert "2 devices of the farm" in notes
    assert "older: its edgesdk" in notes
    assert "gone: ssh://127.0.0.1:1" in notes
    assert all(event.message in notes for event in heard if event.message.startswith("left out"))


def test_the_run_of_a_killed_worker_goes_to_another_one(farm: LocalFarm, tmp_path: Path) -> None:
    farm.add("doomed")
    farm.wait()
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(9 << 20))  # more than one piece
    with closing(opened(farm)) as place:
        assert place.lanes == 3
        found: list[dict[str, Any]] = []

        def digest(number: int) -> None:
            request = {"file": file, "seconds": 4.0}
            found.append(step(place, "digest", request, tmp_path / f"step{number}"))

        threads = [threading.Thread(target=digest, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        doomed = farm.workers["doomed"]
        _until(lambda: bool(_children(doomed.pid)))
        children = _children(doomed.pid)
        doomed.signal(signal.SIGKILL)
        for thread in threads:
            thread.join(60.0)
    assert found == [{"sha256": sha256_file(file)}] * 3
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_errors_of_a_run_come_back_as_they_are(farm: LocalFarm, tmp_path: Path) -> None:
    with closing(opened(farm)) as place:
        with pytest.raises(ModelError, match="no good"):
            step(place, "refuse", {"message": "no good"}, tmp_path / "refused")
        with pytest.raises(StepFailed) as crashed:
            step(place, "crash", {}, tmp_path / "crashed")
        assert crashed.value.kind == "crash"
        with pytest.raises(StepFailed) as hung:
            place.run_step(f"{DRILL}:hang", {}, folder=tmp_path / "hung", timeout_s=0.5)
        assert hung.value.kind == "timeout"
        assert step(place, "answer", {"a": 1}, tmp_path / "answered")["a"] == 1
    assert (tmp_path / "answered" / "left.txt").read_text() == "done\n"
    assert (tmp_path / "crashed" / "log.txt").is_file()


def test_a_farm_that_is_late_is_not_waited_for(farm: LocalFarm, tmp_path: Path) -> None:
    left_s = 600.0
    place = open_farm(
        farm.address, load_profile("x86"), ("onnxruntime",), device="one", left_s=lambda: left_s
    )
    with closing(place):
        left_s = -10.0
        with pytest.raises(StepFailed, match="did not answer in time") as late:
            step(place, "digest", {"file": Path(__file__), "seconds": 3.0}, tmp_path / "late")
    assert late.value.kind == "timeout"


def test_a_farm_of_no_use_says_what_each_worker_lacks(tmp_path: Path) -> None:
    with LocalFarm(cache=tmp_path) as farm:
        with pytest.raises(DeviceError, match=r"it has no workers\. Run: dask worker"):
            opened(farm)
        farm.add("plain", resources="")
        farm.wait()
        with pytest.raises(DeviceError, match="plain: it offers no resource 'edgesdk'"):
            opened(farm)


def test_a_scheduler_that_goes_away_ends_a_run_with_an_error(tmp_path: Path) -> None:
    with LocalFarm(cache=tmp_path / "cache") as farm:
        farm.add("one")
        farm.wait()
        with closing(opened(farm)) as place:
            threading.Timer(1.0, farm.scheduler.kill).start()
            with pytest.raises(DeviceError, match="does not answer"):
                step(place, "digest", {"file": Path(__file__), "seconds": 5.0}, tmp_path / "step")


def test_a_device_that_the_farm_has_not_is_refused(
    farm: LocalFarm, small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "cache": Cache(tmp_path / "cache"),
        "samples": str(images),
        "farm": farm.address,
    }
    with pytest.raises(DeviceError, match="no device that can stand in for profile 'arm-cpu'"):
        deploy(small_cnn, profile="arm-cpu", out=tmp_path / "a", **options)
    with pytest.raises(DeviceError, match="no device called emulated:cortex-a76"):
        deploy(
            small_cnn, profile="x86", device="emulated:cortex-a76", out=tmp_path / "b", **options
        )


@pytest.mark.parametrize("address", ["nothing://here", "tcp://127.0.0.1:9"])
def test_a_scheduler_that_is_not_there_is_a_device_error(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesdk.farm.client._CONNECT_S", 1.0)
    with pytest.raises(DeviceError, match="no Dask scheduler answers at"):
        open_farm(
            address, load_profile("x86"), ("onnxruntime",), device="local", left_s=lambda: 60.0
        )


def test_without_dask_one_device_works_and_a_farm_says_what_to_install(small_cnn: Path) -> None:
    program = f"""
import sys
sys.modules["distributed"] = sys.modules["dask"] = None
import edgesdk.cli.deploy, edgesdk.deployment, edgesdk.fleet
from edgesdk.errors import BackendUnavailable
try:
    edgesdk.deployment.deploy({str(small_cnn)!r}, profile="x86", out="never", farm="tcp://x:1")
except BackendUnavailable as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install 'edgesdk[farm]'" in done.stdout


@pytest.mark.nightly
def test_a_fleet_ends_in_one_output_for_each_profile(
    farm: LocalFarm, small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    heard: list[Event] = []
    fleet = deploy_fleet(
        small_cnn,
        profiles=("x86", "raspberry-pi-5"),
        farm=farm.address,
        out=tmp_path,
        cache=Cache(tmp_path / "cache"),
        samples=str(images),
        backends=("onnxruntime",),
        recipes=FEW[:1],
        settings=QUICK,
        listen=heard.append,
    )
    assert isinstance(fleet["x86"], Deployment)
    assert (tmp_path / "x86" / BUNDLE).is_dir()
    assert isinstance(fleet["raspberry-pi-5"], DeviceError)
    assert not (tmp_path / "raspberry-pi-5").exists()
    assert {event.subject.split()[0] for event in heard} == {"x86"}


def test_several_profiles_need_a_farm(small_cnn: Path) -> None:
    done = CliRunner().invoke(app, ["deploy", str(small_cnn), "-p", "x86", "-p", "arm-cpu"])
    assert done.exit_code == 2
    assert "only one without --farm" in done.output


def test_what_is_timed_has_the_machine_to_itself() -> None:
    order: list[str] = []

    def alone() -> None:
        with turn(alone=True):
            order.append("alone")

    with turn(alone=False):
        with turn(alone=False):
            order.append("together")
        thread = threading.Thread(target=alone)
        thread.start()
        time.sleep(0.2)
        order.append("still together")
    thread.join()
    assert order == ["together", "still together", "alone"]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
