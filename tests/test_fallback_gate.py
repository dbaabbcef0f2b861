"""`max_fallback` as a condition for winning, and what reports and bundles say of placement.

No engine with two units is at hand. These tests register one of a third party: everything is computed
by the real onnxruntime, and only the names of the units are made up, by operator or by node.
"""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgesdk.budget import Budget
from edgesdk.bundle.read import read_manifest
from edgesdk.cache import Cache
from edgesdk.decide import Status
from edgesdk.deployment import BUNDLE, REPORT_HTML, REPORT_JSON, Deployment, deploy
from edgesdk.errors import BudgetNotMet
from edgesdk.placement import Basis
from edgesdk.plan.candidate import ORIGINAL
from edgesdk.report.document import DeployReport
from edgesdk.report.terminal import render_terminal
from edgesdk.testing.quick import QUICK
from edgesdk.validation import validate_bundle

ENGINE = '''
from dataclasses import replace

from edgesdk_backends.onnxruntime import OnnxRuntimeBackend

from edgesdk.backend import Session

WHY = "no kernel for depthwise convolutions"


def relabelled(item):
    """The depthwise convolution and the pooling are on another unit; everything else on the NPU."""
    if "conv_c" in item.node or item.op == "GlobalAveragePool":
        return replace(item, unit="cpu")
    return replace(item, unit="npu")


def explained(item):
    item = relabelled(item)
    return item if item.unit == "npu" else replace(item, why=WHY)


class Relabelled(Session):
    """A session of onnxruntime whose nodes are said to be on two units."""

    def __init__(self, session, timed):
        self._session, self._timed = session, timed
        self.inputs, self.outputs = session.inputs, session.outputs
        self.run, self.close = session.run, session.close

    def run(self, feed):
        raise AssertionError("replaced in __init__")

    def placement(self):
        return tuple(explained(item) for item in self._session.placement())

    def node_times(self):
        return tuple(relabelled(item) for item in self._session.node_times()) if self._timed else ()


class Timed(OnnxRuntimeBackend):
    """Tells where its nodes run, and for how long."""

    name = "timed"

    def open(self, artifact, options):
        return Relabelled(super().open(artifact, options), timed=True)


class Untimed(OnnxRuntimeBackend):
    """Tells where the nodes of the file run, and no times."""

    name = "untimed"

    def open(self, artifact, options):
        return Relabelled(super().open(artifact, replace(options, profiling=False)), timed=False)


class Mute(OnnxRuntimeBackend):
    """Tells nothing."""

    name = "mute"

    def open(self, artifact, options):
        session = super().open(artifact, options)
        session.placement = session.node_times = tuple
        return session
'''
BOARD = """
schema = 1
extends = "x86-avx2"
name = "board"
backends = ["{0}"]

# What kind it is, is that of this machine, which could not stand in for the board otherwise.
[[units]]
name = "npu"
kind = "cpu"

[units.capabilities."*"]
fp32 = "fast"
fp16 = "fast"
bf16 = "fast"
w8a8 = "fast"
w8a16 = "fast"
w8-dynamic = "fast"
w8-only = "fast"
w4a8 = "fast"
w4a16 = "fast"
w4-dynamic = "fast"
w4-only = "fast"

[[runtimes]]
name = "{0}"
units = ["npu", "cpu"]
versions = ">=1"
"""
DEPTHWISE = 4096 * 9 / (4096 * 27 + 4096 * 9 + 8192 * 16 + 2048 * 288 + 320)
"""Share of the multiply-accumulates of `small_cnn` that its depthwise convolution has: 4.2 %."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engine's package, its samples and a cache that the tests share."""
    folder = tmp_path_factory.mktemp("place")
    facts = folder / "site/twounits-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Name: twounits\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[edgesdk.backends]\n"
        "timed = twounits:Timed\nuntimed = twounits:Untimed\nmute = twounits:Mute\n"
    )
    (folder / "site/twounits.py").write_text(ENGINE)
    rng = np.random.default_rng(0)
    np.savez(folder / "rows.npz", image=rng.standard_normal((24, 3, 32, 32)).astype(np.float32))
    return folder


@pytest.fixture(autouse=True)
def engine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the engine, as a third party's package would."""
    paths = [str(place / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(str(place / "site"))


def run(
    model: Path, place: Path, out: Path, backend: str, most: float | None, **options: Any
) -> Deployment:
    profile = place / f"{backend}.toml"
    profile.write_text(BOARD.format(backend))
    return deploy(
        model,
        profile=str(profile),
        samples=str(place / "rows.npz"),
        budget=Budget(max_fallback=most, objective="size"),
        settings=QUICK,
        cache=Cache(place / "cache"),
        out=out,
        **{"recipes": (f"{backend}/w8a8-dynamic",), **options},
    )


def refused(model: Path, place: Path, out: Path, backend: str, most: float) -> DeployReport:
    with pytest.raises(BudgetNotMet) as caught:
        run(model, place, out, backend, most)
    assert isinstance(caught.value.report, DeployReport)
    return caught.value.report


def test_a_share_within_the_gate_passes_and_is_written_everywhere(
    small_cnn: Path, place: Path, tmp_path: Path
) -> None:
    done = run(small_cnn, place, tmp_path / "out", "untimed", 0.05)
    assert done.decision.chosen == "untimed/w8a8-dynamic"
    for outcome in done.outcomes:
        assert outcome.shares is not None
        assert outcome.shares.by == Basis.MACS
        assert outcome.shares.fallback == pytest.approx(DEPTHWISE)
    assert done.report.headline.endswith("; npu 96 %, cpu 4 % of the multiply-accumulates")
    manifest = read_manifest(tmp_path / "out" / BUNDLE)
    figure = manifest.figure("macs_share", of="cpu")
    assert figure is not None
    assert figure.value == pytest.approx(DEPTHWISE)
    assert figure.evidence == done.report.rows[0].evidence
    assert "max-fallback=5%" in done.report.budget
    saved = json.loads((tmp_path / "out" / REPORT_JSON).read_text())
    assert DeployReport.from_json(saved).rows[0].shares == done.outcomes[0].shares


def test_a_share_above_the_gate_loses_with_the_nodes_and_their_reasons(
    small_cnn: Path, place: Path, tmp_path: Path
) -> None:
    report = refused(small_cnn, place, tmp_path / "out", "untimed", 0.04)
    assert {row.status for row in report.rows} == {Status.OVER_BUDGET}
    original, candidate = report.rows
    assert original.reason.startswith("4.24 % of the multiply-accumulates not on npu, limit 4 %")
    assert original.reason.endswith(
        "Conv 'conv_c' 4 % on cpu (no kernel for depthwise convolutions), 1 more"
    )
    assert candidate.latency is None, "what cannot win is not measured"
    assert "not on npu, limit 4 % (closest: " in report.headline


def test_the_gate_takes_the_runtimes_own_times_where_it_has_them(
    small_cnn: Path, place: Path, tmp_path: Path
) -> None:
    done = run(small_cnn, place, tmp_path / "out", "timed", 1.0)
    chosen = done.report.chosen_row
    assert chosen is not None
    assert chosen.shares is not None
    assert chosen.shares.by == Basis.TIME
    elsewhere = sum(time.ms for time in chosen.node_times if time.unit == "cpu")
    total = sum(time.ms for time in chosen.node_times)
    assert chosen.shares.fallback == pytest.approx(elsewhere / total)
    assert {one.node for one in chosen.shares.elsewhere} == {
        time.node for time in chosen.node_times if time.unit == "cpu"
    }
    figure = read_manifest(tmp_path / "out" / BUNDLE).figure("time_share", of="npu")
    assert figure is not None
    assert figure.value == pytest.approx(1 - elsewhere / total)

    bundle = tmp_path / "out" / BUNDLE
    assert validate_bundle(bundle, max_fallback=1.0).passed
    *_, check = validate_bundle(bundle, max_fallback=0.0).checks
    assert not check.passed
    assert "of the time not on npu, limit 0 %" in check.detail

    report = refused(small_cnn, place, tmp_path / "strict", "timed", 0.0)
    assert all("of the time not on npu, limit 0 %" in row.reason for row in report.rows)


def test_an_unknown_placement_fails_a_gate_and_only_a_gate(
    small_cnn: Path, place: Path, tmp_path: Path
) -> None:
    report = refused(small_cnn, place, tmp_path / "gate", "mute", 1.0)
    for row in report.rows:
        assert row.status == Status.OVER_BUDGET
        assert "cannot be proved: mute does not tell where its nodes run" in row.reason

    done = run(small_cnn, place, tmp_path / "none", "mute", None)
    assert done.report.headline.endswith("; whether it runs on the npu is not known")
    manifest = read_manifest(tmp_path / "none" / BUNDLE)
    assert not [figure for figure in manifest.measured if figure.name.endswith("_share")]


def test_without_a_gate_only_the_original_and_the_winner_are_looked_into(
    small_cnn: Path, place: Path, tmp_path: Path
) -> None:
    recipes = ("untimed/fp32", "untimed/w8a8-dynamic")
    done = run(small_cnn, place, tmp_path / "out", "untimed", None, recipes=recipes)
    looked = {outcome.name for outcome in done.outcomes if outcome.shares}
    assert looked == {ORIGINAL, done.decision.chosen}


def test_the_table_of_what_runs_elsewhere_is_on_the_page_and_in_the_terminal(
    small_cnn: Path, place: Path, tmp_path: Path
) -> None:
    done = run(small_cnn, place, tmp_path / "out", "untimed", None)
    page = (tmp_path / "out" / REPORT_HTML).read_text()
    console = Console(width=120, record=True, file=StringIO())
    console.print(render_terminal(done.report))
    shown = console.export_text()
    for text in (page, shown):
        assert "Not on npu" in text
        assert "no kernel for depthwise convolutions" in text
        assert "conv_c" in text
