"""Speeds in a profile: read, checked, merged as statements, and kept through JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgesdk.errors import ProfileError
from edgesdk.profile import load_profile, profile_from_json
from edgesdk.profile_speeds import KINDS

HEAD = 'schema = 1\nextends = "x86-amx"\nname = "mine"\n'
SERIES = """
[[speeds]]
name = "ort relu"
backend = "onnxruntime"
precision = "fp32"
op = "relu"
threads = 2
source = "edgesdk probe"
date = 2026-11-22
points = [[64, 1.5], [4096, 2]]
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_series_is_read_as_it_is_written(tmp_path: Path) -> None:
    (speed,) = load_profile(write(tmp_path, HEAD + SERIES)).speeds
    assert (speed.backend, speed.op, speed.threads) == ("onnxruntime", "relu", 2)
    assert speed.points == ((64.0, 1.5), (4096.0, 2.0))
    assert speed.date == "2026-11-22"


def test_speeds_survive_the_way_through_json(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, HEAD + SERIES))
    assert profile_from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_memory_of_an_engine_is_a_figure(tmp_path: Path) -> None:
    figure = '{ value = 60, unit = "MiB", source = "edgesdk probe", date = 2026-11-22 }'
    text = f'{HEAD}\n[[runtimes]]\nname = "onnxruntime"\nfootprint = {figure}\n'
    footprint = load_profile(write(tmp_path, text)).runtime("onnxruntime").footprint
    assert footprint is not None
    assert footprint.base == 60 * 2**20


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"onnxruntime"', '"tensorrt"', "speeds.ort relu.backend"),
        ('op = "relu"', 'op = "rleu"', "did you mean 'relu'"),
        ('op = "relu"', 'op = "product"', "rows, inner, columns, microseconds"),
        ('"fp32"', '"int8"', "speeds.ort relu.precision"),
        ("threads = 2", "threads = 0", "legal: a whole number from 1"),
        ("threads = 2\n", "", "threads = None"),
        ("[64, 1.5]", "[0, 1.5]", "elements = 0"),
        ("[64, 1.5]", "[64, -1.5]", "0 or above"),
        ("[64, 1.5]", '["64", 1.5]', "elements = '64'"),
        ("points = [[64, 1.5], [4096, 2]]", "points = []", "at least one list"),
        ("points = [[64, 1.5], [4096, 2]]", "points = 3", "at least one list"),
        ('source = "edgesdk probe"\n', "", "speeds.ort relu.source"),
        ("date = 2026-11-22\n", "", "speeds.ort relu.date"),
        ("op =", "of =", "unknown key"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SERIES
    with pytest.raises(ProfileError, match=said.replace("(", r"\(")):
        load_profile(write(tmp_path, HEAD + SERIES.replace(old, new)))


def test_a_child_replaces_a_series_whole(tmp_path: Path) -> None:
    write(tmp_path, HEAD + SERIES, "base.toml")
    later = SERIES.replace("[[64, 1.5], [4096, 2]]", "[[32, 1]]").replace("-22", "-23")
    child = write(tmp_path, f'schema = 1\nextends = "base.toml"\n{later}', "child.toml")
    (speed,) = load_profile(child).speeds
    assert speed.points == ((32.0, 1.0),)
    assert speed.date == "2026-11-23"
    sourceless = later.replace('source = "edgesdk probe"\n', "")
    broken = write(tmp_path, f'schema = 1\nextends = "base.toml"\n{sourceless}', "broken.toml")
    with pytest.raises(ProfileError, match="source"):
        load_profile(broken)


def test_every_kind_is_described_in_the_documentation() -> None:
    told = (Path(__file__).parent.parent / "docs" / "profiles.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"`{kind}`" in told or ">" in kind
