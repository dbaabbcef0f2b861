"""Devices over adb: the real adb and adbd, and a connection that breaks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgesdk.cache import Cache
from edgesdk.deployment import deploy
from edgesdk.device.adb import adb_device, advice, parse_address, parse_devices
from edgesdk.device.base import Device
from edgesdk.device.find import find_device
from edgesdk.device.remote import RemoteDevice
from edgesdk.errors import DeviceError, EdgeSdkError
from edgesdk.files import sha256_file
from edgesdk.testing import DeviceConformance
from edgesdk.testing.adb import Board, Client
from edgesdk.testing.openssh import Proxy
from edgesdk.testing.quick import QUICK

needs_debian = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("cc") is None,
    reason="adb and adbd are unpacked from Debian packages, and a C compiler keeps adbd local",
)
ENGINES = ("onnxruntime",)
DRILL = "edgesdk.device.drill"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    running = Board(tmp_path_factory.mktemp("adbd") / "board", Cache())
    yield running
    running.kill()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    running = Client(tmp_path_factory.mktemp("adb") / "client", Cache())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{running.folder}{os.pathsep}{os.environ['PATH']}")
        yield running
    running.close()


@pytest.fixture
def network(board: Board) -> Iterator[Proxy]:
    proxy = Proxy(board.port)
    yield proxy
    proxy.close()


@pytest.fixture
def url(board: Board, client: Client, network: Proxy) -> Iterator[str]:
    serial = client.connect(network.port)
    yield f"adb://{serial}?python={sys.executable}"
    client.thaw()
    client.run("disconnect", serial)
    board.boot()


@pytest.fixture
def remote(url: str) -> Iterator[RemoteDevice]:
    device = adb_device(url, ENGINES, Cache())
    yield device
    device.close()


@needs_debian
class TestAdb(DeviceConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def device(cls, board: Board, client: Client) -> Iterator[Device]:
        url = f"adb://{client.connect(board.port)}?python={sys.executable}"
        with closing(adb_device(url, ENGINES, Cache())) as device:
            yield device


@needs_debian
def test_a_device_that_is_not_there_is_refused_with_those_that_are(url: str) -> None:
    serial, _ = parse_address(url)
    with pytest.raises(DeviceError, match=rf"no device 'R5CT'; there: .*{serial} \(device\)"):
        find_device("adb://R5CT", ENGINES, Cache())
    with pytest.raises(DeviceError, match=r"run: adb connect board\.local:5555"):
        adb_device("adb://board.local:5555", ENGINES, Cache())


def test_without_adb_nothing_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="there is no adb here; install it"):
        adb_device("adb://R5CT", ENGINES, Cache(tmp_path / "cache"))


@needs_debian
def test_a_device_without_python_is_told_from_one_that_is_away(url: str) -> None:
    with pytest.raises(
        DeviceError, match=r"no-such-python.*not found.*\(Android brings none\)"
    ) as e:
        adb_device(url.replace(sys.executable, "no-such-python"), ENGINES, Cache())
    assert "tried" not in str(e.value)


@needs_debian
def test_a_connection_cut_in_the_middle_of_a_file_ends_in_a_result(
    board: Board, network: Proxy, remote: RemoteDevice, tmp_path: Path
) -> None:
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(8 << 20))
    network.cut(after_bytes=3 << 20)
    assert digest_there(remote, file, tmp_path) == sha256_file(file)
    assert not list(there(board).glob("files/*.part"))


@needs_debian
def test_a_device_that_starts_again_ends_in_a_result(
    board: Board, remote: RemoteDevice, tmp_path: Path
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(b"what it was sent before")
    assert digest_there(remote, file, tmp_path) == sha256_file(file)
    board.kill()
    restart = threading.Timer(1.0, board.boot)
    restart.start()
    assert digest_there(remote, file, tmp_path) == sha256_file(file)
    restart.join()


@needs_debian
def test_a_connection_that_falls_silent_ends_in_an_error_in_time(
    network: Proxy, remote: RemoteDevice, tmp_path: Path
) -> None:
    """The adb client and its server notice nothing: the silence of the agent tells it."""
    begun = time.monotonic()
    network.fall_silent()
    with pytest.raises(EdgeSdkError, match="has said nothing for 8 s"):
        remote.run_step(f"{DRILL}:hang", {}, folder=tmp_path / "step", timeout_s=6)
    assert time.monotonic() - begun < 6 + 5


@needs_debian
def test_a_device_that_is_gone_ends_in_an_error_in_time_and_leaves_nothing(
    board: Board, url: str, remote: RemoteDevice, tmp_path: Path
) -> None:
    begun = time.monotonic()
    killer = threading.Timer(0.3, board.kill)
    killer.start()
    with pytest.raises(DeviceError, match="is offline; plug it in again"):
        remote.run_step(f"{DRILL}:hang", {}, folder=tmp_path / "step", timeout_s=1)
    assert time.monotonic() - begun < 1 + 5
    killer.join()
    with pytest.raises(DeviceError, match="is offline; plug it in again"):
        adb_device(url, ENGINES, Cache())
    deadline = time.monotonic() + 20
    while left := processes_of(board):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@needs_debian
def test_an_adb_that_hangs_ends_in_an_error_in_time(
    client: Client, remote: RemoteDevice, tmp_path: Path
) -> None:
    assert remote.link is not None
    client.freeze()
    os.killpg(remote.link.pid, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(DeviceError, match="adb devices did not end within 1 s"):
        remote.run_step(f"{DRILL}:answer", {}, folder=tmp_path / "step", timeout_s=1)
    assert time.monotonic() - begun < 1 + 5


def there(board: Board) -> Path:
    """The agent's folder."""
    return board.home / ".cache/edgesdk-device"


def digest_there(device: RemoteDevice, file: Path, folder: Path) -> str:
    """Of a file, as the device has it."""
    found = device.run_step(f"{DRILL}:digest", {"file": file}, folder=folder / "step", timeout_s=60)
    return str(found.response["sha256"])


def processes_of(board: Board) -> list[str]:
    """What runs as the board's user."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={board.home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.nightly
@needs_debian
def test_a_deploy_over_adb_measures_there(url: str, small_mlp: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.standard_normal((24, 1, 64)).astype(np.float32))
    deploy(
        small_mlp,
        profile="x86",
        device=url,
        samples=str(tmp_path / "rows.npz"),
        out=tmp_path / "out",
        cache=Cache(tmp_path / "cache"),
        settings=QUICK,
        recipes=("onnxruntime/w8a8-static",),
        accept_undecided=True,
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["environment"]["device"] == url
    assert all(row["latency"] for row in report["rows"] if row["status"] != "error")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("adb://", r"'adb://' is no address.*adb devices"),
        ("adb://?python=x", "is no address"),
        ("ssh://board", "is no address"),
        ("adb://R5CT?pyhton=x", "unknown option 'pyhton'.*python"),
        ("adb://R5CT?host-key=known", "legal: python, wheelhouse"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        parse_address(url)


@pytest.mark.parametrize(
    ("url", "serial"),
    [
        ("adb://R5CT20ABCDE", "R5CT20ABCDE"),
        ("adb://192.168.1.7:5555/?python=python3.12", "192.168.1.7:5555"),
        ("adb://[fe80::1]:5555", "[fe80::1]:5555"),
        ("adb://adb-R5CT-kX._adb-tls-connect._tcp", "adb-R5CT-kX._adb-tls-connect._tcp"),
        ("adb://a%20board", "a board"),
    ],
)
def test_an_address_names_a_device_by_its_serial_number(url: str, serial: str) -> None:
    assert parse_address(url)[0] == serial


# Lines of states that the adbd of the tests cannot be in, in the words of adb's source.
TOLD = """* daemon not running; starting now at tcp:5037
List of devices attached
R5CT20ABCDE\tdevice
192.168.1.7:5555\toffline
a board\tunauthorized
0123\tno permissions (missing udev rules? user is in the plugdev group); see [http://example]

"""


def test_what_adb_tells_of_devices_is_understood() -> None:
    found = parse_devices(TOLD)
    assert list(found) == ["R5CT20ABCDE", "192.168.1.7:5555", "a board", "0123"]
    told = {serial: advice(serial, state) for serial, state in found.items()}
    assert told["R5CT20ABCDE"] == ""
    assert "adb reconnect offline" in told["192.168.1.7:5555"]
    assert "allow this machine on the device's screen" in told["a board"]
    assert "udev rule" in told["0123"]
