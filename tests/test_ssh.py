"""Machines over SSH: OpenSSH's own client and server, and a network that breaks."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgesdk.cache import Cache
from edgesdk.deployment import deploy
from edgesdk.device.base import Device
from edgesdk.device.remote import RemoteDevice
from edgesdk.device.ssh import ssh_device
from edgesdk.errors import DeviceError, EdgeSdkError
from edgesdk.files import sha256_file
from edgesdk.machine import detect
from edgesdk.probe.run import probe_machine
from edgesdk.testing import DeviceConformance
from edgesdk.testing.openssh import Proxy, Server, client
from edgesdk.testing.quick import QUICK

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("ssh") is None,
    reason="needs OpenSSH's client, and its server from Debian",
)
ENGINES = ("onnxruntime",)
ANSWER = "edgesdk.device.drill:answer"
HANG = "edgesdk.device.drill:hang"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("sshd"), Cache())
    yield running
    running.close()


@pytest.fixture
def network(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def url(
    server: Server, network: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    with client(tmp_path / "client", server) as folder:
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield f"ssh://{server.user}@127.0.0.1:{network.port}?python={sys.executable}"


@pytest.fixture
def remote(url: str) -> Iterator[RemoteDevice]:
    device = ssh_device(url, ENGINES, Cache())
    yield device
    device.close()


class TestSsh(DeviceConformance):
    @pytest.fixture
    def device(self, remote: RemoteDevice) -> Device:
        return remote


def test_a_host_whose_key_is_not_known_is_refused_unless_told(
    server: Server, network: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = tmp_path / "empty"
    nobody.touch()
    url = f"ssh://{server.user}@127.0.0.1:{network.port}?python={sys.executable}"
    with client(tmp_path / "client", server, known_hosts=nobody) as folder:
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(DeviceError, match="Host key verification failed"):
            ssh_device(url, ENGINES, Cache())
        device = ssh_device(f"{url}&host-key=accept-new", ENGINES, Cache())
        device.close()
    assert "ssh-ed25519" in nobody.read_text()


def test_who_has_no_key_is_told_so(
    server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "client/config"
    other.write_text(other.read_text().replace(str(server.identity), str(tmp_path / "none")))
    with pytest.raises(DeviceError, match="Permission denied"):
        ssh_device(url, ENGINES, Cache())


def test_an_interpreter_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(DeviceError, match=r"no-such-python.*not found"):
        ssh_device(url.replace(sys.executable, "no-such-python"), ENGINES, Cache())


def test_a_connection_cut_in_the_middle_of_a_file_ends_in_a_result(
    server: Server, network: Proxy, remote: RemoteDevice, tmp_path: Path
) -> None:
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(8 << 20))
    network.cut(after_bytes=3 << 20)
    found = remote.run_step(ANSWER, {"file": file}, folder=tmp_path / "step", timeout_s=60)
    assert found.response["pid"] > 0
    there = server.home / ".cache/edgesdk-device/files"
    assert sha256_file(there / sha256_file(file)) == sha256_file(file)
    assert not list(there.glob("*.part"))


def test_a_network_that_falls_silent_ends_in_an_error_in_time(
    network: Proxy, remote: RemoteDevice, tmp_path: Path
) -> None:
    begun = time.monotonic()
    network.fall_silent()
    with pytest.raises(EdgeSdkError, match=r"tried|did not answer|said nothing"):
        remote.run_step(HANG, {}, folder=tmp_path / "step", timeout_s=6)
    assert time.monotonic() - begun < 6 + 5


def test_a_deploy_over_ssh_measures_there(
    remote: RemoteDevice, url: str, small_mlp: Path, tmp_path: Path
) -> None:
    remote.close()  # only one at a time
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.standard_normal((24, 1, 64)).astype(np.float32))
    done = deploy(
        small_mlp,
        profile="x86",
        device=url,
        samples=str(tmp_path / "rows.npz"),
        out=tmp_path / "out",
        cache=Cache(tmp_path / "cache"),
        settings=QUICK,
        recipes=("onnxruntime/fp32", "onnxruntime/w8a8-static"),
        accept_undecided=True,
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["environment"]["device"] == url
    assert done.bundle is not None
    assert all(row["latency"] for row in report["rows"] if row["status"] != "error")


@pytest.mark.skipif(detect().arch != "x86_64", reason="the shipped detected profile is x86")
def test_a_probe_over_ssh_measures_there(remote: RemoteDevice, url: str, tmp_path: Path) -> None:
    remote.close()  # only one at a time
    out = tmp_path / "there.toml"
    engines = ("onnxruntime",)
    found = probe_machine(out, backends=engines, seconds=9, threads=1, device=url)
    assert found.measured > 0
    assert not [failure for failure in found.failures if "did not end" not in failure]
    assert found.profile.mismatch(detect()) is None
    assert str(tmp_path) not in out.read_text()
