"""Reports are pure functions of one document."""

from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.decide import Status
from edgesdk.evidence import Evidence
from edgesdk.measure.alone import Alone
from edgesdk.measure.bench import ColdStart
from edgesdk.measure.result import Interval, Latency, Measurement
from edgesdk.measure.sensing import Sensed
from edgesdk.profile import load_profile, profile_names
from edgesdk.profiling import Profiling
from edgesdk.report import removed, words
from edgesdk.report.document import DeployReport, MetricChange, Removed, Row, RuledOut
from edgesdk.report.html import render_html
from edgesdk.report.markdown import render_markdown
from edgesdk.report.markup import Markup, el
from edgesdk.report.profile import profile_view, profiling_view
from edgesdk.report.scale import scale_for
from edgesdk.report.terminal import render_terminal


def latency(ms: float) -> Latency:
    runs = tuple(ms * (1 + 0.01 * (step % 7)) for step in range(50))
    return Latency(
        count=50,
        mean_ms=ms,
        p50_ms=ms,
        p90_ms=ms * 1.05,
        p95_ms=ms * 1.06,
        p99_ms=ms * 1.06,
        runs_ms=runs,
    )


def measured(name: str, status: str, speed: float, cosine: float, reason: str = "") -> Row:
    return Row(
        name=name,
        status=status,
        reason=reason,
        verdict="pass",
        speedup=Interval(value=speed, low=speed * 0.95, high=speed * 1.05),
        latency=latency(10 / speed),
        load_ms=30.0,
        first_run_ms=12.0,
        peak_mib=100.0,
        size_bytes=int(4e6 / speed),
        cosine=cosine,
        loss=1 - cosine,
        metrics=(
            MetricChange(
                name="top1",
                value=0.9,
                baseline=0.91,
                change=Interval(value=-0.01, low=-0.02, high=0.0),
            ),
        ),
        node_times=(NodeTime(node="a", op="Conv", ms=1.0), NodeTime(node="b", op="Conv", ms=0.5)),
        placement={"cpu": 2},
        evidence=Evidence.MEASURED,
    )


REPORT = DeployReport(
    title="net for x86",
    headline="2.50 [2.38, 2.62] x the speed of the float original",
    created="2026-11-21T22:00:00Z",
    edgesdk="0.1.0",
    model={"file": "net.onnx", "parameters": "1,000"},
    profile="x86",
    profile_title="This machine",
    environment={"cpu": "some CPU"},
    budget=("latency=20ms",),
    floors=("top1=-2%",),
    objective="latency",
    baseline="original",
    chosen="openvino/w8a8-static-nncf",
    rows=(
        replace(
            measured("original", "passed", 1.0, 1.0),
            speedup=Interval(value=1.0, low=1.0, high=1.0),
        ),
        measured("openvino/w8a8-static-nncf", "chosen", 2.5, 0.999),
        measured("onnxruntime/w8a8-dynamic", "not_better", 0.7, 0.99, "slower than the original"),
        Row(name="onnxruntime/w8a8-static", status="error", reason="convert: killed by signal 11"),
    ),
    rejected=(RuledOut(name="onnxruntime/bf16", reason="does not execute in bf16"),),
    notes=("few samples",),
    bundle="net-x86/bundle",
)
EMPTY = replace(
    REPORT,
    chosen=None,
    bundle=None,
    headline="no candidate meets the budget",
    rows=(Row(name="original", status="error", reason="it does not load"),),
    rejected=(),
    notes=(),
)


def printed(view: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(view)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def in_terminal(report: DeployReport, width: int) -> str:
    return printed(render_terminal(report), width)


class Page(HTMLParser):
    """Collects elements, texts and references; complains when elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


# --- the document


def test_the_document_survives_json() -> None:
    text = json.dumps(REPORT.to_json(), allow_nan=False)
    assert DeployReport.from_json(json.loads(text)) == REPORT


def test_an_unbounded_interval_survives_json_as_null() -> None:
    wide = Interval(value=2.0, low=-math.inf, high=math.inf)
    report = replace(REPORT, rows=(replace(REPORT.rows[1], speedup=wide),))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["rows"][0]["speedup"]["low"] is None
    assert DeployReport.from_json(data) == report
    assert "2.00x [?, ?]" in render_markdown(report)
    Page(render_html(report))


def test_every_status_has_its_words() -> None:
    assert set(words.STATUS_WORDS) == {str(status.value) for status in Status}


def test_every_kind_of_evidence_is_explained() -> None:
    assert set(words.EVIDENCE_WORDS) == set(Evidence)


# --- what every report says


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_view_fits_and_says_who_won_and_why_the_others_lost(width: int) -> None:
    text = in_terminal(REPORT, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for said in (
        "2.50 [2.38, 2.62] x the speed of the float original",
        "Why the others lost",
        "onnxruntime/w8a8-dynamic slower than the original",
        "onnxruntime/w8a8-static convert: killed by signal 11",
        "onnxruntime/bf16 does not execute in bf16",
        "few samples",
        "net-x86/bundle",
        "times measured",
    ):
        assert said in flat


def test_a_wide_terminal_has_more_columns() -> None:
    assert "95 % interval" in in_terminal(REPORT, 120)
    assert "95 % interval" not in in_terminal(REPORT, 80)


@pytest.mark.parametrize("report", [REPORT, EMPTY])
def test_the_page_has_everything_and_needs_nothing(report: DeployReport) -> None:
    html = render_html(report)
    page = Page(html)
    for row in report.rows:
        assert row.name in page.text
        assert row.reason in page.text
    for item in report.rejected:
        assert item.reason in page.text
    assert report.headline in page.text
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
        assert not any(key.startswith("on") for key in attributes)
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_shows_the_plots_that_the_figures_allow() -> None:
    html = render_html(REPORT)
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    labels = [ET.fromstring(svg).get("aria-label") for svg in svgs]
    assert labels == [
        "loss of the worst metric against speed against the float original (x)",
        "loss of the worst metric against size of the artifact (MB)",
        "distribution of run times",
        "time by operation",
    ]
    assert len(ET.fromstring(svgs[0]).findall(".//circle")) == 3
    assert "<svg" not in render_html(EMPTY)


def test_every_mark_lies_within_its_plot() -> None:
    extreme = [measured(f"c{i}", "passed", 10.0 ** (i - 3), 1 - 10.0**-i) for i in range(1, 9)]
    worse = replace(measured("bad", "failed", 0.01, -1.0), loss=2.0)
    better = replace(measured("better", "passed", 1.5, 1.0), loss=-0.01)
    report = replace(REPORT, rows=(*REPORT.rows, *extreme, worse, better))
    for svg in re.findall(r"<svg.*?</svg>", render_html(report), re.DOTALL):
        root = ET.fromstring(svg)
        _, _, width, height = map(float, (root.get("viewBox") or "").split())
        for mark in root.iter():
            for key, most in (("cx", width), ("x", width), ("x2", width), ("cy", height)):
                value = mark.get(key)
                assert value is None or 0 <= float(value) <= most


def test_equal_documents_give_equal_pages() -> None:
    again = DeployReport.from_json(json.loads(json.dumps(REPORT.to_json())))
    assert render_html(again) == render_html(REPORT)


def test_rows_are_shown_where_a_check_stopped_before_the_last() -> None:
    partly = [replace(row, rows=1_251 if row.status == "chosen" else 156) for row in REPORT.rows]
    early = replace(REPORT, evaluation_rows=1_251, rows=tuple(partly))
    assert DeployReport.from_json(early.to_json()) == early
    fully = replace(early, rows=tuple(replace(row, rows=1_251) for row in partly))
    for shown in (render_html, render_markdown, lambda report: in_terminal(report, 110)):
        assert "1,251" in shown(early)
        assert "156" in shown(early)
        assert "1,251" not in shown(fully)


def test_energy_is_shown_where_the_device_tells_power() -> None:
    rail = Sensed(
        name="VDD_IN", kind="power", unit="mW", idle=4100.0, loaded=9120.5, readings=20, run_mj=36.5
    )
    rows = (REPORT.rows[0], replace(REPORT.rows[1], run_mj=36.5, sensed=(rail,)), *REPORT.rows[2:])
    report = replace(REPORT, rows=rows)
    assert DeployReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    page = render_html(report)
    for told in (
        "Power and heat",
        "VDD_IN (power)",
        "4,100.0 mW",
        "9,120.5 mW",
        "mJ a run",
        "36.5",
    ):
        assert told in page
    assert "36.5" in in_terminal(report, 160)
    assert "Power and heat" not in render_html(REPORT)
    assert "mJ" not in render_html(REPORT)
    assert "mJ" not in in_terminal(REPORT, 160)


def test_what_was_removed_for_nothing_is_said_with_its_figures() -> None:
    float_form = "onnxruntime/fp32"

    def pruned(name: str, status: str, speed: float, *, kept: bool) -> Row:
        gone = Removed(before=float_form, parameters=0.312, macs=0.28, kept=kept)
        row = measured(f"onnxruntime/{name}+fp32", status, speed, 0.99, "another is faster")
        return replace(row, removed=gone, remarks=("64 of 320 units were removed",))

    report = replace(
        REPORT,
        rows=(
            *REPORT.rows,
            measured(float_form, "passed", 1.0, 1.0),
            pruned("prune30", "not_better", 1.02, kept=False),
            pruned("prune40", "passed", 1.6, kept=False),
            pruned("prune50", "chosen", 2.6, kept=True),
        ),
    )
    assert DeployReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    said = dict(removed.lines(report))
    idle = said["onnxruntime/prune30+fp32"]
    assert "31.2% of the parameters and 28.0% of the multiply-accumulates" in idle
    assert "1.02x [0.97, 1.07] against the original, 1.00x [0.95, 1.05] before" in idle
    assert idle.endswith("and was undone")
    assert said["onnxruntime/prune40+fp32"].endswith("not chosen: another is faster")
    assert said["onnxruntime/prune50+fp32"].endswith("kept")
    page, terminal = Page(render_html(report)), in_terminal(report, 200)
    for text in (page.text, terminal):
        assert removed.TITLE in text
        assert "and was undone" in text
    assert "64 of 320 units were removed" in page.text
    assert removed.TITLE not in in_terminal(REPORT, 200)

    by_size = dict(removed.lines(replace(report, objective="size")))
    assert "undone" not in by_size["onnxruntime/prune30+fp32"]
    assert "3.92 MB, 4.00 MB before" in by_size["onnxruntime/prune30+fp32"]


def test_markdown_has_one_row_for_each_candidate() -> None:
    lines = [line for line in render_markdown(REPORT).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(REPORT.rows)
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(counts) == 1
    assert "**openvino/w8a8-static-nncf**" in lines[2]


# --- names and reasons come from users and engines

HOSTILE = '<script>alert(1)</script> & "quoted" \' | `code` [bold]x[/bold] \x1b[31m \u202e ]]>'


def hostile() -> DeployReport:
    return replace(
        REPORT,
        title=HOSTILE,
        headline=HOSTILE,
        model={HOSTILE: HOSTILE},
        environment={HOSTILE: HOSTILE},
        budget=(HOSTILE,),
        notes=(HOSTILE,),
        bundle=HOSTILE,
        chosen=HOSTILE,
        rows=(
            replace(REPORT.rows[0], reason=HOSTILE),
            replace(REPORT.rows[1], name=HOSTILE, reason=HOSTILE, warnings=(HOSTILE,)),
        ),
        rejected=(RuledOut(name=HOSTILE, reason=HOSTILE),),
    )


def test_hostile_names_stay_text_in_the_page() -> None:
    html = render_html(hostile())
    page = Page(html)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert '<script>alert(1)</script> & "quoted"' in page.text
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(svg)


def test_hostile_names_cannot_steer_the_terminal() -> None:
    text = in_terminal(hostile(), 120)
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text


def test_hostile_names_stay_in_their_cell_of_markdown() -> None:
    text = render_markdown(hostile())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script" not in text


@given(st.text(max_size=40))
def test_text_in_an_element_comes_back_as_it_was(text: str) -> None:
    shown = "".join(Page(el("p", text, title=text)).texts)
    assert shown == words.plain(text)
    assert Page(el("p", "", title=text)).elements[0][1]["title"] == words.plain(text)


def test_markup_is_not_escaped_twice() -> None:
    assert el("p", el("b", "a<b"), Markup("<i></i>")) == "<p><b>a&lt;b</b><i></i></p>"


# --- figures and axes


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((None, "-"), (0.0, "0"), (0.04312, "0.0431"), (1.436, "1.44"), (21.44, "21.4")),
        *((214.4, "214"), (12345.6, "12,346"), (math.inf, "∞")),
    ],
)
def test_three_digits_matter(value: float | None, said: str) -> None:
    assert words.milliseconds(value) == said


def test_a_cosine_is_one_only_where_it_is() -> None:
    assert words.cosine(1.0) == "1.00000"
    assert words.cosine(0.9999999) == "0.99999+"
    assert words.cosine(0.38512) == "0.38512"


@settings(max_examples=200)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_axes_hold_their_values_and_have_ticks(values: list[float], zero: bool, log: bool) -> None:
    scale = scale_for(values, 10.0, 500.0, zero=zero, log=log)
    assert all(10.0 <= scale(value) <= 500.0 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 16
    assert ticks == sorted(ticks)
    assert all(scale.low * 0.999 <= tick <= scale.high * 1.001 for tick in ticks)


def test_operations_are_summed_and_sorted() -> None:
    nodes = [
        NodeTime(node=str(i), op=op, ms=ms)
        for i, (op, ms) in enumerate([("A", 1), ("B", 3), ("A", 1)])
    ]
    assert words.op_totals(nodes) == {"B": 3.0, "A": 2.0}


# --- views of profiles and of profiling


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_view_fits_and_gives_every_figure_its_source(name: str) -> None:
    profile = load_profile(name)
    text = printed(profile_view(profile), 100)
    assert max(map(len, text.splitlines())) <= 100
    flat = re.sub(r"\s+", "", text)
    for unit in profile.units:
        assert unit.name in flat
        for figure in (unit.cores, unit.clock, *(peak for _, peak in unit.peak)):
            assert figure is None or figure.date in flat
    for runtime in profile.runtimes:
        assert runtime.name in flat


def test_a_profiling_view_has_cold_and_warm_times_and_the_slowest_operations() -> None:
    measurement = Measurement(
        latency=latency(2.0),
        speedup=Interval(value=1.0, low=1.0, high=1.0),
        stable=True,
        import_ms=90.0,
        load_ms=33.0,
        first_run_ms=7.0,
        base_mib=50.0,
        peak_load_mib=70.0,
        peak_run_mib=80.0,
        artifact_bytes=4_000_000,
        threads=2,
        evidence=Evidence.MEASURED,
        warnings=("noisy: windows differ by 40%",),
    )
    cold = ColdStart(
        import_ms=91.0, load_ms=34.0, first_run_ms=8.0, base_mib=50.0, peak_load_mib=70.0
    )
    found = Profiling(
        target="[red]net.onnx",
        backend="onnxruntime",
        execution="fp32",
        synthetic=True,
        alone=Alone(measurement=measurement, cold=(cold,)),
        node_times=(
            NodeTime(node="conv_1", op="Conv", ms=1.5, provider="CPU"),
            NodeTime(node="add_1", op="Add", ms=0.5, provider="CPU"),
        ),
        placement=(NodePlacement(node="conv_1", op="Conv", unit="cpu", provider="CPU"),),
    )
    text = printed(profiling_view(found, top=1), 100)
    for said in (
        "[red]net.onnx",
        "75.0 %",
        "conv_1",
        "34.0",
        "91.0",
        "2.00",
        "made up",
        "differ by",
    ):
        assert said in text
    assert "add_1" not in text
