"""Whole pipelines of small real graphs on onnxruntime, against the same by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pipelines import (
    CAPTION,
    CHAT,
    CROP,
    FUSED,
    LISTEN,
    PLAIN_CHAT,
    READ,
    TWO_TOWERS,
    VOCABULARY,
    WIDTH,
    decoder,
    detector,
    executor_of,
    fusion,
    image_tower,
    recogniser,
    runs_of,
    similarity,
    text_tower,
    voice,
    write_folder,
)

from edgesdk.backend import OpenOptions, require_backend
from edgesdk.errors import PipelineError, SamplesError
from edgesdk.executor.run import Executor
from edgesdk.pipeline_reader import read_pipeline


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def run_model(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    with require_backend("onnxruntime").open(path, OpenOptions()) as session:
        return session.run(feed)


def test_two_towers_give_what_their_graphs_give_one_after_the_other(tmp_path: Path) -> None:
    path = write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    pipeline = read_pipeline(path)
    assert [str(port.info) for port in pipeline.wiring.inputs] == [
        "image: float32[batch, 3, 8, 8]",
        "ids: int64[text.batch, length]",
    ]
    assert str(pipeline.wiring.outputs[0].info) == "scores: float32[batch, text.batch]"
    feed = {
        "image": rng().random((2, 3, 8, 8), np.float32),
        "ids": np.array([[1, 4], [2, 0], [3, 3]]),
    }
    got = executor_of(pipeline).run(feed)
    image = run_model(tmp_path / "image_tower.onnx", {"image": feed["image"]})["embedding"]
    text = run_model(tmp_path / "text_tower.onnx", {"ids": feed["ids"]})["embedding"]
    want = run_model(
        tmp_path / "similarity.onnx", {"image_embedding": image, "text_embedding": text}
    )
    np.testing.assert_array_equal(got["scores"], want["scores"])


def test_what_is_missing_is_filled_masked_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(
        "def count(feed):\n    return {'turned': feed['turn'] + 1}\n"
    )
    path = write_folder(tmp_path, FUSED, image_tower, text_tower, fusion)
    seen: list[str] = []
    run = executor_of(read_pipeline(path), watch=lambda name, step, feed: seen.append(name)).run
    image = rng().random((2, 3, 8, 8), np.float32)
    feed = {"image": image, "ids": np.array([[1, 2], [3, 4]]), "turn": np.array([5, 6])}

    def logits(*missing: str) -> Any:
        return run({name: array for name, array in feed.items() if name not in missing})

    whole = logits()
    assert set(whole) == {"logits", "turned", "seen"}
    assert whole["turned"].tolist() == [6, 7]
    alone = logits("ids")["logits"]
    seen.clear()
    assert "seen" not in logits("image")
    assert seen == ["text", "fusion", "count"]
    nothing = logits("image", "ids")["logits"]
    np.testing.assert_array_equal(nothing, np.zeros((2, 3)))
    np.testing.assert_allclose(
        alone + logits("image")["logits"], whole["logits"], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(SamplesError, match="input 'turn' is missing"):
        logits("turn")
    with pytest.raises(SamplesError, match="no input named more"):
        run({**feed, "more": image})


def test_a_value_given_at_the_input_stands_for_it_everywhere(tmp_path: Path) -> None:
    text = TWO_TOWERS.replace(
        'ids = "text"', 'ids = { modality = "text", missing = { value = 3, shape = ["batch", 2] } }'
    )
    path = write_folder(tmp_path, text, image_tower, text_tower, similarity)
    run = executor_of(read_pipeline(path)).run
    image = rng().random((2, 3, 8, 8), np.float32)
    want = run({"image": image, "ids": np.full((2, 2), 3)})
    np.testing.assert_array_equal(run({"image": image})["scores"], want["scores"])


def test_a_state_is_carried_from_frame_to_frame(tmp_path: Path) -> None:
    pipeline = read_pipeline(write_folder(tmp_path, LISTEN, voice))
    executor = executor_of(pipeline)
    frames = rng().normal(size=(5, 4)).astype(np.float32)
    want, state = [], np.zeros((2, 1, WIDTH), np.float32)
    for frame in frames:
        made = run_model(tmp_path / "voice.onnx", {"frame": frame[None], "state": state})
        want.append(made["speech"])
        state = made["state_out"]
    whole = executor.run({"frames": frames})
    np.testing.assert_array_equal(whole["speech"], np.concatenate(want))
    np.testing.assert_array_equal(whole["state"], state)

    stream = executor.stream({"frames": frames})
    steps = [step.values["speech"] for step in stream]
    np.testing.assert_array_equal(np.concatenate(steps), whole["speech"])
    assert stream.outputs is not None
    np.testing.assert_array_equal(stream.outputs["state"], state)

    live = executor.stream({}, more=({"frames": frames[i : i + 1]} for i in range(5)))
    steps = [step.values["speech"] for step in live]
    np.testing.assert_array_equal(np.concatenate(steps), whole["speech"])
    assert live.outputs is None
    with pytest.raises(SamplesError, match=r"further piece of 'frames' is float64"):
        list(executor.stream({}, more=[{"frames": frames.astype(np.float64)}]))
    with pytest.raises(SamplesError, match="further piece of 'frame'"):
        list(executor.stream({}, more=[{"frame": frames}]))


def test_a_stream_takes_pieces_of_any_size_as_they_come(tmp_path: Path) -> None:
    text = LISTEN.replace('{ each = "frames" }', '{ each = "frames", axis = 1, length = 4 }')
    executor = executor_of(read_pipeline(write_folder(tmp_path, text, voice)))
    sound = rng().normal(size=(1, 20)).astype(np.float32)
    whole = executor.run({"frames": sound})["speech"]
    assert whole.shape == (5, 1)
    cuts = [0, 3, 4, 11, 20]
    parts = [{"frames": sound[:, a:b]} for a, b in pairwise(cuts)]
    steps = [step.values["speech"] for step in executor.stream({}, more=parts)]
    np.testing.assert_array_equal(np.concatenate(steps), whole)
    with pytest.raises(
        SamplesError, match=r"2 of frames along axis 1 are left over.*takes 4 a step"
    ):
        executor.run({"frames": sound[:, :18]})


@given(length=st.integers(1, 5), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_generating_with_a_cache_equals_generating_without(
    length: int, batch: int, seed: int, chats: tuple[Executor, Executor]
) -> None:
    prompt = np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length))
    cached, plain = chats
    got = cached.run({"prompt": prompt, "mask": np.ones_like(prompt)})["tokens"]
    assert got.shape == (batch, 7)
    np.testing.assert_array_equal(got, plain.run({"prompt": prompt})["tokens"])


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Executor, Executor]:
    """The same weights with a key/value cache and without."""
    one, other = (tmp_path_factory.mktemp(word) for word in ("cached", "plain"))
    cached = write_folder(one, CHAT.replace("END", "[]"), decoder)
    plain = write_folder(other, PLAIN_CHAT, plain={"cache": False})
    return executor_of(read_pipeline(cached)), executor_of(read_pipeline(plain))


def test_generation_ends_when_every_row_has_had_an_end_token(
    tmp_path: Path, chats: tuple[Executor, Executor]
) -> None:
    prompt = np.array([[1, 2, 3], [4, 5, 6]])
    feed = {"prompt": prompt, "mask": np.ones_like(prompt)}
    free = chats[0].run(feed)["tokens"]
    ends = [int(row[2]) for row in free]
    executor = executor_of(
        read_pipeline(write_folder(tmp_path, CHAT.replace("END", str(ends)), decoder))
    )
    first = [min(i for i, token in enumerate(row) if token in ends) for row in free.tolist()]
    got = executor.run(feed)["tokens"]
    np.testing.assert_array_equal(got, free[:, : max(first) + 1])
    assert max(first) + 1 < free.shape[1]
    steps = list(executor.stream(feed))
    assert [step.number for step in steps] == list(range(max(first) + 1))
    np.testing.assert_array_equal(np.hstack([s.values["tokens"] for s in steps]), got)


def test_a_decoder_begins_where_another_component_left_off(tmp_path: Path) -> None:
    """Encoder, a first step of its own, then a loop whose token and cache start from it."""
    path = write_folder(tmp_path, CAPTION, image_tower, first={"memory": True})
    image = rng().random((1, 3, 8, 8), np.float32)
    got = executor_of(read_pipeline(path)).run({"image": image})["tokens"]
    memory = run_model(tmp_path / "image_tower.onnx", {"image": image})["embedding"]
    ids, want = np.array([[1]]), []
    for _ in range(5):
        feed = {
            "input_ids": ids,
            "memory": memory,
            "mask": np.ones_like(ids),
            "past_key": np.zeros((1, 0, WIDTH), np.float32),
            "past_value": np.zeros((1, 0, WIDTH), np.float32),
        }
        logits = run_model(tmp_path / "first.onnx", feed)["logits"]
        want.append(int(logits[0, -1].argmax()))
        ids = np.append(ids, [[want[-1]]], axis=1)
    assert got.tolist() == [want]


def test_the_app_crops_what_a_detector_found_and_a_recogniser_reads_each(tmp_path: Path) -> None:
    (tmp_path / "crop.py").write_text(CROP)
    pipeline = read_pipeline(write_folder(tmp_path, READ, detector, recogniser))
    page = np.zeros((1, 1, 6, 9), np.float32)
    page[0, 0, [1, 4]] = 1 + rng().random((2, 9), np.float32)
    executor = executor_of(pipeline)
    got = executor.run({"page": page})["letters"]
    want = [
        run_model(tmp_path / "recogniser.onnx", {"line": page[:, :, row : row + 1]})["letters"]
        for row in (1, 4)
    ]
    np.testing.assert_array_equal(got, np.concatenate(want))
    assert executor.run({"page": page * 0})["letters"].shape == (0, 0, 5)

    (tmp_path / "crop.py").write_text("def crop(feed):\n    return {'lines': feed['page'][0]}\n")
    with pytest.raises(
        PipelineError, match=r"step 'crop' gave lines: shape .* float32\[n, 1, 1, w\]"
    ):
        executor_of(pipeline).run({"page": page})
    (tmp_path / "crop.py").write_text("def crop(feed):\n    return {}\n")
    with pytest.raises(PipelineError, match="step 'crop' gave no 'lines'"):
        executor_of(pipeline).run({"page": page})


def test_a_pipeline_without_a_loop_has_no_steps(
    tmp_path: Path, chats: tuple[Executor, Executor]
) -> None:
    pipeline = read_pipeline(
        write_folder(tmp_path, TWO_TOWERS, image_tower, text_tower, similarity)
    )
    with pytest.raises(PipelineError, match="no loop, so there are no steps"):
        executor_of(pipeline).stream({})
    with pytest.raises(PipelineError, match="takes pieces of an input"):
        chats[0].stream({}, more=[])


def test_a_single_model_is_a_pipeline_of_one(tmp_path: Path) -> None:
    pipeline = read_pipeline(image_tower(tmp_path / "image.onnx"))
    assert pipeline.single.name == "model"
    image = rng().random((2, 3, 8, 8), np.float32)
    got = Executor(pipeline.wiring, runs_of(pipeline)).run({"image": image})
    want = run_model(tmp_path / "image.onnx", {"image": image})
    np.testing.assert_array_equal(got["embedding"], want["embedding"])
