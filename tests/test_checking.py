"""Checks that stop early, with real engines: the verdict of all rows, from some of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import edgesdk
from edgesdk import steps
from edgesdk.bench import Bench, Original
from edgesdk.budget import Budget, parse_floor
from edgesdk.cache import Cache
from edgesdk.checking import GOLDEN_ROWS, check_rest
from edgesdk.comparison import Record
from edgesdk.decide import Status
from edgesdk.deployment import BUNDLE, deploy, preview
from edgesdk.device.local import LocalDevice
from edgesdk.events import nobody
from edgesdk.evidence import Evidence
from edgesdk.looks import plan_looks, shuffled
from edgesdk.making import prepare_model
from edgesdk.measure.meter import DirectMeter
from edgesdk.model import read_model
from edgesdk.plan.candidate import Plan
from edgesdk.profile import load_profile
from edgesdk.quality import Verdict, judge
from edgesdk.report.html import render_html
from edgesdk.report.markdown import render_markdown
from edgesdk.samples import read_samples
from edgesdk.testing.quick import QUICK
from edgesdk.trial import check_fully, open_original, try_candidate
from edgesdk.workshop import Limits, Workshop

RECIPES = ("onnxruntime/fp32", "onnxruntime/w8a8-static")
FINE, COARSE = RECIPES
ROWS = 128


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 rows, of which 32 calibrate."""
    path = tmp_path_factory.mktemp("samples") / "images.npz"
    image = np.random.default_rng(0).standard_normal((160, 3, 32, 32)).astype(np.float32)
    np.savez(path, image=image)
    return path


Setup = Callable[[str], tuple[Bench, Plan, Original]]


@pytest.fixture
def setup(small_cnn: Path, images: Path, cache: Cache) -> Setup:
    """What a deploy has before its first candidate, for some floors."""

    def made(floors: str) -> tuple[Bench, Plan, Original]:
        model, budget = read_model(small_cnn), Budget(floors=parse_floor(floors))
        bench = Bench(
            workshop=Workshop(cache=cache, limits=Limits()),
            model=model,
            samples=read_samples(str(images), model.inputs, store=cache.root / "samples"),
            budget=budget,
            metrics=(),
            threads=1,
            settings=QUICK,
            device=LocalDevice(),
            profile=load_profile("x86"),
            meter=DirectMeter(LocalDevice()),
            machine_key="here",
            evidence=Evidence.MEASURED,
            listen=nobody,
        )
        options = {"samples": str(images), "recipes": RECIPES, "budget": budget}
        plan = preview(small_cnn, profile="x86", **options)
        return bench, plan, open_original(bench, plan)

    return made


@pytest.mark.parametrize(
    ("floor", "verdict"), [("cosine=0.999999", Verdict.FAIL), ("cosine=0.9", Verdict.PASS)]
)
def test_a_clear_case_is_told_from_some_rows_as_from_all(
    setup: Setup, floor: str, verdict: Verdict
) -> None:
    bench, plan, original = setup(floor)
    (coarse,) = (c for c in plan.candidates if c.name == COARSE)
    trial, _ = try_candidate(bench, coarse, original, prepare_model(bench, plan), hopeless=0.0)
    quality = trial.outcome.quality
    assert quality is not None
    assert quality.verdict == verdict
    assert quality.rows == plan_looks(ROWS)[0].rows
    assert quality.reason.endswith(f"(after {quality.rows} of {ROWS} rows)")
    assert (trial.outcome.measurement is None) == (verdict == Verdict.FAIL)

    done = check_fully(bench, trial, original)
    full = done.outcome.quality
    assert full is not None
    assert (full.verdict, full.rows) == (verdict, ROWS)
    assert check_fully(bench, done, original) is done
    assert trial.built is not None
    assert check_rest(bench, trial.built, original).cached
    assert done.built is not None
    assert done.built.outputs is not None
    golden = sorted(file.name for file in done.built.outputs.iterdir())
    assert golden == [f"{row:06d}.npz" for row in range(GOLDEN_ROWS)]

    # What the looks found out together is what a single step over all rows finds out.
    whole = bench.workshop.step(
        "check",
        {
            **bench.opening(done.built.choice, done.built.converted),
            "rows": bench.samples.evaluation.to_json(),
            "reference": str(original.reference.folder / "outputs"),
            "metrics": [],
            "golden": 0,
        },
        {"whole": done.built.converted.key},
    )
    record = Record.from_json(whole.response["record"])
    tails = plan_looks(ROWS)[-1].tails
    assert judge(record, bench.budget.floors, [], tails=tails) == full


def test_a_row_that_no_floor_can_excuse_is_the_last(
    small_cnn: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = onnx.load(small_cnn)
    broken.graph.node[-1].output[0] = "plain"
    broken.graph.node.append(helper.make_node("Sqrt", ["plain"], ["logits"], name="sqrt"))
    onnx.save(broken, tmp_path / "broken.onnx")
    inputs = read_model(small_cnn).inputs
    rows = read_samples(str(images), inputs, store=tmp_path / "samples").evaluation
    common = {"backend": "onnxruntime", "execution": "fp32", "threads": 1, "rows": rows.to_json()}
    monkeypatch.chdir(tmp_path)
    steps.reference({**common, "artifact": str(small_cnn)})
    found = steps.check(
        {
            **common,
            "artifact": str(tmp_path / "broken.onnx"),
            "reference": str(tmp_path / "outputs"),
            "metrics": [],
            "golden": 0,
            "look": shuffled(len(rows)),
        }
    )
    quality = judge(Record.from_json(found["record"]), (), [])
    assert quality.rows == 1
    assert quality.verdict == Verdict.FAIL
    assert "NaN or infinite values" in quality.reason


def test_what_is_chosen_was_checked_on_all_rows(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    done = deploy(
        small_cnn,
        profile="x86",
        samples=str(images),
        recipes=RECIPES,
        budget=Budget(objective="size", floors=parse_floor("cosine=0.9")),
        settings=QUICK,
        cache=cache,
        out=tmp_path / "out",
    )
    seen = {o.name: o.quality.rows for o in done.outcomes if o.quality}
    assert done.decision.chosen == COARSE
    assert seen == {FINE: plan_looks(ROWS)[0].rows, COARSE: ROWS}
    assert {row.name: row.rows for row in done.report.rows if row.rows} == seen
    assert done.report.evaluation_rows == ROWS
    assert f"| {seen[FINE]} |" in render_markdown(done.report)
    assert ">rows<" in render_html(done.report)
    with edgesdk.load(tmp_path / "out" / BUNDLE) as session:
        assert session.self_test().ok


def test_a_leader_is_complete_when_the_time_is_over(
    small_cnn: Path, images: Path, cache: Cache, tmp_path: Path
) -> None:
    """The second deploy finds everything in the cache, and has no time to run what is not there."""
    found = []
    for seconds in (600.0, 1e-6):
        done = deploy(
            small_cnn,
            profile="x86",
            samples=str(images),
            recipes=RECIPES,
            budget=Budget(objective="size", floors=parse_floor("cosine=0.9")),
            settings=QUICK,
            cache=cache,
            out=tmp_path / f"{seconds}",
            time_budget_s=seconds,
        )
        found.append({o.name: o.quality.rows for o in done.outcomes if o.quality})
        assert done.decision.chosen == COARSE
        assert found[-1][COARSE] == ROWS
        assert not any(item.status == Status.NO_TIME for item in done.decision.judged)
    assert found[0] == found[1]


def test_what_fails_on_the_rows_that_were_left_does_not_win(
    small_cnn: Path, tmp_path: Path
) -> None:
    """Rows of the first look are like those of calibration; most others are far larger."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((ROWS, 3, 32, 32)).astype(np.float32)
    kind = np.ones(ROWS, np.float32)
    kind[list(shuffled(ROWS)[plan_looks(ROWS)[0].rows :])] = 50.0
    np.savez(tmp_path / "rows.npz", image=image * kind[:, None, None, None])
    np.savez(tmp_path / "calm.npz", image=rng.standard_normal((16, 3, 32, 32)).astype(np.float32))
    done = deploy(
        small_cnn,
        profile="x86",
        samples=str(tmp_path / "rows.npz"),
        calibration=str(tmp_path / "calm.npz"),
        recipes=RECIPES,
        budget=Budget(objective="size", floors=parse_floor("sqnr=20")),
        settings=QUICK,
        cache=Cache(tmp_path / "cache"),
        out=tmp_path / "out",
    )
    (coarse,) = (o for o in done.outcomes if o.name == COARSE)
    assert coarse.measurement is not None  # it passed the first look
    assert coarse.quality is not None
    assert (coarse.quality.verdict, coarse.quality.rows) == (Verdict.FAIL, ROWS)
    status = {item.name: item.status for item in done.decision.judged}
    assert status[COARSE] == Status.FAILED
    assert done.decision.chosen != COARSE
