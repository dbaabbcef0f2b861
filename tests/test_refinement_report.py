"""What refining found, in the report: from a real table to a page, and back from JSON."""

from __future__ import annotations

import html as markup
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgesdk.diagnose.sensitivity import measure_sensitivity
from edgesdk.measure.result import Interval, Latency
from edgesdk.plan.allocate import Rung, ladder
from edgesdk.plan.culprits import Culprits, Evaluation
from edgesdk.plan.damage import SensitivityTable
from edgesdk.plan.refined import Refined, Tried
from edgesdk.report.damage import Bar, damage_bars, share_of_bar
from edgesdk.report.document import DeployReport, Row
from edgesdk.report.html import render_html
from edgesdk.report.refinement import why
from edgesdk.report.sensitivity_page import render_sensitivity
from edgesdk.report.terminal import render_terminal
from edgesdk.samples import Sample

BASE = "openvino/w8a8-static-nncf"
SAVED = {"conv_a": 0.4, "conv_c": -0.1, "conv_e": 0.2, "conv_g": 0.8, "gemm_logits": 0.01}

HOSTILE = '<script>alert(1)</script> & "quoted" \x1b[31m ]]>'
ORIGINAL_MS = 10.0


def measured(name: str, status: str, speed: float, cosine: float) -> Row:
    ms = ORIGINAL_MS / speed
    times = Latency(
        count=3, mean_ms=ms, p50_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms, runs_ms=(ms, ms, ms)
    )
    return Row(
        name=name,
        status=status,
        speedup=Interval(value=speed, low=speed * 0.9, high=speed * 1.1),
        latency=times,
        size_bytes=int(4e6 / speed),
        cosine=cosine,
        loss=1 - cosine,
    )


REPORT = DeployReport(
    title="net for x86",
    headline="faster",
    created="2026-11-21T22:00:00Z",
    edgesdk="0.1.0",
    model={"file": "net.onnx"},
    profile="x86",
    baseline="original",
    chosen="original",
    rows=(measured("original", "chosen", 1.0, 1.0),),
)


@pytest.fixture(scope="module")
def table(small_cnn: Path) -> SensitivityTable:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 1, 3, 32, 32)).astype(np.float32)
    rows = [Sample(inputs={"image": image}) for image in images]
    return measure_sensitivity(small_cnn, rows, ["w8a8"])


@pytest.fixture(scope="module")
def refined(table: SensitivityTable) -> Refined:
    nodes = table.at("w8a8")
    damage = {item.node: item.damage for item in nodes}
    total = sum(damage.values())
    rungs = [
        Rung(
            kept=kept,
            damage_left=1 - sum(damage[node] for node in kept) / total,
            extra=sum(SAVED.get(node, 0.0) for node in kept),
        )
        for kept in ladder(damage, SAVED)
    ]
    tried = [
        Tried(name=f"{BASE}+keep{len(item.kept)}-{at:04x}", why=f"reason {at}", rung=item)
        for at, item in enumerate(rungs)
    ]
    assert len(tried) >= 2
    worst = nodes[0].node
    mended = Culprits(
        keep=(worst,),
        minimal=True,
        evaluations=(
            Evaluation(kept=tuple(item.node for item in nodes[1:3]), good=False),
            Evaluation(kept=(worst,), good=True),
        ),
    )
    return Refined.of(
        BASE, nodes, SAVED, tried, unit="ms", rows=table.rows, speedup=2.5, mended=mended
    )


def reported(refined: Refined) -> DeployReport:
    """The last form won; the others lost; the whole form failed and has no speed in its row."""
    *lost, won = refined.tried
    whole = replace(measured(refined.base, "failed", 2.5, 0.9), speedup=None, latency=None)
    return replace(
        REPORT,
        chosen=won.name,
        rows=(
            REPORT.rows[0],
            whole,
            *(measured(item.name, "failed", 2.4, 0.95) for item in lost),
            measured(won.name, "chosen", 2.0, 0.99),
        ),
        refined=(refined,),
    )


def text_of(page: str) -> str:
    """What a reader sees, without styles and scripts."""
    shown = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return markup.unescape(re.sub(r"<[^>]+>", " ", shown))


def in_terminal(report: DeployReport) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_terminal(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plots(html: str) -> list[ET.Element]:
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    return [svg for svg in map(ET.fromstring, svgs) if svg.get("class") == "damage"]


def test_the_nodes_of_a_table_keep_their_figures(table: SensitivityTable, refined: Refined) -> None:
    assert [item.node for item in refined.nodes] == list(table.ranking("w8a8"))
    assert {item.node: item.saved for item in refined.nodes} == SAVED
    assert refined.precision == "w8a8"


def test_it_survives_json(refined: Refined) -> None:
    assert Refined.from_json(json.loads(json.dumps(refined.to_json()))) == refined
    report = reported(refined)
    again = DeployReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report
    assert render_html(again) == render_html(report)


def test_a_report_from_before_there_was_refining_is_read() -> None:
    data = REPORT.to_json()
    del data["refined"]
    assert DeployReport.from_json(data) == REPORT


def test_the_page_says_which_nodes_stay_float_and_why(refined: Refined) -> None:
    html = render_html(reported(refined))
    text = text_of(html)
    (plot,) = plots(html)
    marks = {
        (mark.findtext("title") or "").splitlines()[0]: mark
        for mark in plot.iter()
        if mark.tag == "g"
    }
    assert list(marks) == [item.node for item in refined.nodes]
    *lost, won = refined.tried
    for node in refined.nodes:
        tone = marks[node.node].get("class")
        assert why(node, "ms") in (marks[node.node].findtext("title") or "")
        kept = node.node in won.rung.kept
        assert tone == ("mark s-chosen" if kept else "mark s-not_better")
    assert "saves nothing" in text
    for item in refined.tried:
        assert item.why in text
        assert f"{100 * item.rung.damage_left:.0f} %" in text
    assert lost


def test_expected_times_stand_beside_measured_ones(refined: Refined) -> None:
    """By speedups: 10 ms / 2.5 and what the float nodes add; 10 ms / 2.0 was measured."""
    text = text_of(render_html(reported(refined)))
    won = refined.tried[-1].rung
    assert f"{10 / 2.5 + won.extra:.2f} ms" in text
    assert "5.00 ms" in text
    assert "10 %" in text  # of 1 - cosine: 0.01 of 0.1


def test_sizes_and_uncounted_gains_have_no_times(refined: Refined) -> None:
    small = render_html(reported(replace(refined, unit="MB")))
    assert " MB" in text_of(small)
    alike = text_of(render_html(reported(replace(refined, unit="nodes"))))
    assert "no times of nodes" in alike
    assert "costs when it alone is quantized (w8a8)" in alike
    assert "saves " not in alike.partition("Mixed precision")[2].partition("Run times")[0]


def test_the_page_tells_how_the_culprits_were_found(refined: Refined) -> None:
    text = text_of(render_html(reported(refined)))
    assert "It did not pass the check" in text
    assert "2 fail, 1 pass. It is mended with 1 of them; none of them can be left out." in text
    assert refined.mended
    lost = replace(refined.mended, keep=None)
    assert "do not mend it" in text_of(render_html(reported(replace(refined, mended=lost))))
    assert "It did not pass" not in text_of(render_html(reported(replace(refined, mended=None))))


def test_without_refining_there_is_no_such_part(refined: Refined) -> None:
    assert "Mixed precision" not in text_of(render_html(REPORT))
    assert "Mixed precision" in text_of(render_html(reported(refined)))


def test_the_terminal_stays_as_it_is(refined: Refined) -> None:
    report = reported(refined)
    assert in_terminal(report) == in_terminal(replace(report, refined=()))


def test_hostile_names_stay_text(refined: Refined) -> None:
    node = replace(refined.nodes[0], node=HOSTILE, op=HOSTILE)
    tried = replace(refined.tried[0], name=HOSTILE)
    html = render_html(
        replace(
            reported(refined),
            refined=(replace(refined, base=HOSTILE, nodes=(node,), tried=(tried,)),),
        )
    )
    assert html.count("<script") == 1
    assert "\x1b" not in html
    assert len(plots(html)) == 1


def test_the_table_alone_makes_a_page(table: SensitivityTable) -> None:
    html = render_sensitivity(table, "net.onnx")
    assert "What each node of net.onnx costs" in text_of(html)
    (plot,) = plots(html)
    assert len([mark for mark in plot.iter() if mark.tag == "g"]) == len(table.nodes)
    assert "2 more nodes cost less" in text_of(render_sensitivity(table, "net.onnx", shown=3))


@given(st.lists(st.floats(0, 1e30), max_size=12))
def test_bars_lie_within_their_plot_and_longer_ones_are_worse(damages: list[float]) -> None:
    bars = [Bar(node=f"n{at}", op="Conv", damage=damage) for at, damage in enumerate(damages)]
    plot = damage_bars(bars, "damage")
    assert (plot is None) == (max(damages, default=0.0) <= 1e-200)
    if plot is None:
        return
    root = ET.fromstring(plot)
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    found = root.findall("g/rect")
    for rect in found:
        assert 0 <= float(rect.get("x", "-1")) + float(rect.get("width", "inf")) <= width
        assert float(rect.get("y", "inf")) <= height
    lengths = [float(rect.get("width", "nan")) for rect in found]
    for damage, length in zip(damages, lengths, strict=True):
        assert all(
            length >= other
            for worse, other in zip(damages, lengths, strict=True)
            if worse <= damage
        )


@given(st.floats(0, math.inf), st.floats(0, math.inf))
def test_the_share_of_a_bar_is_a_share(damage: float, worst: float) -> None:
    assert 0.0 <= share_of_bar(min(damage, worst), worst) <= 1.0
