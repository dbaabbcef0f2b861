"""Devices: this machine, and processors emulated on it, keep one contract."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgesdk.cache import Cache
from edgesdk.deployment import deploy
from edgesdk.device.base import Device
from edgesdk.device.cores import CORES, Core, cores_like
from edgesdk.device.emulated import EmulatedDevice
from edgesdk.device.find import find_device, known_devices
from edgesdk.device.local import LocalDevice
from edgesdk.device.remote import RemoteDevice
from edgesdk.device.ssh import parse_address
from edgesdk.errors import BudgetError, DeviceError
from edgesdk.files import sha256_file
from edgesdk.machine import FEATURES_BY_ARCH, parse_cpuinfo
from edgesdk.profile import load_profile
from edgesdk.testing import DeviceConformance
from edgesdk.validation import validate_bundle

ENGINES = ("onnxruntime",)
ANSWER = "edgesdk.device.drill:answer"
debian_only = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("cc") is None,
    reason="emulators are unpacked from Debian packages, and counting takes a C compiler",
)


@pytest.fixture(scope="session")
def parts() -> Cache:
    """The user's cache: the parts of emulated devices are the same for all tests and runs."""
    return Cache()


class TestLocal(DeviceConformance):
    @pytest.fixture
    def device(self) -> Device:
        return LocalDevice()


@debian_only
class TestArm(DeviceConformance):
    @pytest.fixture
    def device(self, parts: Cache) -> Device:
        return EmulatedDevice("cortex-a76", ENGINES, parts)


@debian_only
class TestOldX86(DeviceConformance):
    @pytest.fixture
    def device(self, parts: Cache) -> Device:
        return EmulatedDevice("haswell", ENGINES, parts)


@pytest.fixture
def agent(parts: Cache, tmp_path: Path) -> Iterator[RemoteDevice]:
    """This machine as if it were another: all of the connection but the network."""
    command = ["env", f"XDG_CACHE_HOME={tmp_path / 'there'}", "sh", "-c"]
    device = RemoteDevice("agent:here", command, ENGINES, parts, python=sys.executable)
    yield device
    device.close()
    wait_until(lambda: not (tmp_path / "there/edgesdk-device").exists() or unlocked(tmp_path))


class TestAgent(DeviceConformance):
    @pytest.fixture
    def device(self, agent: RemoteDevice) -> Device:
        return agent


def unlocked(folder: Path) -> bool:
    """Whether no agent holds its folder any more."""
    with (folder / "there/edgesdk-device/lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Until something holds; fails where it does not within the time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def test_a_connection_that_breaks_is_made_anew(agent: RemoteDevice, tmp_path: Path) -> None:
    before = agent.run_step(ANSWER, {"a": 1}, folder=tmp_path / "1", timeout_s=60)
    assert agent.link is not None
    os.killpg(agent.link.pid, signal.SIGKILL)
    after = agent.run_step(ANSWER, {"a": 1}, folder=tmp_path / "2", timeout_s=60)
    assert after.response["pid"] != before.response["pid"]


def test_what_is_on_the_device_is_sent_once(agent: RemoteDevice, tmp_path: Path) -> None:
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(3 << 20))
    held = tmp_path / "there/edgesdk-device/files" / sha256_file(file)
    agent.run_step(ANSWER, {"file": file}, folder=tmp_path / "1", timeout_s=60)
    first = held.stat()
    assert held.read_bytes() == file.read_bytes()
    agent.run_step(ANSWER, {"file": file}, folder=tmp_path / "2", timeout_s=60)
    assert (held.stat().st_mtime_ns, held.stat().st_ino) == (first.st_mtime_ns, first.st_ino)


def test_a_machine_without_an_engine_is_sent_one(parts: Cache, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare")
    command = ["env", f"XDG_CACHE_HOME={tmp_path / 'there'}", "sh", "-c"]
    bare = str(tmp_path / "bare/bin/python")
    with closing(RemoteDevice("agent:bare", command, ENGINES, parts, python=bare)) as device:
        found = device.engines(ENGINES)["onnxruntime"]
    assert found.unavailable is None
    assert found.version == LocalDevice().engines(ENGINES)["onnxruntime"].version
    assert list((tmp_path / "there/edgesdk-device").glob("wheels-*/numpy"))


def test_two_do_not_disturb_each_other(agent: RemoteDevice, parts: Cache, tmp_path: Path) -> None:
    command = ["env", f"XDG_CACHE_HOME={tmp_path / 'there'}", "sh", "-c"]
    with pytest.raises(DeviceError, match="the device is in use: process"):
        RemoteDevice("agent:here", command, ENGINES, parts, python=sys.executable)


def test_a_device_that_is_not_there_is_told_in_its_own_words(parts: Cache) -> None:
    with pytest.raises(DeviceError, match=r"no-such-program.*not found"):
        RemoteDevice("agent:gone", ["sh", "-c", "no-such-program; exit 255"], ENGINES, parts)


def test_a_login_may_be_chatty(parts: Cache, tmp_path: Path) -> None:
    command = ["env", f"XDG_CACHE_HOME={tmp_path}", "sh", "-c"]
    chatty = "echo Welcome; sh"
    device = RemoteDevice(
        "agent:chatty", [*command, f'{chatty} -c "$0"'], ENGINES, parts, python=sys.executable
    )
    assert device.machine() == LocalDevice().machine()
    device.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ssh://", "is no address"),
        ("ssh://-oProxyCommand=x", "is no address"),
        ("ssh://me:secret@host", "no password in an address"),
        ("ssh://host:99999", "out of range"),
        ("ssh://host?pyhton=x", "unknown option 'pyhton'.*python"),
        ("ssh://host?host-key=no", "legal: known, accept-new"),
        ("ssh://host/path", "is no address"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        parse_address(url)


def test_an_address_becomes_a_command_of_openssh() -> None:
    command, options = parse_address("ssh://pi@board.local:2222?python=python3.12")
    assert command[0] == "ssh"
    assert command[-6:] == ["-p", "2222", "-l", "pi", "--", "board.local"]
    assert "StrictHostKeyChecking=yes" in command
    assert "BatchMode=yes" in command
    assert options == {"python": "python3.12"}


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.name)
def test_an_emulated_processor_shows_features_that_profiles_know(core: Core) -> None:
    found = parse_cpuinfo(core.proc_cpuinfo())
    assert found.features
    assert found.features <= frozenset(FEATURES_BY_ARCH[core.arch])
    assert len(found.cores) == 1


@pytest.mark.parametrize(
    ("profile", "core"),
    [("raspberry-pi-4", "cortex-a53"), ("raspberry-pi-5", "cortex-a76"), ("x86-avx2", "haswell")],
)
def test_a_profile_finds_the_processor_that_stands_for_it(profile: str, core: str) -> None:
    wanted = load_profile(profile)
    assert cores_like(wanted.arch, wanted.features)[0].name == core


def test_an_unknown_device_is_refused_with_the_legal_ones(parts: Cache) -> None:
    with pytest.raises(
        DeviceError, match=r"no device 'phone'; legal: local, simulated, emulated:cortex-a53"
    ):
        find_device("phone", ENGINES, parts)
    with pytest.raises(DeviceError, match=r"'cortex-a67'.*cortex-a76"):
        find_device("emulated:cortex-a67", ENGINES, parts)
    assert {item.name for item in known_devices()} >= {"local", "emulated:haswell"}


@debian_only
def test_it_is_the_processor_of_its_profile(parts: Cache) -> None:
    machine = EmulatedDevice("cortex-a76", ENGINES, parts).machine()
    assert machine.arch == "aarch64"
    assert machine.cpu == "Cortex-A76"
    assert machine.features == load_profile("raspberry-pi-5").features


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product of 8-bit integers, as quantizers write it: u8 times s8, full ranges."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    weight = rng.integers(-128, 128, (256, 64)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [32, 256])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [32, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("products") / "model.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    np.savez(path.with_name("rows.npz"), x=rng.integers(0, 256, (8, 32, 256)).astype(np.uint8))
    return path


def outputs_on(device: Device, model: Path, folder: Path) -> Iterator[np.ndarray]:
    """The output of each row of the samples beside the model."""
    from edgesdk.model import read_model
    from edgesdk.samples import read_samples

    read = read_samples(
        str(model.with_name("rows.npz")), read_model(model).inputs, store=folder / "store"
    )
    device.run_step(
        "edgesdk.steps:reference",
        {
            "backend": "onnxruntime",
            "artifact": model,
            "execution": "fp32",
            "threads": 1,
            "rows": read.evaluation,
        },
        folder=folder / device.name.replace(":", "-"),
        timeout_s=300,
    )
    for file in sorted((folder / device.name.replace(":", "-") / "outputs").glob("*.npz")):
        with np.load(file) as arrays:
            yield arrays["y"]


@debian_only
def test_integer_products_are_exact_on_arm_and_saturate_on_old_x86(
    products: Path, tmp_path: Path, parts: Cache
) -> None:
    """Sums of u8s8 products in 16 bits clip without VNNI: wrong there, and only there."""
    here = list(outputs_on(LocalDevice(), products, tmp_path))
    arm = list(outputs_on(EmulatedDevice("cortex-a76", ENGINES, parts), products, tmp_path))
    old = list(outputs_on(EmulatedDevice("haswell", ENGINES, parts), products, tmp_path))
    feed = np.load(products.with_name("rows.npz"))["x"]
    assert len(here) == len(arm) == len(old) > 0
    assert len(feed) >= len(here)
    for exact, same, clipped in zip(here, arm, old, strict=True):
        np.testing.assert_array_equal(same, exact)
        assert np.abs(clipped - exact).max() > 0.05 * np.ptp(exact)


@pytest.mark.nightly
@debian_only
def test_dot_products_save_instructions(products: Path, tmp_path: Path, parts: Cache) -> None:
    """A Cortex-A76 has them, a Cortex-A53 has not: the engine takes other kernels."""
    from edgesdk.measure.counting import count_runs
    from edgesdk.measure.settings import Inputs, Settings, Target

    with np.load(products.with_name("rows.npz")) as arrays:
        np.savez(tmp_path / "row.npz", x=arrays["x"][0])
    inputs = Inputs(names=("x",), rows=(tmp_path / "row.npz",))
    target = Target(backend="onnxruntime", artifact=products)
    counts = {}
    for core in ("cortex-a53", "cortex-a76"):
        device = EmulatedDevice(core, ENGINES, parts)
        (runs,) = count_runs(target, inputs, Settings(), device, tmp_path / core).runs
        counts[core] = min(runs)
    assert counts["cortex-a76"] < 0.7 * counts["cortex-a53"]


@debian_only
def test_a_deploy_to_an_emulated_processor_shows_no_times(
    small_mlp: Path, tmp_path: Path, parts: Cache
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 1, 64)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x)
    done = deploy(
        small_mlp,
        profile="raspberry-pi-5",
        device="emulated:cortex-a76",
        samples=str(tmp_path / "rows.npz"),
        out=tmp_path / "out",
        cache=parts,
        recipes=("onnxruntime/w8a8-static",),
        accept_undecided=True,
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    tried = [row for row in report["rows"] if row["instructions"] is not None]
    assert len(tried) >= 2
    assert {row["evidence"] for row in tried} == {"emulated"}
    assert all(row["latency"] is None and row["peak_mib"] is None for row in report["rows"])
    for row in tried:
        (output,) = row["elsewhere"]["outputs"]
        assert (row["elsewhere"]["evidence"], row["elsewhere"]["rows"]) == ("emulated", 8)
        assert output["largest"] < (1e-5 if row["name"] == "original" else 0.02)
    assert done.bundle is not None
    manifest = json.loads((done.bundle / "manifest.json").read_text())
    kinds = {item["name"]: item["evidence"] for item in manifest["measured"]}
    assert kinds["instructions"] == "emulated"
    assert kinds["artifact_size"] == "measured"
    assert not [name for name in kinds if "latency" in name or "memory" in name]
    there = manifest["environment"]
    assert (there["cpu"], there["arch"]) == ("Cortex-A76", "aarch64")
    assert there["onnxruntime"] == LocalDevice().engines(ENGINES)["onnxruntime"].version
    checked = validate_bundle(done.bundle, device="emulated:cortex-a76")
    assert checked.passed
    assert checked.headline == "the bundle is whole and does its job on emulated:cortex-a76"


def test_times_and_memory_cannot_be_asked_of_an_emulated_processor(small_mlp: Path) -> None:
    from edgesdk.budget import Budget, parse_budget

    for budget in (Budget(limits=parse_budget("latency=20ms")), Budget(objective="memory")):
        with pytest.raises(BudgetError, match="tells neither times nor memory"):
            deploy(small_mlp, profile="raspberry-pi-5", device="emulated:cortex-a76", budget=budget)


def test_another_processor_than_the_profiles_is_refused_and_a_fitting_one_named(
    small_mlp: Path,
) -> None:
    with pytest.raises(DeviceError, match="--device emulated:cortex-a76"):
        deploy(small_mlp, profile="raspberry-pi-5")
