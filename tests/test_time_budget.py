"""A deploy keeps its time budget: nothing is skipped in silence, nothing hangs, the best is taken."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.cache import Cache
from edgesdk.clock import OUT_OF_TIME, Clock, parse_duration, spell
from edgesdk.config import read_config
from edgesdk.decide import Status
from edgesdk.deployment import Deployment, deploy
from edgesdk.device.bounded import BoundedDevice
from edgesdk.device.local import LocalDevice
from edgesdk.errors import BudgetError, StepFailed
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.report.html import render_html
from edgesdk.report.markdown import render_markdown
from edgesdk.testing.quick import QUICK

NO_TIME = 1e-6
KNOWN = ("onnxruntime/fp32", "onnxruntime/w8a8-static")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("10 min", 600), ("1h", 3600), ("1.5h", 5400)]
)
def test_a_duration_reads_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("10", "no unit"),
        ("10 parsec", "parsec"),
        ("soon", "soon"),
        ("", "90s"),
        ("0s", "above 0"),
        ("-5m", "above 0"),
        (f"{'9' * 400}h", "above 0"),
        ("1h30m", "h30m"),
    ],
)
def test_a_duration_that_means_nothing_is_named(text: str, word: str) -> None:
    with pytest.raises(BudgetError, match=word):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_of_nothing_is_refused(seconds: float) -> None:
    with pytest.raises(BudgetError, match="above 0"):
        Clock(seconds)


@given(st.floats(min_value=0.1, max_value=1e6))
def test_a_time_is_spelt_close_to_what_it_is(seconds: float) -> None:
    number, _, unit = spell(seconds).partition(" ")
    size = {"s": 1.0, "min": 60.0, "h": 3600.0}[unit]
    assert float(number) * size == pytest.approx(seconds, rel=0.06)


def test_without_a_budget_nothing_is_refused() -> None:
    clock = Clock()
    with clock.bounding((("check", "a"),)):
        pass
    assert clock.left_s == math.inf
    clock.admit((("check", "a"),))


def test_what_the_like_took_decides_whether_a_step_fits() -> None:
    clock = Clock(1000.0)
    assert clock.expected_s((("measure", "a"),)) == 0.0
    with clock.bounding((("measure", "a"), ("check", "a"))):
        time.sleep(0.01)
    taken = clock.expected_s((("measure", "a"),))
    assert taken > 0.0
    assert clock.expected_s((("measure", "b"),)) == taken  # the nearest that is known
    assert clock.expected_s((("measure", "a"), ("measure", "b"))) == 2 * taken
    assert clock.expected_s((("check", "a"),)) == 0.0
    many = (("measure", "a"),) * 100_001  # of at least 10 ms each
    assert clock.allows(many[:1])
    assert not clock.allows(many)
    with pytest.raises(StepFailed, match="the like took") as caught:
        clock.admit(many)
    assert caught.value.kind == OUT_OF_TIME


def test_a_step_that_the_budget_cut_is_no_hung_step() -> None:
    clock = Clock(1e-6)
    with pytest.raises(StepFailed, match="was used up") as caught:
        clock.admit(())
    assert caught.value.kind == OUT_OF_TIME
    ample = Clock(1000.0)
    with pytest.raises(StepFailed) as other, ample.bounding((("check", "a"),)):
        raise StepFailed("it hung", kind="timeout")
    assert other.value.kind == "timeout"


def test_a_runner_answers_within_the_time_left_or_is_ended(tmp_path: Path) -> None:
    device = BoundedDevice(LocalDevice(), lambda: 0.0)
    assert device.name == LocalDevice.name
    with device.start_runner(tmp_path / "log.txt", threads=1) as runner:
        with pytest.raises(StepFailed) as caught:
            runner.ask({"do": "facts"}, timeout_s=60.0)
        assert caught.value.kind == "timeout"


# --- whole deploys


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "images.npz"
    rng = np.random.default_rng(0)
    image = rng.standard_normal((30, 3, 32, 32)).astype(np.float32)
    np.savez(path, image=image, label=rng.integers(0, 10, 30))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def run(model: Path, images: Path, out: Path, cache: Cache, **options: Any) -> Deployment:
    settled = {"settings": QUICK, "recipes": KNOWN, "samples": str(images), **options}
    return deploy(model, profile="x86", out=out, cache=cache, **settled)


def test_too_little_time_for_the_original_says_so(
    small_cnn: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="before the original model was measured"):
        run(small_cnn, images, tmp_path / "out", Cache(tmp_path / "c"), time_budget_s=NO_TIME)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_listed_and_the_best_so_far_is_taken(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    full = run(small_cnn, images, tmp_path / "full", cache, time_budget_s=600.0)
    assert not any(item.status == Status.NO_TIME for item in full.decision.judged)
    more = (*KNOWN, "onnxruntime/w8a8-static-weighted", "openvino/fp32")
    done = run(small_cnn, images, tmp_path / "out", cache, recipes=more, time_budget_s=NO_TIME)
    found = {item.name: item for item in done.decision.judged}
    assert set(found) == {ORIGINAL, *(item.name for item in done.plan.candidates)}
    late = [name for name, item in found.items() if item.status == Status.NO_TIME]
    assert set(late) == {"onnxruntime/w8a8-static-weighted", "openvino/fp32"}
    for name in late:
        assert found[name].reason.startswith("not tried: the time budget of 1e-06 s was used up")
    # Both finished ones are judged from the cache, which costs no time.
    assert done.decision.chosen == full.decision.chosen
    assert done.bundle is not None
    assert any("2 of 4 candidates were not tried" in note for note in done.report.notes)
    for text in (render_html(done.report), render_markdown(done.report)):
        assert "no time" in text
        assert "was used up" in text


def test_a_hung_step_ends_with_the_budget(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    run(small_cnn, images, tmp_path / "first", cache, time_budget_s=600.0)
    (tmp_path / "slow.py").write_text(
        "import time\n\ndef forever(outputs, labels):\n    time.sleep(600)\n    return 1.0\n"
    )
    done = run(
        small_cnn,
        images,
        tmp_path / "out",
        cache,
        metrics=(f"{tmp_path / 'slow.py'}:forever",),
        time_budget_s=3.0,
    )
    first, second = (item for item in done.decision.judged if item.name != ORIGINAL)
    assert (first.status, second.status) == (Status.NO_TIME, Status.NO_TIME)
    assert first.reason.startswith("check not finished: the time budget of 3 s was used up")
    assert done.decision.chosen == ORIGINAL
    assert done.bundle is not None


def test_the_budget_can_stand_in_the_project_file(tmp_path: Path) -> None:
    file = tmp_path / "edgesdk.toml"
    file.write_text('model = "m.onnx"\ntime_budget = "10m"\n')
    assert read_config(file).time_budget_s == 600.0
    file.write_text('model = "m.onnx"\ntime_budget = "10"\n')
    with pytest.raises(BudgetError, match="no unit"):
        read_config(file)
