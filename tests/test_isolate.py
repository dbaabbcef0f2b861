"""Steps in child processes: every way in which native code goes wrong, for real."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgesdk.errors import EdgeSdkError, ModelError, StepFailed
from edgesdk.isolate import LOG, REQUEST, RESPONSE, StepResult, run_isolated

MIB = 1 << 20

STEPS = """
import ctypes, os, signal, subprocess, sys, threading, time
from edgesdk.errors import ModelError, RecipeError

class Strange(ModelError):
    pass

def add(request): return {"sum": request["a"] + request["b"]}
def environment(request): return {name: os.environ.get(name) for name in request["names"]}
def segfault(request): ctypes.string_at(0)
def abort(request): os.abort()
def hang(request):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(1000)
def swell(request):
    held = []
    while True:
        held.append(b"x" * (50 << 20))
        time.sleep(0.02)
def swell_in_a_child(request):
    code = "import time; held = b'x' * (600 << 20); time.sleep(1000)"
    subprocess.run([sys.executable, "-c", code])
def python_memory_error(request): bytearray(1 << 60)
def leave(request): sys.exit(3)
def leave_silently(request): os._exit(0)
def not_json(request): return {"set": {1, 2}}
def not_an_object(request): return [1]
def refuse(request): raise Strange("that is no model")
def fail_step(request):
    from edgesdk.errors import StepFailed
    raise StepFailed("inner engine gave up", kind="timeout", log="inner log")
def bug(request): return {}["absent"]
def chatter(request):
    os.write(1, b"native line\\n" * 20_000)
    print("python line")
    os.write(2, b"last words\\n")
    return {"done": True}
def flood(request):
    for _ in range(64):
        os.write(1, b"y" * (1 << 20))
        time.sleep(0.01)
    return {}
def leave_a_grandchild(request):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=request["escape"])
    open(request["pid"], "w").write(str(child.pid))
    time.sleep(request["linger"])
    return {}
def hang_with_a_grandchild(request):
    leave_a_grandchild({**request, "escape": False, "linger": 1000})
def killed(request): os.kill(os.getpid(), signal.SIGKILL)
def peak(request):
    held = b"x" * (200 << 20)
    return {"held": len(held)}
def write_here(request):
    import helper_of_the_user
    open("made.txt", "w").write(helper_of_the_user.TEXT)
    return {"path": "made.txt"}
def leave_a_thread(request):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return {"ok": True}
"""


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the steps above importable in children; the folder for their records."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/steps.py").write_text(STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return tmp_path / "step"


def run(
    name: str,
    folder: Path,
    *,
    timeout_s: float = 60,
    memory_bytes: int | None = None,
    **request: object,
) -> StepResult:
    return run_isolated(
        f"steps:{name}", request, folder=folder, timeout_s=timeout_s, memory_bytes=memory_bytes
    )


def gone(pid: int) -> bool:
    """Whether a process has ended, giving the kernel a moment."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_step_returns_its_answer_and_its_costs(step: Path) -> None:
    result = run("add", step, a=1, b=2)
    assert result.response == {"sum": 3}
    assert 1 < result.peak_mib < 500
    assert 0 < result.seconds < 30


def test_a_step_can_be_replayed_by_hand(step: Path) -> None:
    run("add", step, a=1, b=2)
    (step / RESPONSE).unlink()
    subprocess.run([sys.executable, "-m", "edgesdk.isolate", str(step)], check=True)
    assert json.loads((step / RESPONSE).read_text()) == {"sum": 3}
    assert json.loads((step / REQUEST).read_text())["request"] == {"a": 1, "b": 2}


def test_a_step_works_in_its_folder_and_finds_the_users_code(
    step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = step.parent / "project"
    project.mkdir()
    (project / "helper_of_the_user.py").write_text("TEXT = 'mine'")
    (project / "numpy.py").write_text("raise RuntimeError('hides the real one')")
    monkeypatch.chdir(project)
    made = run("write_here", step).response["path"]
    assert (step / made).read_text() == "mine"


def test_peak_memory_is_of_the_step_and_not_of_the_one_who_asked(step: Path) -> None:
    held = b"x" * (300 * MIB)
    assert run("add", step, a=1, b=2).peak_mib < 100
    assert 200 < run("peak", step).peak_mib < 300
    assert len(held) == 300 * MIB


@pytest.mark.parametrize(("name", "signal_name"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_names_the_signal_and_what_was_running(
    step: Path, name: str, signal_name: str
) -> None:
    with pytest.raises(StepFailed, match=rf"steps:{name} crashed with {signal_name}") as caught:
        run(name, step)
    assert caught.value.kind == "crash"
    assert f"in {name}" in caught.value.log  # the Python stack at the moment of the crash


def test_being_killed_by_others_is_not_a_crash_of_its_own(step: Path) -> None:
    with pytest.raises(StepFailed, match="killed from outside") as caught:
        run("killed", step)
    assert caught.value.kind == "killed"


def test_a_hang_ends_at_its_time_limit_and_shows_where_it_hung(step: Path) -> None:
    start = time.monotonic()
    with pytest.raises(StepFailed, match=r"did not end within 1\.5 s") as caught:
        run("hang", step, timeout_s=1.5)
    assert caught.value.kind == "timeout"
    assert "in hang" in caught.value.log
    assert time.monotonic() - start < 10


def test_a_step_over_its_memory_limit_ends_there(step: Path) -> None:
    with pytest.raises(
        StepFailed, match=r"took (\d+) MiB of memory; its limit is 300 MiB"
    ) as caught:
        run("swell", step, memory_bytes=300 * MIB)
    assert caught.value.kind == "memory"


def test_what_a_step_starts_counts_against_its_memory(step: Path) -> None:
    with pytest.raises(StepFailed, match="its limit is 300 MiB") as caught:
        run("swell_in_a_child", step, memory_bytes=300 * MIB)
    assert caught.value.kind == "memory"


def test_a_failed_allocation_is_a_memory_failure(step: Path) -> None:
    with pytest.raises(StepFailed, match="MemoryError") as caught:
        run("python_memory_error", step)
    assert caught.value.kind == "memory"


def test_our_errors_come_back_as_they_were(step: Path) -> None:
    with pytest.raises(ModelError, match=r"^that is no model$") as caught:
        run("refuse", step)
    assert type(caught.value) is ModelError


def test_a_failed_inner_step_keeps_its_kind_and_log(step: Path) -> None:
    with pytest.raises(StepFailed, match="inner engine gave up") as caught:
        run("fail_step", step)
    assert (caught.value.kind, caught.value.log) == ("timeout", "inner log")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bug", "steps:bug: KeyError: 'absent'"),
        ("leave", "steps:leave: SystemExit: 3"),
        ("leave_silently", "exit code 0 and no answer"),
        ("not_json", "set is not JSON serializable"),
        ("not_an_object", "a step returns a JSON object, not list"),
        ("absent", "has no attribute 'absent'"),
    ],
)
def test_any_other_end_is_an_error_that_says_why(step: Path, name: str, message: str) -> None:
    with pytest.raises(StepFailed, match=message) as caught:
        run(name, step)
    assert caught.value.kind == "error"


def test_a_module_that_does_not_exist_is_an_error(step: Path) -> None:
    with pytest.raises(StepFailed, match="No module named 'nowhere'"):
        run_isolated("nowhere:f", {}, folder=step, timeout_s=30)


def test_an_answer_of_an_earlier_run_is_not_taken(step: Path) -> None:
    run("add", step, a=1, b=2)
    with pytest.raises(StepFailed):
        run("leave_silently", step)


def test_output_of_native_code_goes_to_the_log(
    step: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("chatter", step).response == {"done": True}
    log = (step / LOG).read_text()
    assert log.count("native line") == 20_000
    assert "python line" in log
    assert "last words" in log
    assert capfd.readouterr() == ("", "")


def test_a_flood_of_output_does_not_fill_the_disk(step: Path) -> None:
    run("flood", step)
    assert (step / LOG).stat().st_size < 40 * MIB


def test_a_thread_left_running_does_not_hold_the_step_up(step: Path) -> None:
    assert run("leave_a_thread", step, timeout_s=20).response == {"ok": True}


@pytest.mark.parametrize(("escape", "linger"), [(False, 0), (True, 0.5)])
def test_grandchildren_are_not_left_behind(step: Path, escape: bool, linger: float) -> None:
    pid_file = step.parent / "pid"
    run("leave_a_grandchild", step, pid=str(pid_file), escape=escape, linger=linger)
    assert gone(int(pid_file.read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_the_process_that_asked(step: Path, number: signal.Signals) -> None:
    pid_file = step.parent / "pid"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # as a shell may not
        "from pathlib import Path; from edgesdk.isolate import run_isolated; "
        f"run_isolated('steps:hang_with_a_grandchild', {{'pid': {str(pid_file)!r}}}, "
        f"folder=Path({str(step)!r}), timeout_s=60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as asker:
        while not pid_file.exists() or not pid_file.read_text():
            assert asker.poll() is None
            time.sleep(0.02)
        asker.send_signal(number)
        asker.wait()
    assert gone(int(pid_file.read_text()))


def test_the_environment_of_a_step_is_explicit(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    names = ["PYTHONWARNINGS", "NNCF_CI", "OMP_NUM_THREADS", "EDGESDK_LEASH"]
    result = run_isolated(
        "steps:environment", {"names": names}, folder=step, timeout_s=30, threads=3
    )
    assert list(result.response.values()) == [None, "1", "3", None]


def test_every_error_of_ours_can_travel() -> None:
    from edgesdk.process import error_from_json, error_to_json

    classes = [EdgeSdkError]
    for cls in classes:
        classes += [sub for sub in cls.__subclasses__() if sub.__module__ == "edgesdk.errors"]
    assert len(classes) > 10
    for cls in classes:
        back = error_from_json(error_to_json(cls("why")), what="step x", log="")
        assert type(back) is cls
        assert "why" in str(back)


def test_no_descriptor_is_left_open(step: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    run("add", step, a=1, b=2)
    with pytest.raises(StepFailed):
        run("segfault", step)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


LEASHED = """
import fcntl, os, subprocess, sys, time
if sys.argv[2] == "without":  # as on systems that cannot signal a group by themselves
    del fcntl.F_SETSIG
from edgesdk.process import hold_leash
hold_leash()
open(sys.argv[1], "w").write(str(subprocess.Popen(["sleep", "1000"]).pid))
time.sleep(1000)
"""


@pytest.mark.parametrize("kernel", ["with", "without"])
def test_the_leash_holds_without_help_of_the_kernel(step: Path, kernel: str) -> None:
    (step.parent / "modules/leashed.py").write_text(LEASHED)
    pid_file = step.parent / "pid"
    code = (
        "from pathlib import Path; from edgesdk.process import Child; import time; "
        f"child = Child('leashed', {str(pid_file)!r}, {kernel!r}, log=Path({str(step)!r})); "
        "time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as asker:
        while not pid_file.exists() or not pid_file.read_text():
            assert asker.poll() is None
            time.sleep(0.02)
        asker.kill()
    assert gone(int(pid_file.read_text()))


def test_a_step_runs_where_there_is_no_proc(
    step: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgesdk.process._PROC", tmp_path / "absent")
    assert run("add", step, a=1, b=2).response == {"sum": 3}
