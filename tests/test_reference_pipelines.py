"""What prepares and judges the reference pipelines, where it can be told right from wrong without them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.models.ctranslate2 import read_tensors
from benchmarks.models.ocr import LINE_HEIGHT, cut_lines, turn_lines
from benchmarks.models.pipelines import tie_last_product
from benchmarks.models.twotower import recall
from benchmarks.models.whisper import MELS, RATE, log_mel, normalized, word_errors

WORDS = st.lists(st.sampled_from("abc"), max_size=8)


@given(WORDS, WORDS, WORDS)
def test_word_errors_are_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert word_errors(a, a) == 0
    assert word_errors(a, b) == word_errors(b, a)
    assert abs(len(a) - len(b)) <= word_errors(a, b) <= max(len(a), len(b))
    assert word_errors(a, c) <= word_errors(a, b) + word_errors(b, c)


def test_ways_to_write_the_same_words_are_equal() -> None:
    assert normalized("Mr. Dash-wood: 42!") == ["mister", "dash", "wood", "four", "two"]
    assert normalized("it's 0") == ["it's", "zero"]


@pytest.mark.parametrize("hertz", [250, 1000, 4000])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    sound = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    found = log_mel(sound)
    assert found.shape == (1, MELS, 3000)
    # Slaney's scale: 200/3 Hz a mel below 1 kHz, 27 mel for a factor of 6.4 above; 81 steps to 8 kHz.
    mel = hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)
    step = (15 + 27 * np.log(8) / np.log(6.4)) / (MELS + 1)
    assert abs(int(found[0, :, 50].argmax()) - (mel / step - 1)) <= 1
    assert found.max() - found.min() == pytest.approx(2)  # 8 powers of ten, over 4


@given(st.integers(2, 9), st.integers(1, 9))
def test_recall_counts_the_diagonal(count: int, best: int) -> None:
    assert recall(np.eye(count), best) == 1
    assert recall(-np.eye(count), best) == float(best >= count)
    assert recall(np.zeros((count, count)), count - 1) == 0, "a tie with all is no hit"


def test_the_tied_product_computes_the_same_with_one_copy(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            helper.make_node("MatMul", ["x", "copy"], ["y"]),
        ],
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 9])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.ascontiguousarray(table.T), "copy"),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    feed = {"ids": np.arange(9)}
    before = list(ReferenceEvaluator(str(path)).run(None, feed))
    tie_last_product(path, "table")
    after = list(ReferenceEvaluator(str(path)).run(None, feed))
    np.testing.assert_allclose(np.asarray(after[0]), np.asarray(before[0]), rtol=1e-4, atol=1e-6)
    assert [item.name for item in onnx.load(path).graph.initializer] == ["table"]


def test_tensors_of_ctranslate2_are_read_as_they_were_written(tmp_path: Path) -> None:
    def text(word: str) -> bytes:
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"

    halves = np.arange(6, dtype=np.float16).reshape(2, 3)
    count = np.array(7, np.int8)
    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 2)
    content += text("a/weight") + struct.pack("<BIIBI", 2, 2, 3, 4, 12) + halves.tobytes()
    content += text("heads") + struct.pack("<BBI", 0, 1, 1) + count.tobytes()
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    found = read_tensors(path)
    np.testing.assert_array_equal(found["a/weight"], halves)
    assert found["heads"].dtype == np.int8
    assert int(found["heads"]) == 7
    path.write_bytes(struct.pack("<I", 99) + content[4:])
    with pytest.raises(ValueError, match="version 99"):
        read_tensors(path)


def test_a_line_is_cut_to_its_height_and_turned_back() -> None:
    page = np.zeros((1, 3, 60, 100), np.float32)
    page[:, :, 10:34, 20:44] = 1
    page[:, :, 10:34, 20:32] = -1  # dark on the left
    (line,) = cut_lines(page, [(20, 10, 44, 34)])
    assert line.shape == (3, LINE_HEIGHT, 48)
    assert line[0, 24, 4] < 0 < line[0, 24, -4]
    upside_down, upright = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    turned, same = turn_lines([line, line], [upside_down, upright])
    assert turned[0, 24, 4] > 0 > turned[0, 24, -4]
    np.testing.assert_array_equal(same, line)
