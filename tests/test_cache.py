"""Results by content: whole or absent, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesdk import cache as cache_module
from edgesdk.cache import ENTRY, FAILURE, Cache, default_root
from edgesdk.errors import ModelError, OutputError, StepFailed


def writes(text: str, *, calls: list[str] | None = None) -> Callable[[Path], None]:
    """A build that writes `text`, and says so in `calls`."""

    def build(folder: Path) -> None:
        if calls is not None:
            calls.append(text)
        (folder / "deep").mkdir()
        (folder / "deep/result.txt").write_text(text)

    return build


def result_of(folder: Path) -> str:
    return (folder / "deep/result.txt").read_text()


def fails(kind: str, calls: list[str]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        calls.append(kind)
        (folder / "log.txt").write_text("the log")
        (folder / "huge").mkdir()
        (folder / "huge/half.bin").write_bytes(b"half")
        raise StepFailed("engine said no", kind=kind, log="the log")

    return build


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_result_is_built_once(cache: Cache) -> None:
    calls: list[str] = []
    key = cache.key("convert", model="abc")
    assert not cache.has(key)
    first = cache.folder(key, writes("one", calls=calls))
    assert cache.has(key)
    again = Cache(cache.root).folder(key, writes("two", calls=calls))
    assert first == again
    assert result_of(again) == "one"
    assert calls == ["one"]


def test_refresh_builds_anew(cache: Cache) -> None:
    key = cache.key("convert")
    cache.folder(key, writes("one"))
    assert result_of(cache.folder(key, writes("two"), refresh=True)) == "two"
    assert result_of(cache.folder(key, writes("three"))) == "two"


TEXT = st.text("abcé")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # others use the machine
@given(inputs=st.dictionaries(st.sampled_from("abcd"), JSON), step=st.sampled_from(["x", "y"]))
def test_the_key_depends_on_the_inputs_and_not_on_their_order(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, object], step: str
) -> None:
    cache = Cache(tmp_path_factory.getbasetemp() / "keys")
    backwards = dict(reversed(inputs.items()))
    assert cache.key(step, **inputs) == cache.key(step, **backwards)
    assert cache.key(step, **inputs) != cache.key("z", **inputs)
    assert cache.key(step, **inputs) != cache.key(step, **inputs, e=1)


def test_the_key_changes_with_the_schema_and_our_version(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {cache.key("convert", a=1)}
    monkeypatch.setitem(cache_module.SCHEMAS, "convert", 2)
    keys.add(cache.key("convert", a=1))
    monkeypatch.setattr(cache_module, "__version__", "99")
    keys.add(cache.key("convert", a=1))
    assert len(keys) == 3


@pytest.mark.parametrize("kind", ["error", "crash", "memory"])
def test_a_failure_that_recurs_is_remembered_with_its_reason(cache: Cache, kind: str) -> None:
    calls: list[str] = []
    key = cache.key("compress")
    with pytest.raises(StepFailed, match=r"^engine said no$"):
        cache.folder(key, fails(kind, calls))
    with pytest.raises(StepFailed, match=r"engine said no .*known since .*refresh") as caught:
        cache.folder(key, fails(kind, calls))
    assert (caught.value.kind, caught.value.log, calls) == (kind, "the log", [kind])
    assert not cache.has(key)
    entry = cache.root / "entries" / key
    assert {item.name for item in entry.iterdir()} == {"log.txt", FAILURE, ENTRY}
    assert result_of(cache.folder(key, writes("fixed"), refresh=True)) == "fixed"
    assert cache.has(key)


@pytest.mark.parametrize("kind", ["timeout", "killed"])
def test_a_failure_that_may_pass_is_tried_again(cache: Cache, kind: str) -> None:
    key = cache.key("compress")
    with pytest.raises(StepFailed):
        cache.folder(key, fails(kind, []))
    assert result_of(cache.folder(key, writes("now it works"))) == "now it works"


def test_any_other_error_leaves_nothing_behind(cache: Cache) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ModelError("no model")

    with pytest.raises(ModelError):
        cache.folder(cache.key("compress"), build)
    assert list((cache.root / "entries").iterdir()) == []


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def flip(file: Path) -> None:
    file.write_bytes(b"\xff" + file.read_bytes()[1:])


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["deep/result.txt", ENTRY])
def test_a_damaged_entry_is_built_again(
    cache: Cache, harm: Callable[[Path], object], name: str
) -> None:
    key = cache.key("convert")
    harm(cache.folder(key, writes("whole")) / name)
    assert not cache.has(key)
    assert result_of(cache.folder(key, writes("again"))) == "again"
    assert cache.has(key)


def test_a_touched_file_with_the_same_content_is_whole(cache: Cache) -> None:
    key = cache.key("convert")
    os.utime(cache.folder(key, writes("whole")) / "deep/result.txt", (1, 1))
    assert cache.has(key)


SLOW_BUILD = """
import sys, time
from pathlib import Path
from edgesdk.cache import Cache
root, mark, linger = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def build(folder):
    (folder / "result.txt").write_text("begun")
    mark.open("a").write("building\\n")
    time.sleep(linger)
    (folder / "result.txt").write_text("finished")
cache = Cache(root)
print((cache.folder(cache.key("slow"), build) / "result.txt").read_text(), flush=True)
"""


def start_slow_build(cache: Cache, mark: Path, linger: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, str(cache.root), str(mark), str(linger)],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(mark: Path) -> None:
    while not mark.exists() or not mark.read_text():
        time.sleep(0.01)


def test_a_build_killed_in_the_middle_leaves_nothing_that_is_taken(
    cache: Cache, tmp_path: Path
) -> None:
    with start_slow_build(cache, tmp_path / "mark", 1000) as process:
        wait_for(tmp_path / "mark")
        process.send_signal(signal.SIGKILL)
    left = list((cache.root / "entries").iterdir())
    assert [item.suffix for item in left] == [".part"]  # what the kill left
    key = cache.key("slow")
    assert not cache.has(key)
    assert result_of(cache.folder(key, writes("rebuilt"))) == "rebuilt"
    assert list((cache.root / "entries").iterdir()) == [cache.root / "entries" / key]


def test_two_processes_at_once_build_once_and_agree(cache: Cache, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    both = [start_slow_build(cache, mark, 0.5) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["finished\n"] * 2
    assert mark.read_text() == "building\n"


def test_the_one_who_waits_goes_on_when_the_builder_is_killed(cache: Cache, tmp_path: Path) -> None:
    first = start_slow_build(cache, tmp_path / "first", 1000)
    wait_for(tmp_path / "first")
    with start_slow_build(cache, tmp_path / "second", 0) as second:
        time.sleep(0.3)
        assert second.poll() is None
        first.kill()
        first.communicate()
        assert second.communicate()[0] == "finished\n"


def test_trim_removes_the_least_recently_used(cache: Cache) -> None:
    keys = [cache.key("convert", number=number) for number in range(4)]
    for age, key in enumerate(keys):
        os.utime(cache.folder(key, writes("x" * 10_000)) / ENTRY, (age, age))
    cache.folder(keys[0], writes("unused"))  # now the most recent
    freed = cache.trim(25_000, spare_s=0)
    assert [cache.has(key) for key in keys] == [True, False, False, True]
    assert 20_000 < freed < 25_000
    assert cache.trim(25_000, spare_s=0) == 0
    assert len(list((cache.root / "locks").iterdir())) == 2


def test_trim_spares_what_was_used_just_now(cache: Cache) -> None:
    key = cache.key("convert")
    cache.folder(key, writes("x"))
    assert cache.trim(0) == 0
    assert cache.has(key)


def test_what_was_left_unfinished_keeps_its_place_until_it_is_old(cache: Cache) -> None:
    place = cache.unfinished("ranges", model="a")
    assert place == cache.unfinished("ranges", model="a") != cache.unfinished("ranges", model="b")
    place.parent.mkdir()
    place.write_bytes(b"half")
    cache.trim(0)
    assert place.exists()
    cache.trim(0, spare_s=-1)
    assert not place.exists()


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGESDK_CACHE", raising=False)
    assert default_root() == tmp_path / "edgesdk"
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "mine"))
    assert Cache().root == tmp_path / "mine"


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="EDGESDK_CACHE"):
        Cache(tmp_path / "file/cache")


def test_what_is_older_is_built_anew_once(cache: Cache) -> None:
    key = cache.key("step")
    cache.folder(key, writes("one"))
    since = time.time()
    assert not cache.has(key, since=since)
    assert result_of(cache.folder(key, writes("two"), since=since)) == "two"
    assert cache.has(key, since=since)
    assert result_of(cache.folder(key, writes("three"), since=since)) == "two"
