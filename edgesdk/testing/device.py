"""What every device must keep, as tests: inherit, give the device, run pytest."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.backend import require_backend
from edgesdk.device.base import Device
from edgesdk.errors import DeviceError, EdgeSdkError, ModelError, StepFailed
from edgesdk.machine import FEATURES_BY_ARCH
from edgesdk.measure.counting import compare_counts, count_runs
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.recipe import Recipe
from edgesdk.samples import INPUT_PREFIX, SampleSet
from edgesdk.testing.graphs import build

_DRILL = "edgesdk.device.drill"
_ENGINE = "onnxruntime"
_GRACE_S = 5.0
"""A limit may be overrun by that much."""


class DeviceConformance:
    """Inherit and define the fixture `device`, with onnxruntime on it."""

    @pytest.fixture
    def device(self) -> Device:
        """The device under test."""
        raise NotImplementedError("define the fixture `device` in the class that inherits")

    def test_it_says_what_it_is(self, device: Device) -> None:
        machine = device.machine()
        assert machine.features <= frozenset(FEATURES_BY_ARCH[machine.arch])
        assert machine.logical_cores >= 1

    def test_an_engine_has_a_version_or_a_reason(self, device: Device) -> None:
        found = device.engines([_ENGINE, "no-such-engine"])
        assert found[_ENGINE].version[0].isdigit()
        assert found[_ENGINE].unavailable is None
        assert "no-such-engine" in (found["no-such-engine"].unavailable or "")

    def test_a_step_answers_and_its_files_come_back(self, device: Device, tmp_path: Path) -> None:
        found = device.run_step(
            f"{_DRILL}:answer", {"a": [1, "x"]}, folder=tmp_path / "step", timeout_s=120
        )
        assert found.response["a"] == [1, "x"]
        assert found.response["pid"] != os.getpid()
        assert found.seconds > 0
        assert (tmp_path / "step/left.txt").read_text() == "done\n"

    def test_an_error_comes_back_as_it_was(self, device: Device, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such thing"):
            device.run_step(
                f"{_DRILL}:refuse", {"message": "no such thing"}, folder=tmp_path, timeout_s=120
            )

    def test_a_crash_is_told_apart(self, device: Device, tmp_path: Path) -> None:
        with pytest.raises(StepFailed, match="SIGSEGV") as caught:
            device.run_step(f"{_DRILL}:crash", {}, folder=tmp_path, timeout_s=120)
        assert caught.value.kind == "crash"

    def test_what_hangs_ends_at_its_limit(self, device: Device, tmp_path: Path) -> None:
        begun = time.monotonic()
        with pytest.raises(StepFailed, match="did not end within") as caught:
            device.run_step(f"{_DRILL}:hang", {}, folder=tmp_path, timeout_s=4)
        assert caught.value.kind == "timeout"
        assert time.monotonic() - begun < 4 + _GRACE_S

    def test_its_engine_computes_what_the_standard_says(
        self, device: Device, tmp_path: Path
    ) -> None:
        target, inputs, rows, expected = _case(tmp_path)
        device.run_step(
            "edgesdk.steps:reference",
            {
                "backend": target.backend,
                "artifact": target.artifact,
                "execution": "fp32",
                "threads": 1,
                "rows": rows,
            },
            folder=tmp_path / "reference",
            timeout_s=300,
        )
        assert len(inputs.rows) == len(rows)
        found = load_arrays(tmp_path / "reference/outputs/000000.npz")
        assert found.keys() == expected.keys()
        for name, wanted in expected.items():
            assert np.allclose(found[name], wanted, rtol=1e-4, atol=1e-5), name

    def test_a_runner_rests_wakes_and_ends(self, device: Device, tmp_path: Path) -> None:
        with device.start_runner(tmp_path / "runner.log", threads=1) as runner:
            told = runner.ask({"do": "facts"}, timeout_s=120)
            assert told["own"][0] > 0
            runner.freeze()
            runner.thaw()
            assert runner.ask({"do": "facts"}, timeout_s=120)["own"] == told["own"]
            runner.close()
            runner.close()
            with pytest.raises(EdgeSdkError):
                runner.ask({"do": "facts"}, timeout_s=120)

    def test_a_runner_that_is_frozen_misses_its_time(self, device: Device, tmp_path: Path) -> None:
        with device.start_runner(tmp_path / "runner.log", threads=1) as runner:
            runner.ask({"do": "facts"}, timeout_s=120)
            runner.freeze()
            begun = time.monotonic()
            with pytest.raises(StepFailed, match="did not end within") as caught:
                runner.ask({"do": "facts"}, timeout_s=1)
            assert caught.value.kind == "timeout"
            assert time.monotonic() - begun < 1 + _GRACE_S

    def test_instructions_repeat_where_they_are_counted(
        self, device: Device, tmp_path: Path
    ) -> None:
        target, inputs, *_ = _case(tmp_path)
        if device.tells != "instructions":
            with pytest.raises(DeviceError, match="nothing counts"):
                count_runs(target, inputs, Settings(), device, tmp_path / "logs")
            return
        old, new = (count_runs(target, inputs, Settings(), device, tmp_path / n) for n in "ab")
        assert min(map(min, old.runs)) > 1000
        assert old.environment[_ENGINE] == device.engines((_ENGINE,))[_ENGINE].version
        same, ratio = compare_counts((target, old), (target, new), device)
        assert same.latency is None
        assert same.instructions is not None
        # Of so small a graph: in real models the Python around the engine does not show.
        assert ratio.speedup.value == pytest.approx(1.0, rel=1e-2)


def _case(folder: Path) -> tuple[Target, Inputs, SampleSet, dict[str, np.ndarray]]:
    """A small convolutional network as an artifact of the engine, with a row of inputs."""
    case = build("convolution")
    for name in ("model", "artifact"):
        (folder / name).mkdir()
    model = case.write(folder / "model")
    artifact = require_backend(_ENGINE).convert(model, Recipe.parse("fp32"), folder / "artifact")
    feed = case.feeds[0]
    rows = SampleSet(folder=folder / "rows", rows=(0,))
    (file,) = rows.paths()
    file.parent.mkdir(parents=True)
    save_arrays(file, {INPUT_PREFIX + name: value for name, value in feed.items()})
    inputs = Inputs(names=tuple(feed), rows=(file,), prefix=INPUT_PREFIX)
    return Target(backend=_ENGINE, artifact=artifact), inputs, rows, case.expected(feed)
