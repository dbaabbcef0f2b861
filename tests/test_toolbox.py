"""Environments of their own for tools: made once, whole or not at all, and closed to our packages."""

from __future__ import annotations

import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgesdk.cache import Cache
from edgesdk.errors import BackendUnavailable, StepFailed
from edgesdk.toolbox import Toolset, environment, run_tool

TOOLS = Toolset(name="abacus", pins=("abacus==1.0",))


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A package with one module, as an index would give it; it wants a Python that nobody has."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            "Requires-Python: >=99\nRequires-Dist: not-there-at-all==1\n"
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


def take_wheels_from(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have pip ask no index."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONSTRAINT"):
        patch.delenv(name, raising=False)
    patch.setenv("PIP_CONFIG_FILE", "/dev/null")
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes wheels from."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    take_wheels_from(wheels, monkeypatch)
    return wheels


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache with the environment in it."""
    folder = tmp_path_factory.mktemp("made")
    make_wheel(folder, "abacus", "1.0")
    cache = Cache(folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        take_wheels_from(folder, patch)
        environment(TOOLS, cache)
    return cache


def program(folder: Path, body: str) -> Path:
    """A program of the toolbox's kind, whose `answer` is made by `body`."""
    text = f"""
import json, sys, time
from pathlib import Path
request_file = Path(sys.argv[1])
request = json.loads(request_file.read_text())
{body}
(request_file.parent / "response.json").write_text(json.dumps(answer))
"""
    path = folder / "program.py"
    path.write_text(text)
    return path


def test_it_holds_exactly_what_is_pinned_whatever_the_package_declares(
    offline: Path, cache: Cache
) -> None:
    make_wheel(offline, "abacus", "1.0")
    make_wheel(offline, "abacus", "2.0")
    python = environment(TOOLS, cache)
    code = "import abacus; print(abacus.VERSION)"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"


def test_it_is_made_once_for_all_who_ask(offline: Path, cache: Cache) -> None:
    make_wheel(offline, "abacus", "1.0")
    with ThreadPoolExecutor(3) as pool:
        made = set(pool.map(lambda _: environment(TOOLS, cache), range(3)))
    assert len(made) == 1
    for wheel in offline.iterdir():
        wheel.unlink()
    assert {environment(TOOLS, cache)} == made
    assert len(list((cache.root / "entries").iterdir())) == 1


def test_what_was_damaged_is_made_anew(offline: Path, cache: Cache) -> None:
    make_wheel(offline, "abacus", "1.0")
    (module,) = environment(TOOLS, cache).parents[1].rglob("abacus.py")
    module.write_text("VERSION = 'something else'\n")
    (module,) = environment(TOOLS, cache).parents[1].rglob("abacus.py")
    assert "1.0" in module.read_text()


def test_without_an_index_it_says_what_to_do_and_leaves_nothing(
    offline: Path, cache: Cache
) -> None:
    assert not list(offline.iterdir())
    with pytest.raises(BackendUnavailable, match=r"(?s)abacus .*PIP_FIND_LINKS.*abacus==1\.0"):
        environment(TOOLS, cache)
    assert not list((cache.root / "entries").iterdir())
    make_wheel(offline, "abacus", "1.0")
    assert environment(TOOLS, cache).exists()


def test_a_program_answers_and_sees_none_of_our_packages(
    made: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ours.py").write_text("")
    body = """
from importlib.util import find_spec
answer = {
    "sum": sum(request["numbers"]),
    "seen": [n for n in ("abacus", "ours", "edgesdk", "numpy", "onnx") if find_spec(n)],
}
"""
    work = tmp_path / "work"
    work.mkdir()
    asked = {"numbers": [1, 2, 4]}
    answer = run_tool(TOOLS, program(tmp_path, body), asked, work, timeout_s=60, cache=made)
    assert answer == {"sum": 7, "seen": ["abacus"]}


@pytest.mark.parametrize(
    ("body", "timeout_s", "kind", "said"),
    [
        ("answer = {'error': 'no beads'}", 60, "error", "abacus: no beads"),
        ("raise SystemExit(5)", 60, "error", "exit code 5"),
        ("import os; os.abort()", 60, "crash", "SIGABRT"),
        ("time.sleep(60)", 0.5, "timeout", "0.5 s"),
    ],
)
def test_a_program_that_fails_is_a_failed_step(
    body: str, timeout_s: float, kind: str, said: str, made: Cache, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "response.json").write_text("{}")  # of an earlier run
    with pytest.raises(StepFailed, match=said) as caught:
        run_tool(TOOLS, program(tmp_path, body), {}, work, timeout_s=timeout_s, cache=made)
    assert caught.value.kind == kind
