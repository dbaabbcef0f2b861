from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesdk.bounds import Paired, mean_bounds, rate_upper, student_quantile
from edgesdk.budget import parse_floor
from edgesdk.errors import BudgetError, SamplesError
from edgesdk.evidence import Evidence
from edgesdk.metrics import load_metric
from edgesdk.quality import Comparison, Quality, Record, Verdict, judge
from edgesdk.statistics import Floats

Array = NDArray[np.generic]
TOP1 = load_metric("top1")
WORST_FIRST = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)


def noisy(rows: int, noise: float, *, size: int = 64, seed: int = 0) -> Record:
    """Random outputs and the same with noise of a given share of their size."""
    rng = np.random.default_rng(seed)
    comparison = Comparison()
    for _ in range(rows):
        before = rng.standard_normal((1, size)).astype(np.float32)
        after = before + noise * rng.standard_normal((1, size)).astype(np.float32)
        comparison.add({"y": before}, {"y": after}, {})
    return comparison.record


def classified(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Record:
    """Rows that the original and the candidate have right or wrong, with real logits."""
    comparison = Comparison([TOP1])
    logits = np.eye(8, dtype=np.float32)
    for was, is_ in zip(before, after, strict=True):
        comparison.add(
            {"y": logits[:1] if was else logits[1:2]},
            {"y": logits[:1] if is_ else logits[2:3]},
            {"label": np.array([0])},
        )
    return comparison.record


def test_closeness_is_what_the_formulas_say() -> None:
    before = np.arange(1.0, 9.0, dtype=np.float32)[None]
    after = before + np.float32(0.5)
    comparison = Comparison()
    for _ in range(3):
        comparison.add({"y": before}, {"y": after}, {})
    (close,) = judge(comparison.record, (), []).closeness
    norms = np.linalg.norm(before) * np.linalg.norm(after)
    assert close.cosine == pytest.approx(float((before * after).sum() / norms))
    assert close.sqnr_db == pytest.approx(10 * math.log10((before**2).sum() / (8 * 0.25)))
    assert close.max_error == 0.5
    assert close.agreement == 1.0


def test_an_output_equal_to_the_original_passes_with_a_single_row() -> None:
    quality = judge(noisy(1, 0.0), (), [])
    assert quality.verdict == Verdict.PASS
    assert "equals the float original" in quality.reason
    assert quality.closeness[0].equal


def test_one_row_that_differs_decides_nothing() -> None:
    assert judge(noisy(1, 0.01), (), []).verdict == Verdict.UNDECIDED


def test_a_good_candidate_passes_and_a_bad_one_fails() -> None:
    assert judge(noisy(20, 0.02), (), []).verdict == Verdict.PASS
    assert judge(noisy(20, 0.5), (), []).verdict == Verdict.FAIL


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(2, 30), noise=st.floats(0.01, 0.3), seed=st.integers(0, 99))
def test_more_noise_never_makes_a_better_verdict(rows: int, noise: float, seed: int) -> None:
    verdicts = [judge(noisy(rows, n, seed=seed), (), []).verdict for n in (noise, 3 * noise)]
    ranks = [WORST_FIRST.index(verdict) for verdict in verdicts]
    assert ranks[1] <= ranks[0]


def test_the_worst_output_decides() -> None:
    rng = np.random.default_rng(0)
    comparison = Comparison()
    for _ in range(20):
        good, bad = rng.standard_normal((2, 1, 64)).astype(np.float32)
        comparison.add({"good": good, "bad": bad}, {"good": good, "bad": -bad}, {})
    quality = judge(comparison.record, (), [])
    assert quality.verdict == Verdict.FAIL
    assert "bad" in quality.reason
    only_good = judge(comparison.record, parse_floor("good.cosine=0.99"), [])
    assert only_good.verdict == Verdict.PASS


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_fails_whatever_the_floors(value: float) -> None:
    comparison = Comparison()
    for row in range(50):
        before = np.ones((1, 100), np.float32)
        after = before.copy()
        if row == 7:
            after[0, 3] = value
        comparison.add({"y": before}, {"y": after}, {})
    quality = judge(comparison.record, parse_floor("cosine=0.1"), [])
    assert quality.verdict == Verdict.FAIL
    assert "1 NaN or infinite values" in quality.reason


def test_another_shape_dtype_or_a_missing_output_fails() -> None:
    before = np.ones((1, 10), np.float32)
    for after, problem in (
        ({"y": before[:, :5]}, r"shape \[1, 5\], the original's is \[1, 10\] (row 0)"),
        ({"y": before.astype(np.float16)}, "dtype float16, the original's is float32 (row 0)"),
        ({}, "the output is missing (row 0)"),
    ):
        comparison = Comparison([TOP1])
        comparison.add({"y": before}, after, {"label": np.array([0])})
        quality = judge(comparison.record, (), [TOP1])
        assert quality.verdict == Verdict.FAIL
        assert problem.replace("\\", "") in quality.reason


def test_masked_scores_of_the_original_do_not_count() -> None:
    before = np.array([[1.0, 2.0, -np.inf, *range(10)]], np.float32)
    comparison = Comparison()
    for _ in range(3):
        comparison.add({"y": before}, {"y": before}, {})
    assert judge(comparison.record, (), []).verdict == Verdict.PASS


def test_a_probability_a_sample_cannot_hide_behind_its_cosine() -> None:
    rng = np.random.default_rng(0)
    comparison = Comparison()
    for _ in range(60):
        before, after = rng.random((2, 1, 1)).astype(np.float32)
        comparison.add({"prob": before}, {"prob": after}, {})
    quality = judge(comparison.record, (), [])
    assert quality.closeness[0].pooled
    assert quality.verdict == Verdict.FAIL


def test_integer_outputs_are_judged_by_equality() -> None:
    comparison = Comparison()
    for row in range(200):
        before = np.full((1, 5), row, np.int64)
        comparison.add({"ids": before}, {"ids": before + (row < 20)}, {})
    quality = judge(comparison.record, (), [])
    assert quality.closeness[0].cosine is None
    assert quality.closeness[0].agreement == pytest.approx(0.9)
    assert quality.verdict == Verdict.FAIL


def test_agreement_on_every_row_is_no_certainty() -> None:
    """The rule of three: 100 rows without a loss leave room for a loss of almost 3 %."""
    right = np.ones(100, bool)
    record = classified(right, right)
    # The logits differ slightly, so that this is no bit-equal candidate.
    record.outputs["y"].table[:, 3] = 0.1
    quality = judge(record, parse_floor("top1=-1%"), [TOP1])
    (result,) = quality.floors
    assert result.verdict == Verdict.UNDECIDED
    assert result.value == 0.0
    assert result.low == pytest.approx(-0.0295, abs=1e-4)
    assert result.samples_needed is not None
    assert 290 <= result.samples_needed <= 305
    enough = np.ones(result.samples_needed + 5, bool)
    record = classified(enough, enough)
    record.outputs["y"].table[:, 3] = 0.1
    assert judge(record, parse_floor("top1=-1%"), [TOP1]).verdict == Verdict.PASS


@pytest.mark.parametrize(("gains", "rows"), [(0.0, 150), (0.0, 400), (0.01, 300), (0.03, 600)])
def test_a_drop_at_the_floor_rarely_passes(gains: float, rows: int) -> None:
    """The worst case: the true drop is the floor itself; 600 trials, so 5 % is 30 and s.e. 5."""
    drop, rng, passes = 0.02, np.random.default_rng(rows), 0
    for _ in range(600):
        kinds = rng.random(rows)
        lost = int((kinds < drop + gains).sum())
        gained = int((kinds > 1.0 - gains).sum())
        low, _ = Paired(lost=lost, gained=gained, rows=rows).change(0.05)
        passes += low >= -drop
    assert passes <= 48


@pytest.mark.parametrize(("sigma", "rows"), [(0.3, 10), (1.0, 10), (1.0, 50), (1.0, 150)])
def test_skewed_closeness_at_the_floor_rarely_passes(sigma: float, rows: int) -> None:
    """Losses are lognormal with a true mean on the floor; the plain bootstrap passes up to 25 %."""
    rng, passes = np.random.default_rng(0), 0
    for _ in range(600):
        loss = 0.01 * np.exp(sigma * rng.standard_normal(rows) - sigma**2 / 2)
        low, _ = mean_bounds(1.0 - loss, 0.05, spread=1.0)
        passes += low >= 0.99
    assert passes <= 48


def test_a_whole_judgement_rarely_passes_a_true_drop() -> None:
    """End to end with logits: float 90 % right, the candidate 2 points worse, floor -0.02."""
    rng, passes = np.random.default_rng(5), 0
    for _ in range(40):
        before = rng.random(250) < 0.9
        after = before & (rng.random(250) > 0.02 / 0.9)
        quality = judge(classified(before, after), parse_floor("top1=-0.02"), [TOP1])
        passes += quality.verdict == Verdict.PASS
    assert passes <= 5


def test_a_real_loss_fails_and_a_real_gain_passes() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(500) < 0.8
    worse, better = before & (rng.random(500) < 0.9), before | (rng.random(500) < 0.5)
    assert judge(classified(before, worse), (), [TOP1]).verdict == Verdict.FAIL
    quality = judge(classified(before, better), (), [TOP1])
    assert quality.verdict == Verdict.PASS
    (score,) = quality.scores
    assert score.low is not None
    assert 0.0 < score.low < float(score.change or 0.0) < float(score.high or 0.0)
    assert score.loss < 0.0


def test_an_absolute_floor_is_about_the_candidate_alone() -> None:
    after = np.arange(400) < 360
    record = classified(after, after)
    for floor, verdict in (("0.8", "pass"), ("0.89", "undecided"), ("95%", "fail")):
        quality = judge(record, parse_floor(f"top1={floor}"), [TOP1])
        assert quality.verdict == Verdict(verdict)


def test_the_error_rate_of_a_user_may_rise_only_so_far(tmp_path: Path) -> None:
    code = "class Wrong:\n    higher_is_better = False\n    averaged = True\n"
    code += "    def score(self, outputs, labels):\n        return float(outputs['y'][0, 0])\n"
    code += "    def aggregate(self, scores, rows):\n        return scores[rows, 0].mean()\n"
    (tmp_path / "m.py").write_text(code)
    name = f"{tmp_path}/m.py:Wrong"
    metric = load_metric(name)
    rng = np.random.default_rng(0)
    comparison = Comparison([metric])
    for _ in range(100):
        before = rng.random((1, 16)).astype(np.float32)
        comparison.add({"y": before}, {"y": before + np.float32(0.05)}, {})
    record = comparison.record
    assert judge(record, parse_floor(f"{name}=+0.1"), [metric]).verdict == Verdict.PASS
    assert judge(record, parse_floor(f"{name}=+0.01"), [metric]).verdict == Verdict.FAIL
    assert judge(record, (), [metric]).verdict == Verdict.FAIL
    with pytest.raises(
        BudgetError, match=r"better when lower; what it may lose is written with \+"
    ):
        judge(record, parse_floor(f"{name}=-1%"), [metric])


def test_rank_correlation_has_a_paired_interval() -> None:
    metric = load_metric("spearman")
    rng = np.random.default_rng(0)
    comparison = Comparison([metric])
    for _ in range(200):
        truth = rng.standard_normal()
        before = np.array([truth + 0.5 * rng.standard_normal()], np.float32)
        after = before + np.float32(0.02 * rng.standard_normal())
        comparison.add({"y": before}, {"y": after}, {"label": np.array([truth])})
    quality = judge(comparison.record, parse_floor("spearman=-2%"), [metric])
    (score,) = quality.scores
    assert score.low is not None
    assert score.high is not None
    assert score.low < float(score.change or 0.0) < score.high
    assert score.high - score.low < 0.02  # unpaired it would be 0.1
    assert quality.verdict == Verdict.PASS


def test_a_metric_without_a_value_is_undecided() -> None:
    metric = load_metric("spearman")
    comparison = Comparison([metric])
    for row in range(20):
        output = {"y": np.array([float(row)], np.float32)}
        comparison.add(output, {"y": output["y"] * np.float32(1.1)}, {"label": np.array([1.0])})
    quality = judge(comparison.record, (), [metric])
    assert quality.verdict == Verdict.UNDECIDED
    json.dumps(quality.to_json(), allow_nan=False)


def test_floors_that_mean_nothing_here_are_named() -> None:
    record = noisy(5, 0.1)
    with pytest.raises(BudgetError, match="no output 'z'"):
        judge(record, parse_floor("z.cosine=0.9"), [])
    with pytest.raises(BudgetError, match="no such metric was scored; scored: none"):
        judge(record, parse_floor("top1=-1%"), [])
    with pytest.raises(BudgetError, match="better when higher"):
        judge(classified(*np.ones((2, 5), bool)), parse_floor("top1=+1%"), [TOP1])
    with pytest.raises(SamplesError, match="no sample was compared"):
        judge(Comparison().record, (), [])
    with pytest.raises(SamplesError, match="two metrics are called 'top1'"):
        Comparison([TOP1, TOP1])


def test_made_up_samples_never_count_as_evidence() -> None:
    quality = judge(noisy(20, 0.01), (), [], synthetic=True)
    assert quality.evidence == Evidence.UNKNOWN
    assert any("SYNTHETIC" in note for note in quality.notes)
    assert judge(noisy(20, 0.01), (), []).evidence == Evidence.MEASURED


def test_records_and_qualities_survive_strict_json() -> None:
    before = np.arange(50) % 3 > 0
    record = classified(before, ~before)
    text = json.dumps(record.to_json(), allow_nan=False)
    again = Record.from_json(json.loads(text))
    floors = parse_floor("top1=-1%,cosine=0.9,sqnr=10dB,max_error=0.1,agreement=50%")
    quality = judge(record, floors, [TOP1])
    assert judge(again, floors, [TOP1]) == quality
    assert Quality.from_json(json.loads(json.dumps(quality.to_json(), allow_nan=False))) == quality
    assert {result.verdict for result in quality.floors} >= {Verdict.FAIL}


def test_bounds_match_published_values() -> None:
    assert student_quantile(0.95, 1) == pytest.approx(6.3138, abs=1e-3)
    assert student_quantile(0.975, 10) == pytest.approx(2.2281, abs=1e-3)
    assert rate_upper(0, 10, 0.025) == pytest.approx(0.3085, abs=1e-4)
    assert rate_upper(3, 10, 0.025) == pytest.approx(0.6525, abs=1e-4)


def test_tangos_interval_solves_its_own_score_equation() -> None:
    """At the limit, the drop lies 1.645 standard errors from what was seen, given that drop."""
    lost, gained, rows = 30, 18, 400
    drop = -Paired(lost=lost, gained=gained, rows=rows).change(0.05)[0]

    def likelihood(gain: float) -> float:
        loss = gain + drop
        return (
            lost * math.log(loss)
            + gained * math.log(gain)
            + (rows - lost - gained) * math.log(1.0 - gain - loss)
        )

    grid = np.linspace(1e-6, (1.0 - drop) / 2 - 1e-6, 200_001)
    gain = max(grid[np.abs(grid - gained / rows) < 0.02], key=likelihood)
    error = math.sqrt((2.0 * gain + drop - drop**2) / rows)
    assert (drop - (lost - gained) / rows) / error == pytest.approx(1.645, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 400), data=st.data())
def test_bounds_hold_the_value_between_them(rows: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, rows))
    gained = data.draw(st.integers(0, rows - lost))
    low, high = Paired(lost=lost, gained=gained, rows=rows).change(0.05)
    assert -1.0 - 1e-9 <= low <= (gained - lost) / rows <= high <= 1.0 + 1e-9
    more, _ = Paired(lost=lost, gained=gained, rows=rows).change(0.025)
    assert more <= low + 1e-9


def test_real_engines_are_told_apart(small_cnn: Path, tmp_path: Path) -> None:
    """A real network against itself without graph optimisation, and against coarse weights."""
    import onnxruntime
    from onnx import numpy_helper

    coarse = onnx.load(small_cnn)
    for tensor in coarse.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 4:
            step = max(float(np.abs(values).max()) / 2, 1e-6)
            rounded = (np.round(values / step) * step).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(coarse, tmp_path / "coarse.onnx")

    def session(path: Path, level: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    original = session(small_cnn, "ORT_DISABLE_ALL")
    others = [
        session(small_cnn, "ORT_ENABLE_ALL"),
        session(tmp_path / "coarse.onnx", "ORT_ENABLE_ALL"),
    ]
    names = [output.name for output in original.get_outputs()]
    rng = np.random.default_rng(0)
    comparisons = [Comparison(), Comparison()]
    for _ in range(12):
        feed = {"image": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)}
        before = dict(zip(names, original.run(names, feed), strict=True))
        for other, comparison in zip(others, comparisons, strict=True):
            comparison.add(before, dict(zip(names, other.run(names, feed), strict=True)), {})
    same, worse = (judge(comparison.record, (), []) for comparison in comparisons)
    assert same.verdict == Verdict.PASS
    assert same.closeness[0].equal
    assert worse.verdict != Verdict.PASS
    assert float(worse.closeness[0].sqnr_db or 0.0) < 20.0


def test_intervals_widen_with_confidence() -> None:
    values: Floats = np.random.default_rng(0).random(30)
    narrow, wide = mean_bounds(values, 0.05, spread=1.0), mean_bounds(values, 0.025, spread=1.0)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_a_floor_without_an_output_finds_the_only_metric_of_that_name() -> None:
    metrics = [load_metric("top1@a"), load_metric("top1@b")]
    for some, decided in ((metrics[:1], True), (metrics, False)):
        comparison = Comparison(some)
        outputs = {"a": np.eye(8, dtype=np.float32)[:1], "b": np.eye(8, dtype=np.float32)[:1]}
        comparison.add(outputs, outputs, {"label": np.array([0])})
        if decided:
            assert judge(comparison.record, parse_floor("top1=-1%"), some).floors
        else:
            with pytest.raises(BudgetError, match="scored: top1@a, top1@b"):
                judge(comparison.record, parse_floor("top1=-1%"), some)
        assert judge(comparison.record, parse_floor("a.top1=-1%"), some).floors
