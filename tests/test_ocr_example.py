"""The example that the demo runs: rendering, decoding, and how well the float model reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from examples.ocr import metric
from examples.ocr.render import HEIGHT, MAX_LENGTH, MIN_LENGTH, WIDTH, preprocess, render

texts = st.text(alphabet="abc ", max_size=8)


def test_the_same_seed_draws_the_same_lines() -> None:
    first, again = render(3, seed=5), render(3, seed=5)
    assert [text for _, text in first] == [text for _, text in again]
    assert all(a.tobytes() == b.tobytes() for (a, _), (b, _) in zip(first, again, strict=True))


def test_other_seeds_draw_other_lines() -> None:
    assert render(3, seed=5)[0][1] != render(3, seed=6)[0][1]


def test_a_line_becomes_one_input_of_fixed_size_in_range() -> None:
    for image, text in render(20, seed=1):
        x = preprocess(image)
        assert x.shape == (1, 3, HEIGHT, WIDTH)
        assert x.dtype == np.float32
        assert np.abs(x).max() <= 1
        assert MIN_LENGTH <= len(text) <= MAX_LENGTH


def test_the_float_model_reads_most_lines_without_an_error(rec_model: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(rec_model, providers=["CPUExecutionProvider"])
    exact, characters = [], []
    for image, text in render(25, seed=0):
        (probabilities,) = session.run(None, {"x": preprocess(image)})
        outputs, labels = {"probabilities": probabilities}, {"label": np.array(text)}
        exact.append(metric.exact_line(outputs, labels))
        characters.append(metric.character_accuracy(outputs, labels))
    assert np.mean(exact) >= 0.8
    assert np.mean(characters) >= 0.95


def test_repeated_classes_merge_and_blanks_part_them() -> None:
    classes = [1, 1, 0, 1, 2, 2, 0, 0, 3]
    probabilities = np.eye(4, dtype=np.float32)[classes]
    assert metric.decode(probabilities, ("", "a", "b", "c")) == "aabc"


@given(texts, texts, texts)
def test_the_distance_of_texts_is_a_metric(a: str, b: str, c: str) -> None:
    assert (metric.distance(a, b) == 0) == (a == b)
    assert metric.distance(a, b) == metric.distance(b, a)
    assert metric.distance(a, c) <= metric.distance(a, b) + metric.distance(b, c)


@given(texts, st.characters(min_codepoint=97, max_codepoint=99), st.integers(0, 8))
def test_one_more_character_is_a_distance_of_one(text: str, extra: str, place: int) -> None:
    assert metric.distance(text, text[:place] + extra + text[place:]) == 1
