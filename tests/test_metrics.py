from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.errors import SamplesError
from edgesdk.metrics import load_metric, rank_correlation


def figure(name: str, rows: list[tuple[Any, Any]]) -> float:
    """The metric of rows of (output, label)."""
    metric = load_metric(name)
    scores = [
        np.atleast_1d(np.asarray(metric.score({"y": np.asarray(o)}, {"label": np.asarray(t)})))
        for o, t in rows
    ]
    table = np.full((len(scores), max(map(len, scores))), np.nan)
    for row, score in zip(table, scores, strict=True):
        row[: len(score)] = score
    return metric.aggregate(table, np.arange(len(rows)))


LOGITS = np.array([[0.1, 0.7, 0.2, 0.0, 0.0, 0.0, 0.0]], np.float32)


def test_top_k_counts_the_class_among_the_k_highest() -> None:
    assert figure("top1", [(LOGITS, 1), (LOGITS, 2)]) == 0.5
    assert figure("top5", [(LOGITS, 2), (LOGITS, 6), (LOGITS, [4])]) == pytest.approx(2 / 3)
    batch = np.concatenate([LOGITS, LOGITS])
    assert figure("top1", [(batch, [1, 0])]) == 0.5


def test_accuracy_takes_scores_class_numbers_and_probabilities() -> None:
    assert figure("accuracy", [(LOGITS, 1), (LOGITS, 0)]) == 0.5
    assert figure("accuracy", [(np.array([3]), 3), (np.array([2]), 3)]) == 0.5
    assert figure("accuracy", [(np.array([[0.9]], np.float32), 1)]) == 1.0


def test_macro_f1_by_hand() -> None:
    # Class 0: precision 1, recall 1/2; class 1: precision 1/2, recall 1; class 2: absent.
    rows = [(np.array([0]), 0), (np.array([1]), 0), (np.array([1]), 1), (np.array([1]), -100)]
    assert figure("f1", rows) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_iou_of_maps() -> None:
    full, half = np.ones((1, 4), np.float32), np.array([[1, 1, 0, 0]], np.float32)
    empty = np.zeros((1, 4), np.float32)
    assert figure("iou", [(half, full)]) == 0.5
    assert figure("iou", [(empty, empty)]) == 1.0
    assert figure("iou", [(empty, half)]) == 0.0


def test_pairs_are_ranked_by_their_cosine() -> None:
    angles = [0.1, 0.5, 1.0, 1.5]
    pairs = [np.array([[1.0, 0.0], [np.cos(a), np.sin(a)]], np.float32) for a in angles]
    assert figure(
        "pair_cosine_spearman", list(zip(pairs, [5, 4, 3, 1], strict=True))
    ) == pytest.approx(1.0)
    assert figure(
        "pair_cosine_spearman", list(zip(pairs, [1, 2, 3, 4], strict=True))
    ) == pytest.approx(-1.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_rank_correlation_is_symmetric_and_bounded(pairs: list[tuple[int, int]]) -> None:
    table = np.array(pairs, np.float64)
    value = rank_correlation(table)
    if np.isnan(value):
        assert min(len(set(column)) for column in table.T) == 1
    else:
        assert -1.0 - 1e-9 <= value <= 1.0 + 1e-9
        assert value == pytest.approx(rank_correlation(table[:, ::-1]))
        assert value == pytest.approx(rank_correlation(np.exp(table)))  # only ranks count


def test_a_metric_looks_at_the_output_it_names() -> None:
    outputs = {"a": LOGITS, "b": LOGITS[:, ::-1]}
    labels = {"label": np.array(1)}
    assert load_metric("top1").score(outputs, labels) == 1.0
    assert load_metric("top1@b").score(outputs, labels) == 0.0
    assert load_metric("top1@b").name == "top1@b"
    assert load_metric("top1", output="b").name == "top1@b"
    with pytest.raises(SamplesError, match="no output 'c'"):
        load_metric("top1@c").score(outputs, labels)


def test_wrong_labels_are_explained() -> None:
    top1 = load_metric("top1")
    with pytest.raises(SamplesError, match="needs labels; add an array named 'label'"):
        top1.score({"y": LOGITS}, {})
    with pytest.raises(SamplesError, match=r"shape \[3\]; expected \[1\]"):
        top1.score({"y": LOGITS}, {"label": np.arange(3)})
    with pytest.raises(SamplesError, match="which label"):
        top1.score({"y": LOGITS}, {"p": np.array(1), "q": np.array(1)})
    with pytest.raises(SamplesError, match="expected numbers"):
        top1.score({"y": LOGITS}, {"label": np.array("cat")})


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(SamplesError, match=r"no metric 'topp1'; did you mean 'top1'"):
        load_metric("topp1")


USERS = """
import numpy as np
def wer(outputs, labels):
    return abs(float(outputs["y"].sum()) - float(labels["label"]))
def broken(outputs, labels):
    return outputs["nothing"]
def silent(outputs, labels):
    return float("nan")
class Largest:
    higher_is_better = False
    def score(self, outputs, labels):
        return outputs["y"].max(), 1.0
    def aggregate(self, scores, rows):
        return scores[rows, 0].max()
constant = 3
"""


def test_a_users_metric_may_be_a_function_or_an_object(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USERS)
    outputs, labels = {"y": LOGITS}, {"label": np.array(0.5)}
    function = load_metric(f"{tmp_path}/mine.py:wer")
    assert (function.name, function.averaged, function.higher_is_better) == ("wer", True, True)
    assert function.score(outputs, labels) == pytest.approx([0.5])
    made = load_metric(f"{tmp_path}/mine.py:Largest")
    assert (made.name, made.averaged, made.higher_is_better) == ("Largest", False, False)
    assert made.aggregate(np.array([[1.0, 1.0], [4.0, 1.0]]), np.array([0, 1])) == 4.0


def test_what_a_users_metric_raises_comes_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USERS)
    outputs = {"y": LOGITS}
    with pytest.raises(SamplesError, match=r'mine\.py:6: return outputs\["nothing"\]') as caught:
        load_metric(f"{tmp_path}/mine.py:broken").score(outputs, {})
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(SamplesError, match="expected a finite number"):
        load_metric(f"{tmp_path}/mine.py:silent").score(outputs, {})
    with pytest.raises(SamplesError, match="expected a function"):
        load_metric(f"{tmp_path}/mine.py:constant")
    with pytest.raises(SamplesError, match="no file"):
        load_metric(f"{tmp_path}/absent.py:f")
