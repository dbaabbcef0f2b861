"""Outputs on another processor beside those of this machine."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from edgesdk.bench import Bench
from edgesdk.budget import Budget
from edgesdk.cache import Cache
from edgesdk.decide import Outcome
from edgesdk.departures import MUCH, Departure, Departures, ThereAndHere
from edgesdk.deployment import preview
from edgesdk.device.emulated import EmulatedDevice
from edgesdk.elsewhere import COMPARED_ROWS, rows_to_compare, with_elsewhere
from edgesdk.events import nobody
from edgesdk.evidence import Evidence
from edgesdk.machine import detect
from edgesdk.making import prepare_model
from edgesdk.measure.meter import DirectMeter
from edgesdk.model import read_model
from edgesdk.profile import load_profile
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.html import render_html
from edgesdk.report.markdown import render_markdown
from edgesdk.report.terminal import render_terminal
from edgesdk.samples import read_samples
from edgesdk.testing.quick import QUICK
from edgesdk.trial import check_candidate, open_original
from edgesdk.workshop import Limits, Workshop

debian_only = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("cc") is None,
    reason="emulators are unpacked from Debian packages, and counting takes a C compiler",
)

# --- figures


def departure(here: object, there: object) -> Departure:
    departures = Departures()
    departures.add({"y": np.asarray(here)}, {"y": np.asarray(there)})
    (found,) = departures.found
    return found


FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(max_dims=3, max_side=6),
    elements=st.floats(-1e3, 1e3, width=32) | st.sampled_from([np.nan, np.inf]),
)


@given(FLOATS)
@settings(max_examples=60, deadline=None)
def test_equal_outputs_do_not_depart(values: np.ndarray) -> None:
    found = departure(values, values.copy())
    assert (found.differing, found.bad_values, found.problem) == (0.0, 0, None)
    assert found.largest in (0.0, None)
    assert not found.is_much


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
@settings(max_examples=60, deadline=None)
def test_the_largest_difference_is_relative_to_the_range(
    values: list[float], scale: float, shift: float
) -> None:
    """Of an output in another unit, from another zero, it is the same."""
    here = np.array(values)
    assume(np.ptp(here) > 1)
    there = here + 0.5
    plain = departure(here, there)
    assert plain.largest == pytest.approx(0.5 / np.ptp(here))
    moved = departure(here * scale + shift, there * scale + shift)
    assert moved.largest == pytest.approx(plain.largest, rel=1e-6)


def test_figures_are_of_all_rows_together() -> None:
    departures = Departures()
    departures.add({"y": np.array([0.0, 10.0])}, {"y": np.array([0.0, 10.0])})
    departures.add({"y": np.array([-10.0, 5.0])}, {"y": np.array([-10.0, 6.0])})
    (found,) = departures.found
    assert found.largest == pytest.approx(0.05)
    assert found.differing == 0.25
    assert found.cosine is not None
    assert 0.99 < found.cosine < 1.0
    assert found.is_much


def test_what_has_no_range_or_no_numbers_is_told_too() -> None:
    assert departure([2.0, 2.0], [2.0, 3.0]).largest == 0.5
    assert departure([0, 0], [0, 1]).largest == 1.0
    assert departure([True, False], [True, True]).differing == 0.5
    text = departure(["a", "b"], ["a", "c"])
    assert (text.largest, text.differing, text.is_much) == (None, 0.5, False)
    lost = departure([1.0, 2.0], [1.0, np.nan])
    assert (lost.bad_values, lost.is_much) == (1, True)
    assert departure([1.0], [[1.0]]).problem == "shape [1, 1] there, [1] here"
    departures = Departures()
    departures.add({"y": np.ones(1)}, {})
    assert departures.found[0].problem == "the output is missing there"


# --- reports

COMPARED = ThereAndHere(
    evidence=Evidence.EMULATED,
    rows=8,
    outputs=tuple(
        Departure(output=f"[b]{n}[/b]", largest=n * MUCH / 2, differing=0.25, cosine=0.999)
        for n in range(5)
    ),
    there="1.2",
    here="1.3",
)
REPORT = DeployReport(
    title="net for x86-avx2",
    headline="it won",
    created="2026-11-22T00:00:00Z",
    edgesdk="1",
    model={},
    profile="x86-avx2",
    baseline="original",
    chosen="engine/w8a8",
    rows=(
        Row(name="original", status="passed", elsewhere=replace(COMPARED, outputs=())),
        Row(name="engine/w8a8", status="chosen", elsewhere=COMPARED),
        Row(
            name="engine/bf16",
            status="passed",
            elsewhere=replace(COMPARED, outputs=(), note="not compared: no bf16 here"),
        ),
    ),
)


def in_terminal(report: DeployReport) -> str:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(render_terminal(report))
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_every_report_has_the_table_and_says_what_departs_much() -> None:
    assert DeployReport.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT
    for text in (in_terminal(REPORT), render_html(REPORT), render_markdown(REPORT)):
        for said in (
            "Outputs there and here",
            "4 %",
            "25 %",
            "and 2 that depart less",
            "computed differently there:",
            "departs by up to 4 % of its range",
            "engine is 1.2 there and 1.3 here",
            "not compared: no bf16 here",
        ):
            assert said in text
    plain = replace(REPORT, rows=tuple(replace(row, elsewhere=None) for row in REPORT.rows))
    for text in (in_terminal(plain), render_html(plain), render_markdown(plain)):
        assert "there and here" not in text


# --- a processor whose 8-bit products saturate


def test_only_another_processor_is_compared() -> None:
    here = detect()
    assert rows_to_compare(here) == 0
    assert rows_to_compare(replace(here, cpu="another name", kernel="1")) == 0
    assert rows_to_compare(replace(here, arch="riscv64")) == COMPARED_ROWS
    assert rows_to_compare(replace(here, features=frozenset({"sve"}))) == COMPARED_ROWS


@pytest.fixture(scope="module")
def saturating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product whose quantized form needs more than 16 bits for the sum of two neighbours."""
    rng = np.random.default_rng(5)
    weight = rng.choice([-1.0, 1.0], (64, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "saturating",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    folder = tmp_path_factory.mktemp("saturating")
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    rows = rng.uniform(0.5, 1.0, (24, 8, 64)).astype(np.float32)
    np.savez(folder / "rows.npz", x=rows)
    return folder


@pytest.mark.nightly
@debian_only
def test_int8_departs_on_an_old_processor_and_float_does_not(
    saturating: Path, tmp_path: Path
) -> None:
    model, cache = read_model(saturating / "model.onnx"), Cache(tmp_path)
    source = str(saturating / "rows.npz")
    haswell = EmulatedDevice("haswell", ("onnxruntime",), Cache())
    bench = Bench(
        workshop=Workshop(cache=cache, limits=Limits()),
        model=model,
        samples=read_samples(source, model.inputs, store=tmp_path / "samples"),
        budget=Budget(),
        metrics=(),
        threads=1,
        settings=QUICK,
        device=haswell,
        meter=DirectMeter(haswell),
        profile=load_profile("x86"),
        machine_key="haswell",
        evidence=Evidence.EMULATED,
        listen=nobody,
        compared_rows=COMPARED_ROWS,
    )
    plan = preview(model.path, profile="x86", samples=source, recipes=("onnxruntime/w8a8-static",))
    (candidate,) = (item for item in plan.candidates if "w8a8" in item.name)
    original = open_original(bench, plan)
    trial, _ = check_candidate(bench, candidate, original, prepare_model(bench, plan))
    baseline = Outcome(name="original", candidate=plan.baseline)

    (compared,), before = with_elsewhere(bench, [trial], baseline, original)
    plain, quantized = before.elsewhere, compared.outcome.elsewhere
    assert plain is not None
    assert quantized is not None
    assert plain.rows == quantized.rows == COMPARED_ROWS
    assert plain.here == plain.there == quantized.there != ""
    assert plain.worst is None
    assert plain.outputs[0].largest is not None
    assert plain.outputs[0].largest < 1e-5
    assert quantized.worst is not None
    assert quantized.worst.differing > 0.5
    again, _ = with_elsewhere(bench, [trial], baseline, original)
    assert again[0].outcome == compared.outcome
    same, _ = with_elsewhere(replace(bench, compared_rows=0), [trial], baseline, original)
    assert same == [trial]
