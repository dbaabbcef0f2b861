"""The measurement: figures that hold, and nothing left behind when an engine misbehaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgesdk.backend import require_backend
from edgesdk.device.local import LocalDevice
from edgesdk.errors import BackendUnavailable, InputError, ModelError, SamplesError, StepFailed
from edgesdk.evidence import Evidence
from edgesdk.measure.alone import measure_alone
from edgesdk.measure.pair import fit_together, measure_candidate
from edgesdk.measure.result import Measurement
from edgesdk.measure.settings import Inputs, Settings, Target
from edgesdk.recipe import Recipe

MIB = 1 << 20
QUICK = Settings(
    window_s=0.05,
    min_rounds=6,
    max_rounds=12,
    max_seconds=30.0,
    warmup_seconds=0.5,
    processes=1,
    rows=4,
)

ENGINE = '''
"""An engine that does what its artifact says, in a real process: sleep, crash, hang, swell."""
import json, os, signal, threading, time
import numpy as np
from edgesdk.backend import Backend, Session
from edgesdk.errors import ModelError
from edgesdk.signature import TensorInfo

class ActorBackend(Backend):
    name, install = "actor", "none"
    def unavailable(self): return None
    def version(self): return "7"
    def convert(self, model, recipe, out): raise NotImplementedError
    def open(self, artifact, options): return Actor(json.loads(artifact.read_text()))

class Actor(Session):
    def __init__(self, act):
        self.act, self.runs = act, 0
        self.inputs = (TensorInfo(name="x", dtype="float32", shape=(None,)),)
        self.outputs = ()
        os.write(1, b"native noise on standard output\\n")
        self.note("open")
        if "refuse" in act: raise ModelError(act["refuse"])
        if act.get("spin"): threading.Thread(target=self.spin, daemon=True).start()
        big = np.ones(act.get("load_mib", 0) << 17)  # 8 bytes each
    def note(self, what):
        if "notes" in self.act:
            with open(self.act["notes"], "a") as notes:
                notes.write(json.dumps([what, os.getpid(), time.monotonic()]) + "\\n")
    def spin(self):
        while True:
            self.note("spin")
            time.sleep(0.002)
    def run(self, feed):
        self.runs += 1
        if self.runs > self.act.get("good_runs", 1 << 60):
            if self.act["then"] == "crash": os.kill(os.getpid(), signal.SIGSEGV)
            if self.act["then"] == "hang": time.sleep(1000)
            if self.act["then"] == "swell": self.held = np.ones(1 << 27); time.sleep(1000)
            if self.act["then"] == "raise": raise ValueError("engine trouble")
        big = np.ones(self.act.get("run_mib", 0) << 17)
        self.note("begin")
        time.sleep(self.act.get("ms", 1) * feed["x"].size / 1000)
        self.note("end")
        return {}
'''


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registers the engine above, as a third party's package would; a folder to work in."""
    site = tmp_path / "site"
    (site / "actor-1.dist-info").mkdir(parents=True)
    (site / "actor-1.dist-info/METADATA").write_text("Name: actor\nVersion: 1\n")
    (site / "actor-1.dist-info/entry_points.txt").write_text(
        "[edgesdk.backends]\nactor = actor_engine:ActorBackend\n"
    )
    (site / "actor_engine.py").write_text(ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(site))
    return tmp_path


def acting(folder: Path, name: str, **act: object) -> Target:
    """An artifact that makes the engine above act so."""
    artifact = folder / f"{name}.act"
    artifact.write_text(json.dumps(act))
    return Target(backend="actor", artifact=artifact)


def rows_of(folder: Path, arrays: list[np.ndarray], name: str = "x") -> Inputs:
    folder.mkdir(exist_ok=True)
    rows = []
    for number, array in enumerate(arrays):
        rows.append(folder / f"{number:04d}.npz")
        np.savez(rows[-1], allow_pickle=False, **{name: array, "label": np.array(number)})
    return Inputs(names=(name,), rows=tuple(rows))


def ones(folder: Path, count: int = 2) -> Inputs:
    return rows_of(folder / "rows", [np.ones(1, np.float32)] * count)


def compare(
    folder: Path, old: Target, new: Target, inputs: Inputs | None = None, settings: Settings = QUICK
) -> tuple[Measurement, Measurement]:
    return measure_candidate(
        old, new, inputs or ones(folder), settings, LocalDevice(), folder / "logs"
    )


def known(value: float | None) -> float:
    """A figure that must be there."""
    assert value is not None
    return value


def notes_of(path: Path) -> list[tuple[str, int, float]]:
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _no_runner_is_left_behind() -> Iterator[None]:
    yield
    assert runners_of(os.getpid()) == []


def runners_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if b"edgesdk.measure.runner" in command and int(rest[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def onnx_target(model: Path, folder: Path, backend: str = "onnxruntime") -> Target:
    out = folder / backend
    out.mkdir(exist_ok=True)
    artifact = require_backend(backend).convert(model, Recipe.parse("fp32"), out)
    return Target(backend=backend, artifact=artifact)


def images(folder: Path, count: int = 3) -> Inputs:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(count)]
    return rows_of(folder / "images", arrays, "image")


def test_an_artifact_is_as_fast_as_itself_and_its_figures_are_plausible(
    tmp_path: Path, small_cnn: Path
) -> None:
    target = onnx_target(small_cnn, tmp_path)
    old, new = compare(tmp_path, target, target, images(tmp_path))
    assert (old.speedup.low, old.speedup.value, old.speedup.high) == (1, 1, 1)
    # Others may use this machine meanwhile: what must hold is that neither side is favoured.
    assert 0.75 < new.speedup.value < 1.33
    assert new.speedup.low <= new.speedup.value <= new.speedup.high
    assert new.timed.count >= 6 * QUICK.window_runs
    assert 0 < new.timed.p50_ms <= new.timed.p90_ms <= new.timed.p95_ms <= new.timed.p99_ms
    assert known(new.import_ms) > 1
    assert known(new.load_ms) > 0.1
    assert known(new.first_run_ms) > 0
    assert 10 < known(new.base_mib) < known(new.peak_load_mib) < 1000
    assert new.used_mib >= known(new.peak_run_mib) > known(new.base_mib)
    assert new.artifact_bytes == target.artifact.stat().st_size
    assert new.evidence is Evidence.MEASURED
    assert new.threads == 1
    assert {"cpu", "load_average", "onnxruntime", "pinned_cores"} <= new.environment.keys()
    assert Measurement.from_json(json.loads(json.dumps(new.to_json()))) == new


def test_an_interpreter_in_python_is_slower_than_an_engine(tmp_path: Path, small_mlp: Path) -> None:
    inputs = rows_of(tmp_path / "rows", [np.ones((1, 64), np.float32)], "x")
    slow, fast = (onnx_target(small_mlp, tmp_path, name) for name in ("null", "onnxruntime"))
    _, new = compare(tmp_path, slow, fast, inputs)
    assert new.speedup.low > 2


def test_a_known_ratio_is_found(actor: Path) -> None:
    old, new = compare(actor, acting(actor, "slow", ms=8), acting(actor, "fast", ms=4))
    assert new.speedup.value == pytest.approx(2, rel=0.15)
    assert old.timed.p50_ms == pytest.approx(8, rel=0.25)


def test_what_cannot_win_is_not_measured_any_closer(actor: Path) -> None:
    settings = replace(QUICK, min_rounds=20, processes=2, hopeless=3.0)
    _, new = compare(
        actor, acting(actor, "slow", ms=4), acting(actor, "fast", ms=2), settings=settings
    )
    assert new.environment["windows"] == "10"
    assert new.environment["processes"] == "1"
    assert new.stable
    assert new.speedup.high < 3.0


def test_the_one_that_rests_does_not_run_at_all(actor: Path) -> None:
    notes = actor / "notes"
    compare(
        actor,
        acting(actor, "old", ms=3, notes=str(notes), spin=True),
        acting(actor, "new", ms=3, notes=str(notes), spin=True),
        settings=replace(QUICK, processes=2),
    )
    seen = notes_of(notes)
    runs = []
    begun: dict[int, float] = {}
    for what, pid, when in seen:
        if what == "begin":
            begun[pid] = when
        if what == "end":
            runs.append((pid, begun[pid], when))
    spins = [(pid, when) for what, pid, when in seen if what == "spin"]
    assert len(runs) > 100
    assert len(spins) > 100
    assert len({pid for pid, _ in spins}) == 4  # two fresh processes a side
    disturbed = [
        run for run in runs if any(pid != run[0] and run[1] < at < run[2] for pid, at in spins)
    ]
    assert disturbed == []


def test_sequential_processes_never_live_at_the_same_time(actor: Path) -> None:
    notes = actor / "notes"
    _, new = compare(
        actor,
        acting(actor, "old", notes=str(notes)),
        acting(actor, "new", notes=str(notes)),
        settings=replace(QUICK, sequential=True, max_seconds=0.1),
    )
    pids = [pid for _, pid, _ in notes_of(notes)]
    changes = sum(a != b for a, b in pairwise(pids))
    assert changes + 1 == len(set(pids)) == 2 * 5
    assert new.environment["alternation"] == "one process after the other"


def test_artifacts_fit_together_when_thrice_their_bytes_are_a_quarter_of_what_is_free(
    tmp_path: Path,
) -> None:
    target = acting(tmp_path, "small")
    with (tmp_path / "small.data").open("wb") as hole:
        hole.truncate(100 * MIB)
    assert fit_together(target, target, 4 * 601)
    assert not fit_together(target, target, 4 * 599)
    assert fit_together(target, target, None)


def test_inputs_of_different_shapes_weigh_as_often_as_they_occur(actor: Path) -> None:
    arrays = [np.ones(size, np.float32) for size in (1, 1, 1, 4)]
    old, _ = compare(
        actor,
        acting(actor, "old", ms=2),
        acting(actor, "new", ms=2),
        rows_of(actor / "mixed", arrays),
        replace(QUICK, window_s=0.1),
    )
    assert old.timed.count % 4 == 0
    assert old.timed.mean_ms == pytest.approx(2 * 7 / 4, rel=0.3)
    assert old.environment["timed_inputs"] == "4 of 4"


def test_a_scalar_input_stays_a_scalar(tmp_path: Path, vad_model: Path) -> None:
    (tmp_path / "rows").mkdir()
    row = tmp_path / "rows/0.npz"
    np.savez(
        row,
        input=np.zeros((1, 576), np.float32),
        state=np.zeros((2, 1, 128), np.float32),
        sr=np.array(16000, np.int64),
    )
    target = Target(backend="onnxruntime", artifact=vad_model)
    inputs = Inputs(names=("input", "state", "sr"), rows=(row,))
    found = measure_alone(target, inputs, QUICK, LocalDevice(), tmp_path, cold_starts=1)
    assert found.measurement.timed.count > 10


def test_a_slow_model_is_measured_on_fewer_inputs_and_runs(actor: Path) -> None:
    _, new = compare(
        actor,
        acting(actor, "old", ms=100),
        acting(actor, "new", ms=100),
        ones(actor, 50),
        replace(QUICK, max_seconds=1),
    )
    assert new.environment["timed_inputs"] == "1 of 50"
    assert new.timed.count == 5 * QUICK.window_runs
    assert any("15 runs were timed" in warning for warning in new.warnings)


def test_peaks_of_loading_and_running_are_told_apart(actor: Path) -> None:
    old, new = compare(actor, acting(actor, "old", load_mib=200), acting(actor, "new", run_mib=100))
    assert known(old.peak_load_mib) > known(old.base_mib) + 190
    assert known(old.peak_run_mib) < known(old.base_mib) + 50
    assert known(new.peak_run_mib) > known(new.base_mib) + 90
    assert known(new.peak_load_mib) < known(new.base_mib) + 50


@pytest.mark.parametrize(
    ("then", "kind", "message"),
    [
        ("crash", "crash", "'window' of actor/new.act crashed with SIGSEGV"),
        ("hang", "timeout", "'window' of actor/new.act did not end within 2 s"),
        ("swell", "memory", "of memory; its limit is 400 MiB"),
        ("raise", "error", "'window' of actor/new.act: ValueError: engine trouble"),
    ],
)
def test_an_engine_that_misbehaves_fails_alone(
    actor: Path, then: str, kind: str, message: str
) -> None:
    settings = replace(QUICK, timeout_s=2.0, memory_bytes=400 * MIB)
    with pytest.raises(StepFailed, match=message) as caught:
        compare(
            actor,
            acting(actor, "old"),
            acting(actor, "new", good_runs=20, then=then),
            settings=settings,
        )
    assert caught.value.kind == kind


def test_an_adapters_refusal_comes_back_as_it_was(actor: Path) -> None:
    with pytest.raises(ModelError, match=r"^opset 99 is too new$"):
        compare(actor, acting(actor, "old"), acting(actor, "new", refuse="opset 99 is too new"))


def test_an_unknown_backend_is_named(actor: Path) -> None:
    nobody = replace(acting(actor, "old"), backend="nobody")
    with pytest.raises(BackendUnavailable, match="'nobody'"):
        compare(actor, nobody, nobody)


def test_a_missing_input_is_named(actor: Path) -> None:
    inputs = replace(ones(actor), names=("x", "mask"))
    with pytest.raises(SamplesError, match="has no mask"):
        compare(actor, acting(actor, "old"), acting(actor, "new"), inputs)


def test_measuring_on_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to measure on"):
        Inputs(names=("x",), rows=())


def test_frozen_runners_die_with_the_one_who_asked(actor: Path) -> None:
    notes = actor / "notes"
    target = acting(actor, "long", ms=5, notes=str(notes))
    rows = ones(actor).rows
    code = f"""
from pathlib import Path
from edgesdk.device.local import LocalDevice
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.settings import Inputs, Settings, Target
target = Target(backend="actor", artifact=Path({str(target.artifact)!r}))
inputs = Inputs(names=("x",), rows=tuple(map(Path, {[str(row) for row in rows]!r})))
settings = Settings(min_rounds=1000, max_rounds=1000, max_seconds=1000, window_s=0.01)
measure_candidate(target, target, inputs, settings, LocalDevice(), Path({str(actor)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", code]) as asker:
        while not notes.exists() or len({pid for _, pid, _ in notes_of(notes)}) < 2:
            assert asker.poll() is None
            time.sleep(0.05)
        runners = runners_of(asker.pid)
        assert len(runners) == 3
        asker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(is_alive(pid) for pid in runners) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in runners)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_cold_starts_are_fresh_processes(actor: Path) -> None:
    notes = actor / "notes"
    found = measure_alone(
        acting(actor, "only", ms=2, notes=str(notes)),
        ones(actor),
        QUICK,
        LocalDevice(),
        actor / "logs",
        cold_starts=3,
    )
    assert len(found.cold) == 3
    assert len({pid for _, pid, _ in notes_of(notes)}) == 3
    assert found.measurement.load_ms == min(start.load_ms for start in found.cold)
    assert found.measurement.timed.p50_ms == pytest.approx(2, rel=0.5)
    assert found.measurement.speedup.value == 1


def test_neighbours_of_the_same_stem_belong_to_an_artifact(tmp_path: Path) -> None:
    for name in ("a[1].xml", "a[1].bin", "a[1].onnx.data", "b.bin", "a.bin"):
        (tmp_path / name).write_bytes(b"1")
    target = Target(backend="x", artifact=tmp_path / "a[1].xml")
    assert [file.name for file in target.all_files()] == ["a[1].bin", "a[1].onnx.data", "a[1].xml"]
