"""Probing: every experiment runs on real engines, and what is written is a profile."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgesdk.backend import OpenOptions, backend_names, require_backend
from edgesdk.cli.app import app
from edgesdk.device.base import EngineThere
from edgesdk.errors import BackendUnavailable, InputError, OutputError, ProfileError
from edgesdk.machine import detect
from edgesdk.measure.environment import stolen_ns
from edgesdk.probe.child import time_experiments
from edgesdk.probe.doubts import doubtful, settled
from edgesdk.probe.engines import candidates, profile_of, usable
from edgesdk.probe.micro import build
from edgesdk.probe.points import experiments
from edgesdk.probe.run import probe_machine
from edgesdk.probe.series import Timed, series_of
from edgesdk.probe.write import Engine, Findings, profile_text
from edgesdk.profile import load_profile
from edgesdk.profile_speeds import KINDS
from edgesdk.recipe import Recipe

ALL = experiments([("onnxruntime", ("fp32", "w8a8", "w8-dynamic")), ("openvino", ("fp32", "bf16"))])


def smallest(kind: str, precision: str) -> tuple[int, ...]:
    sizes = [e.sizes for e in ALL if e.kind == kind and e.precision == precision]
    return min(sizes, key=lambda size: sum(size))


MACHINE, BASE = detect(), load_profile("x86-avx2")
PAIRS = sorted({(e.kind, e.precision) for e in ALL if e.backend == "onnxruntime"})


# --- experiments


def test_the_first_pass_covers_every_series() -> None:
    first = {item.series for item in ALL if item.turn == 0}
    assert first == {item.series for item in ALL}


def test_every_experiment_has_the_sizes_of_its_kind() -> None:
    for item in ALL:
        assert len(item.sizes) == len(KINDS[item.kind])


@pytest.mark.parametrize(("kind", "precision"), PAIRS)
def test_every_micro_graph_runs(kind: str, precision: str, tmp_path: Path) -> None:
    micro = build(kind, smallest(kind, precision), precision, units=2)
    source, out = tmp_path / "micro.onnx", tmp_path / "out"
    source.write_bytes(micro.model.SerializeToString())
    out.mkdir()
    backend = require_backend("onnxruntime")
    with backend.open(backend.convert(source, Recipe(), out), OpenOptions()) as session:
        assert len(session.outputs) == 1
    assert micro.units >= 1


def test_a_child_answers_for_each_experiment_and_names_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [["conv", [49, 16, 16, 9]], ["conv>add", [64 * 49]], ["product", [0, 0, 0]]]
    told = time_experiments(
        {
            "backend": "openvino",
            "execution": "fp32",
            "precision": "w8a8",
            "threads": 1,
            "seconds": 60,
            "experiments": asked[:2],
        }
    )["times"]
    assert [set(answer) >= {"us", "units", "extra", "bytes"} for answer in told] == [True, True]
    assert "base_us" in told[1]
    assert all(answer["us"] > 0 for answer in told)


# --- from timed graphs to series


def answer(us: float, units: int = 1, moved: int = 8, **more: object) -> dict[str, object]:
    return {"us": us, "units": units, "extra": [], "bytes": moved, **more}


def timed(kind: str, sizes: tuple[int, ...], told: dict[str, object]) -> Timed:
    (like,) = [e for e in ALL if e.backend == "onnxruntime" and e.precision == "fp32"][:1]
    return Timed(experiment=replace(like, kind=kind, sizes=sizes), answer=told)


def test_the_run_and_what_stands_between_is_subtracted() -> None:
    found = series_of(
        [
            timed("relu", (64,), answer(40.0, 2, extra=[["softmax", [1.0, 64.0], 2]])),
            timed("softmax", (1, 64), answer(30.0, 2)),
            timed("run", (8,), answer(10.0)),
        ]
    )
    assert found["onnxruntime", "fp32", "softmax"] == [(1.0, 64.0, 10.0)]
    ((elements, us),) = found["onnxruntime", "fp32", "relu"]
    assert elements == 64.0
    assert us == pytest.approx(5.0, abs=0.1)


def test_a_tail_is_what_it_adds_and_never_less_than_nothing() -> None:
    found = series_of(
        [
            timed("conv>relu", (64,), answer(40.0, 4, base_us=20.0)),
            timed("conv>relu", (128,), answer(40.0, 4, base_us=60.0)),
        ]
    )
    (one, other) = found["onnxruntime", "fp32", "conv>relu"]
    assert one == (64.0, 5.0)
    assert 0 < other[1] <= 0.01


def test_a_time_that_its_neighbours_contradict_is_doubtful_and_the_lower_one_stands() -> None:
    """Something else ran while the largest was timed; the tail's base came out too slow."""
    straight = [timed("add", (size,), answer(float(size))) for size in (100, 200, 400, 800)]
    disturbed = timed("add", (1600,), answer(16000.0))
    tails = [
        timed("conv>relu", (size,), answer(size + 100.0, base_us=100.0)) for size in (100, 200, 800)
    ]
    cut = timed("conv>relu", (400,), answer(500.0, base_us=490.0))
    assert doubtful([*straight, *tails]) == []
    assert doubtful([*straight, disturbed, *tails])[0] is disturbed
    assert doubtful([*straight, *tails, cut])[0] is cut
    again = timed("add", (1600,), answer(1700.0))
    assert settled(disturbed, again).answer["us"] == 1700.0
    assert settled(again, disturbed).answer["us"] == 1700.0
    assert settled(disturbed, timed("add", (1600,), {"error": "x"})) == disturbed
    assert settled(cut, timed("conv>relu", (400,), answer(510.0, base_us=100.0))).answer == (
        answer(500.0, base_us=100.0)
    )


def test_time_taken_by_the_host_is_told_from_the_kernels_count(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 2 3 4 5 6 7 80 0 0\ncpu0 1 2 3 4 5 6 7 80 0 0\n")
    assert stolen_ns(tmp_path) == 80 * 10**9 // os.sysconf("SC_CLK_TCK")
    assert stolen_ns(tmp_path / "none") == 0


def test_what_failed_is_left_out() -> None:
    assert series_of([timed("run", (8,), {"error": "it refused"})]) == {}


# --- the profile


@given(st.text(min_size=1, max_size=40).filter(str.strip), st.floats(1e-3, 1e9))
@settings(max_examples=40, deadline=None)
def test_whatever_a_machine_is_called_the_text_is_toml(name: str, us: float) -> None:
    machine = replace(MACHINE, cpu=name)
    findings = Findings(
        name="mine",
        machine=machine,
        base=BASE,
        engines=(Engine(name="onnxruntime", version="1", footprint_mib=50.0, weight_copies=2.0),),
        threads=2,
        bandwidth=1e10,
        series={("onnxruntime", "fp32", "relu"): [(64.0, us)]},
        day=date(2026, 11, 22),
    )
    document = tomllib.loads(profile_text(findings))
    assert document["units"][0]["title"] == name
    assert document["speeds"][0]["points"] == [[64, pytest.approx(us)]]


@pytest.mark.skipif(detect().arch != "x86_64", reason="the shipped detected profile is x86")
def test_a_short_probe_writes_a_profile_that_checks(tmp_path: Path) -> None:
    """It is as short as on a busy machine: what it has time for is up to the machine."""
    out = tmp_path / "mine.toml"
    heard: list[str] = []
    found = probe_machine(
        out,
        backends=("onnxruntime",),
        seconds=10,
        threads=1,
        listen=lambda event: heard.append(event.state),
    )
    assert found.measured > 0
    assert {"begin", "done"} <= set(heard)
    profile = load_profile(str(out))
    assert profile == found.profile
    assert profile.name == "mine"
    assert profile.mismatch(detect()) is None
    assert all(speed.source.startswith("edgesdk probe") for speed in profile.speeds)
    checked = CliRunner().invoke(app, ["profiles", "check", str(out), "--json"])
    assert json.loads(checked.stdout)["ok"] is True


# --- refusals


def test_an_output_that_is_taken_or_no_profile_is_refused_at_once(tmp_path: Path) -> None:
    taken = tmp_path / "taken.toml"
    taken.write_text("")
    for out in (taken, tmp_path / "mine.json", tmp_path / "nowhere" / "mine.toml"):
        with pytest.raises(OutputError, match="choose another --out"):
            probe_machine(out)


def test_engines_and_times_that_cannot_be_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    with pytest.raises(InputError, match="seconds"):
        probe_machine(out, seconds=0)
    with pytest.raises((BackendUnavailable, ProfileError), match="tensorrt"):
        probe_machine(out, backends=("tensorrt",))
    assert not out.exists()


def test_a_machine_that_no_profile_describes_is_told_what_to_do() -> None:
    with pytest.raises(ProfileError, match="write one first"):
        profile_of(replace(detect(), arch="riscv64"))


@pytest.mark.parametrize("command", [["probe", "--device"], ["devices", "probe"]])
def test_what_is_emulated_is_not_probed(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    done = CliRunner().invoke(app, [*command, "emulated:cortex-a53", "--out", str(out), "--json"])
    assert done.exit_code == 3
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "DeviceError"
    assert "tells no times" in error["message"]
    assert not out.exists()


def test_engines_that_are_not_there_are_left_out_or_refused() -> None:
    wanted = candidates(BASE, (), "ssh://host")
    there = {name: EngineThere(version="", unavailable="no wheel") for name in wanted}
    with pytest.raises(BackendUnavailable, match="no backend can be probed"):
        usable(wanted, there, asked=False)
    there["openvino"] = EngineThere(version="1.2")
    assert usable(wanted, there, asked=False) == {"openvino": "1.2"}
    with pytest.raises(BackendUnavailable, match="'onnxruntime': no wheel"):
        usable(wanted, there, asked=True)


@pytest.mark.skipif("litert" not in backend_names(), reason="litert is not registered here")
def test_an_engine_whose_converter_cannot_be_sent_is_probed_here_only() -> None:
    base = load_profile("arm-cpu")
    assert set(candidates(base, (), "local").values()) == {None}
    with pytest.raises(BackendUnavailable, match="'litert': its models are converted by tools"):
        usable(candidates(base, ("litert",), "ssh://host"), {}, asked=True)


def test_the_command_reports_errors_as_its_siblings_do(tmp_path: Path) -> None:
    taken = tmp_path / "taken.toml"
    taken.write_text("")
    done = CliRunner().invoke(app, ["probe", "--out", str(taken), "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["type"] == "OutputError"
