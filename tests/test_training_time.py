"""Time for training, from the command line to the step that trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgesdk.arrays import save_arrays
from edgesdk.cache import Cache
from edgesdk.cli.app import app
from edgesdk.compressing import Compression, compress_model
from edgesdk.config import read_config
from edgesdk.errors import BudgetError, StepFailed
from edgesdk.events import Event
from edgesdk.isolate import PROGRESS, following
from edgesdk.model import read_model
from edgesdk.samples import read_samples
from edgesdk.structure.judge import deal
from edgesdk.train import unavailable
from edgesdk.workshop import Limits, Workshop

NAME = "prune40-raw+distill+fp32"
trains = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    save_arrays(path, {"image": rng.normal(size=(48, 3, 32, 32)).astype(np.float32)})
    return path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    path = tmp_path / "few.npz"
    save_arrays(path, {"image": rng.normal(size=(2, 3, 32, 32)).astype(np.float32)})
    return path


@trains
def test_training_has_its_time_its_rows_and_its_own_result(
    small_cnn: Path, images: Path, few: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")

    def made(seconds: float | None, out: str) -> tuple[Compression, list[Event]]:
        heard: list[Event] = []
        found = compress_model(
            small_cnn,
            NAME,
            profile="x86",
            samples=str(few),
            calibration=str(images),
            training_s=seconds,
            out=tmp_path / out,
            cache=cache,
            listen=heard.append,
        )
        return found, [event for event in heard if event.stage == "distill"]

    found, events = made(0.2, "first")
    assert "train" in found.notes[-1]
    told = [event.message for event in events if event.state == "progress"]
    assert told[0].startswith("epoch 0: ")
    assert "on rows held out" in told[-1]
    _, again = made(0.2, "again")
    assert again[-1].cached
    assert not [event for event in again if event.state == "progress"]
    _, longer = made(0.3, "longer")
    assert not longer[-1].cached


def test_the_limit_of_a_step_grows_by_the_time_that_it_was_given(
    small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    facts = read_model(small_cnn)
    samples = read_samples(str(images), facts.inputs, store=tmp_path / "store")
    request = {
        "model": str(small_cnn),
        "shapes": None,
        "rows": samples.evaluation.subset(1).to_json(),
        "how": "cleaned",
    }
    workshop = Workshop(cache=Cache(tmp_path / "cache"), limits=Limits(timeout_s=1e-3))
    with pytest.raises(StepFailed, match="did not end within"):
        workshop.step("prepare", request, {"model": facts.sha256})
    assert workshop.step("prepare", request, {"model": facts.sha256}, more_s=120.0).path.exists()


def test_what_a_step_tells_is_heard_line_by_line(tmp_path: Path) -> None:
    heard: list[str] = []
    with following(tmp_path, heard.append), (tmp_path / PROGRESS).open("w") as stream:
        stream.write("one\ntwo\nhal")
    assert heard == ["one", "two"]
    with following(tmp_path / "elsewhere", heard.append):
        pass
    assert heard == ["one", "two"]


def test_training_time_is_read_and_refused_like_other_times(
    small_cnn: Path, tmp_path: Path
) -> None:
    file = tmp_path / "edgesdk.toml"
    file.write_text('model = "m.onnx"\ntraining_time = "2m"\n')
    assert read_config(file).training_s == 120.0
    file.write_text('model = "m.onnx"\ntraining_time = "2 weeks"\n')
    with pytest.raises(BudgetError, match="training time '2 weeks': unknown unit"):
        read_config(file)
    for command in ("compress", "deploy"):
        words = (command, str(small_cnn), "--recipe", "fp32", "-p", "x86", "--training-time", "0s")
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert "a training time of 0 s" in result.output


def test_fewer_rows_keep_their_roles() -> None:
    rows = deal(1500, 2000)
    some = rows.at_most(400)
    assert 390 <= len(some.fitted) + len(some.choosing) + len(some.judging) <= 400
    assert set(some.fitted) <= set(rows.fitted)
    assert set(some.choosing) <= set(rows.choosing)
    assert set(some.judging) <= set(rows.judging)
    assert rows.at_most(1500) == rows
