"""A whole ARM computer over SSH: its memory, disk and power run out for real."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesdk.cache import Cache
from edgesdk.device.base import Device
from edgesdk.device.remote import RemoteDevice
from edgesdk.device.ssh import ssh_device
from edgesdk.errors import DeviceError, StepFailed
from edgesdk.profile import load_profile
from edgesdk.testing import DeviceConformance
from edgesdk.testing.openssh import client
from edgesdk.testing.vm import Machine, missing_tools

pytestmark = pytest.mark.skipif(
    bool(missing_tools()),
    reason="made from Debian packages with mke2fs, and reached by OpenSSH's client",
)
DRILL = "edgesdk.device.drill"


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    running = Machine(tmp_path_factory.mktemp("vm"), Cache())
    yield running
    running.cut_power()


@pytest.fixture
def remote(
    computer: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RemoteDevice]:
    with client(tmp_path / "client", computer) as folder:
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        device = ssh_device(
            f"ssh://{computer.user}@127.0.0.1:{computer.port}", ("onnxruntime",), Cache()
        )
        yield device
        device.close()


@pytest.mark.nightly
class TestVm(DeviceConformance):
    @pytest.fixture
    def device(self, remote: RemoteDevice) -> Device:
        return remote


def test_steps_run_on_the_processor_of_a_raspberry_pi_5(
    remote: RemoteDevice, tmp_path: Path
) -> None:
    found = remote.run_step(f"{DRILL}:answer", {"a": 1}, folder=tmp_path / "step", timeout_s=120)
    assert found.response["a"] == 1
    machine = remote.machine()
    assert machine.arch == "aarch64"
    assert machine.features == load_profile("raspberry-pi-5").features
    assert machine.memory_bytes is not None
    assert machine.memory_bytes < 512 << 20


@pytest.mark.nightly
def test_a_step_that_the_kernel_ends_for_want_of_memory_says_so(
    remote: RemoteDevice, tmp_path: Path
) -> None:
    with pytest.raises(StepFailed, match="memory runs out") as caught:
        remote.run_step(f"{DRILL}:swell", {"mib": 900}, folder=tmp_path / "step", timeout_s=120)
    assert caught.value.kind == "killed"
    after = remote.run_step(f"{DRILL}:answer", {"a": 1}, folder=tmp_path / "next", timeout_s=60)
    assert after.response["a"] == 1


@pytest.mark.nightly
def test_a_file_that_does_not_fit_on_the_disk_is_refused_before_it_is_sent(
    remote: RemoteDevice, tmp_path: Path
) -> None:
    vast = tmp_path / "vast.bin"
    with vast.open("wb") as stream:
        stream.truncate(700 << 20)
    with pytest.raises(DeviceError, match="the device's disk is full: a file of 734"):
        remote.run_step(f"{DRILL}:digest", {"file": vast}, folder=tmp_path / "step", timeout_s=60)


@pytest.mark.nightly
def test_a_power_cut_in_the_middle_of_a_file_leaves_nothing_half_there(
    computer: Machine, remote: RemoteDevice, tmp_path: Path
) -> None:
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(60 << 20))
    threading.Timer(1.5, computer.cut_power).start()
    begun = time.monotonic()
    with pytest.raises(DeviceError):
        remote.run_step(f"{DRILL}:digest", {"file": file}, folder=tmp_path / "step", timeout_s=20)
    assert time.monotonic() - begun < 20 + 5
    computer.boot()
    found = remote.run_step(f"{DRILL}:answer", {"a": 1}, folder=tmp_path / "next", timeout_s=60)
    assert found.response["a"] == 1
    left = computer.run("ls /root/.cache/edgesdk-device/files")
    assert ".part" not in left.stdout
