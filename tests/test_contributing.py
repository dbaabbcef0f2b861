"""The steps of CONTRIBUTING.md work as they are written."""

from __future__ import annotations

import re
from pathlib import Path

from edgesdk.profile import load_profile

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_device_in_the_guide_is_a_whole_profile(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    path = tmp_path / "kiosk.toml"
    path.write_text(snippet)
    profile = load_profile(str(path))
    assert profile.name == "kiosk"
    assert profile.units == load_profile("raspberry-pi-5").units


def test_every_file_and_make_target_that_the_guide_names_is_there() -> None:
    named = set(
        re.findall(r"`((?:docs|edgesdk|tests|profiles|backends|benchmarks)/[\w./-]*)`", GUIDE)
    )
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", GUIDE, re.MULTILINE))
    assert {"test", "check"} <= used <= set(targets)
