"""Rows of a pipeline, what its components are given in them, and whether that is enough to calibrate on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_pipelines import (
    CAPTION,
    CHAT,
    FUSED,
    LISTEN,
    PLAIN_CHAT,
    READ,
    TWO_TOWERS,
    decoder,
    detector,
    executor_of,
    fusion,
    image_tower,
    recogniser,
    similarity,
    text_tower,
    voice,
    write_folder,
)

from edgesdk.arrays import load_arrays, save_arrays
from edgesdk.bundle.fields import Field
from edgesdk.bundle.wires import read_wiring
from edgesdk.cache import Cache
from edgesdk.coverage import (
    InputCoverage,
    component_coverage,
    pipeline_coverage,
    require_coverage,
)
from edgesdk.errors import SamplesError
from edgesdk.observing import Recorder
from edgesdk.pipeline import Pipeline, wiring_json
from edgesdk.pipeline_reader import read_pipeline
from edgesdk.pipeline_samples import Observed, observe, read_pipeline_samples
from edgesdk.report.coverage import coverage_table
from edgesdk.samples import Samples, SampleSet
from edgesdk.workshop import Limits, Workshop

COUNT = "def count(feed):\n    return {'turned': feed['turn'] + 1}\n"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(cache=Cache(tmp_path_factory.mktemp("cache")), limits=Limits(timeout_s=120))


def rows_in(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    folder.mkdir()
    for number, row in enumerate(rows):
        save_arrays(folder / f"{number:03d}.npz", row)
    return str(folder)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Observed:
    """Twelve rows of two modalities: every third lacks the image, every fourth the text."""
    folder = tmp_path_factory.mktemp("fused")
    (folder / "count.py").write_text(COUNT)
    pipeline = read_pipeline(write_folder(folder, FUSED, image_tower, text_tower, fusion))
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": rng.random((1, 3, 8, 8), np.float32),
            "ids": rng.integers(0, 11, (1, 4)),
            "turn": np.array([number]),
        }
        for number in range(12)
    ]
    for number, row in enumerate(rows):
        if number % 3 == 0:
            del row["image"]
        if number % 4 == 1:
            del row["ids"]
    source = rows_in(folder / "rows", rows)
    samples = read_pipeline_samples(source, pipeline, workshop.cache)
    return observe(workshop, pipeline, samples)


def test_components_get_rows_from_the_float_components_before_them(fused: Observed) -> None:
    seen: list[tuple[str, Any]] = []
    executor = executor_of(fused.pipeline, watch=lambda n, step, feed: seen.append((n, dict(feed))))
    both = (fused.samples.calibration, fused.samples.evaluation)
    for rows, side in zip(both, ("calibration", "evaluation"), strict=True):
        seen.clear()
        outputs = [executor.run(sample.inputs) for sample in rows]
        for name in ("image", "text", "fusion", "count"):
            want = [feed for stage, feed in seen if stage == name]
            stored: SampleSet = getattr(fused.component(name), side)
            assert len(stored) == len(want)
            for row, feed in zip(stored, want, strict=True):
                assert set(row.inputs) == set(feed)
                for tensor, array in feed.items():
                    np.testing.assert_array_equal(row.inputs[tensor], array)
        first = 0 if side == "calibration" else len(both[0])
        for number, given in enumerate(outputs):
            kept = load_arrays(fused.outputs / f"{first + number:06d}.npz")
            assert set(kept) == set(given)
            np.testing.assert_array_equal(kept["logits"], given["logits"])
    assert fused.component("fusion").uniform_shapes["has_text"] == (1, 1)
    assert fused.component("fusion").fingerprint != fused.component("image").fingerprint


def test_the_result_is_kept_until_the_pipeline_or_the_code_changes(
    fused: Observed, workshop: Workshop
) -> None:
    again = observe(workshop, fused.pipeline, fused.samples)
    assert again.done.cached
    code = Path(fused.pipeline.functions["count"].rpartition(":")[0])
    code.write_text(COUNT.replace("+ 1", "+ 2"))
    changed = observe(workshop, fused.pipeline, fused.samples)
    assert not changed.done.cached
    assert (
        changed.component("image").calibration.folder != again.component("image").calibration.folder
    )
    code.write_text("def count(feed):\n    return {'turned': feed['turm']}\n")
    with pytest.raises(SamplesError, match=r"count\.py:2.*feed\['turm'\]"):
        observe(workshop, fused.pipeline, fused.samples)
    code.write_text(COUNT)


def test_of_a_loop_some_steps_are_kept_evenly_spread(tmp_path: Path, workshop: Workshop) -> None:
    pipeline = read_pipeline(write_folder(tmp_path, LISTEN, voice))
    rng = np.random.default_rng(1)
    rows = [{"frames": rng.normal(size=(20, 4)).astype(np.float32)} for _ in range(2)]
    samples = read_pipeline_samples(rows_in(tmp_path / "rows", rows), pipeline, workshop.cache)
    found = observe(workshop, pipeline, samples, most=4).component("voice")
    frames = [row.inputs["frame"] for row in found.evaluation]
    whole = samples.evaluation[0].inputs["frames"]
    np.testing.assert_array_equal(np.concatenate(frames), whole[::4])
    assert found.uniform_shapes == {"frame": (1, 4), "state": (2, 1, 8)}


def test_the_recorder_keeps_at_least_as_many_steps_as_asked_for(tmp_path: Path) -> None:
    for total in (1, 3, 4, 7, 8, 9, 31, 100):
        recorder = Recorder(tmp_path / str(total), 4)
        (tmp_path / str(total)).mkdir()
        for step in range(total):
            recorder.look("voice", step, {"x": np.array([step])})
        recorder.end_row(0)
        kept = recorder.rows["voice"]
        assert min(total, 4) <= len(kept) < 8
        rows = SampleSet(folder=tmp_path / str(total) / "voice", rows=tuple(range(len(kept))))
        steps = [int(row.inputs["x"][0]) for row in rows]
        assert steps[0] == 0
        assert len({b - a for a, b in pairwise(steps)}) <= 1


def test_a_component_that_no_row_reaches_is_named(tmp_path: Path, workshop: Workshop) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    pipeline = read_pipeline(write_folder(tmp_path, FUSED, image_tower, text_tower, fusion))
    rng = np.random.default_rng(2)
    rows = [
        {"ids": rng.integers(0, 11, (1, 4)), "turn": np.array([number])} for number in range(10)
    ]
    samples = read_pipeline_samples(rows_in(tmp_path / "rows", rows), pipeline, workshop.cache)
    with pytest.raises(
        SamplesError, match=r"component 'image' was never run.*image.*hold all inputs"
    ):
        observe(workshop, pipeline, samples).component("image")
    found = pipeline_coverage(pipeline.wiring, samples.calibration)
    with pytest.raises(
        SamplesError, match=r"input 'image' \(image\) is in none of the 2 calibration"
    ):
        require_coverage(found)
    with pytest.raises(SamplesError, match="input 'turn' is missing"):
        read_pipeline_samples(
            rows_in(tmp_path / "bad", [{"ids": rows[0]["ids"]}]), pipeline, workshop.cache
        )


def test_coverage_of_rows_that_show_everything_warns_of_nothing(fused: Observed) -> None:
    wiring = fused.pipeline.wiring
    found = [
        *pipeline_coverage(wiring, fused.samples.evaluation),
        *component_coverage(wiring, "fusion", fused.component("fusion").evaluation),
    ]
    assert require_coverage(tuple(found)) == ()
    by_name = {(item.component, item.input): item for item in found}
    assert by_name["", "image"].rows < len(fused.samples.evaluation)
    assert by_name["fusion", "image"].modalities == ("image",)
    assert by_name["fusion", "has_text"].modalities == ("text",)
    console = Console(record=True, width=120)
    console.print(coverage_table(found))
    shown = console.export_text()
    assert "fusion.image" in shown
    assert "refused" not in shown


def coverage_of(
    folder: Path, wired: Pipeline, rows: Sequence[dict[str, Any]]
) -> dict[str, InputCoverage]:
    folder.mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        save_arrays(folder / f"{number:06d}.npz", {f"input.{n}": a for n, a in row.items()})
    found = component_coverage(
        wired.wiring, "text", SampleSet(folder=folder, rows=tuple(range(len(rows))))
    )
    return {item.input: item for item in found}


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ([np.full((1, 8), 5)] * 4, "input 'ids' of component 'text' is 5 in every element"),
        ([np.arange(8)[None]] * 4, "is the same in all 4 calibration rows"),
        (
            [np.eye(8, dtype=int)[None, i, :] for i in range(4)],
            "holds only 0 and 1, as a mask does",
        ),
        (
            [np.array([[i + 1, 2, 3] + [0] * 7]) for i in range(4)],
            "is padding for 70% of its length in the middle row",
        ),
        (
            [np.array([[0] * (i + 5) + [9] + [0] * (40 - i) + [3]]) for i in range(4)],
            "is 0 in 96% of its elements",
        ),
        ([np.random.default_rng(i).integers(0, 11, (1, 8)) for i in range(4)], ""),
    ],
)
def test_rows_that_show_little_are_warned_of(tmp_path: Path, rows: list[Any], warning: str) -> None:
    pipeline = read_pipeline(
        write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    )
    (found,) = coverage_of(tmp_path / "rows", pipeline, [{"ids": row} for row in rows]).values()
    assert warning in found.warning
    assert bool(warning) == bool(found.warning)
    assert found.modalities == ("text",)
    assert json.loads(json.dumps(found.to_json()))["rows"] == 4


def test_no_row_at_all_is_refused(tmp_path: Path) -> None:
    pipeline = read_pipeline(
        write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    )
    found = tuple(coverage_of(tmp_path / "rows", pipeline, []).values())
    with pytest.raises(
        SamplesError, match="no calibration row reaches input 'ids' of component 'text'"
    ):
        require_coverage(found)


def test_modalities_are_followed_through_loops(tmp_path: Path, workshop: Workshop) -> None:
    pipeline = read_pipeline(write_folder(tmp_path, CHAT.replace("END", "[2]"), decoder))
    rng = np.random.default_rng(3)
    rows = [
        {"prompt": rng.integers(0, 11, (1, n + 2)), "mask": np.ones((1, n + 2), np.int64)}
        for n in range(6)
    ]
    samples = read_pipeline_samples(rows_in(tmp_path / "rows", rows), pipeline, workshop.cache)
    assert isinstance(samples, Samples)
    given = observe(workshop, pipeline, samples).component("decoder")
    lengths = {row.inputs["past_key"].shape[1] for row in given.evaluation}
    assert 0 in lengths
    assert len(lengths) > 3
    found = component_coverage(pipeline.wiring, "decoder", given.evaluation)
    assert require_coverage(found) == ()
    assert {item.modalities for item in found} == {("text",)}


def test_wirings_survive_json(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    (tmp_path / "crop.py").write_text("")
    makers = (image_tower, text_tower, similarity, fusion, voice, decoder, detector, recogniser)
    write_folder(tmp_path, "", *makers, first={"memory": True}, plain={"cache": False})
    for text in (TWO_TOWERS, FUSED, LISTEN, CHAT.replace("END", "2"), PLAIN_CHAT, CAPTION, READ):
        (tmp_path / "pipeline.toml").write_text(text)
        wiring = read_pipeline(tmp_path / "pipeline.toml").wiring
        document = json.loads(json.dumps(wiring_json(wiring)))
        assert read_wiring(Field("wiring", document)) == wiring
