"""Bundles that were damaged, and bundles made to do harm: all end in a BundleError."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesdk.bundle.golden import GoldenSample
from edgesdk.bundle.manifest import Engine, Identity, Quality, TensorSource, to_json
from edgesdk.bundle.read import digest_line, parse_manifest, read_manifest
from edgesdk.bundle.verify import unpack, verify
from edgesdk.bundle.write import (
    BundleContents,
    BundledComponent,
    single_model,
    write_bundle,
    zip_bundle,
)
from edgesdk.errors import BundleError
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo

X = TensorInfo(name="x", dtype="float32", shape=("n", None))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy little bundle; tests work on copies."""
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "model.onnx").write_bytes(random.Random(5).randbytes(400))
    (folder / "model.data").write_bytes(random.Random(6).randbytes(300))
    component = BundledComponent(
        name="model",
        original_sha256="a" * 64,
        recipe=Recipe.parse("w8a8-dynamic"),
        engine=Engine(name="onnxruntime", tested="1.31.1", minimum="1.20"),
        artifact=folder / "model.onnx",
        folder=folder,
        threads=1,
        inputs=((X, TensorSource(component=None, tensor="x")),),
        outputs=(X,),
    )
    inputs, outputs = single_model(component)
    arrays = {"x": np.ones((1, 3), np.float32)}
    contents = BundleContents(
        model=Identity(name="net", sha256="a" * 64),
        profile=Identity(name="x86", sha256="b" * 64),
        inputs=inputs,
        outputs=outputs,
        components=(component,),
        quality=Quality(verdict="pass"),
        golden=(GoldenSample(inputs=arrays, reference=arrays, expected=arrays),),
        created="2026-11-21T22:00:00Z",
    )
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(contents, out)
    return out


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def packed(bundle: Path) -> bytes:
    zip_bundle(bundle, bundle.parent / "bundle.zip")
    return (bundle.parent / "bundle.zip").read_bytes()


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def repack(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def sealed(document: dict[str, Any]) -> tuple[bytes, bytes]:
    """A manifest as an attacker writes it: with the right digest."""
    data = json.dumps(document).encode()
    return data, digest_line(data)


# --- damage


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_every_flipped_byte_of_every_file_is_found(copy: Path, data: st.DataObject) -> None:
    files = sorted(file for file in copy.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bad = bytearray(whole)
    bad[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bad)
    try:
        with pytest.raises(BundleError):
            verify(copy)
    finally:
        file.write_bytes(whole)


@pytest.mark.slow
def test_a_flipped_byte_of_a_zip_is_found_or_changes_nothing(
    bundle: Path, packed: bytes, tmp_path: Path
) -> None:
    original = contents_of(bundle)
    pick = random.Random(7)
    for round_ in range(1500):
        bad = bytearray(packed)
        bad[pick.randrange(len(bad))] ^= pick.randrange(1, 256)
        path = tmp_path / "bad.zip"
        path.write_bytes(bad)
        out = tmp_path / str(round_)
        out.mkdir()
        try:
            unpack(path, out)
        except BundleError:
            pass
        else:
            assert contents_of(out) == original
        shutil.rmtree(out)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_truncated_zip_is_refused(
    packed: bytes, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.zip"
    path.write_bytes(packed[: int(len(packed) * share)])
    with pytest.raises(BundleError):
        verify(path)


def test_a_truncated_longer_missing_or_additional_file_is_named(copy: Path) -> None:
    file = copy / "components" / "model" / "model.data"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"model\.data has 299 bytes, the manifest says 300"):
        verify(copy)
    file.write_bytes(whole + b"\0")
    with pytest.raises(BundleError, match=r"model\.data has 301 bytes"):
        verify(copy)
    file.unlink()
    with pytest.raises(BundleError, match=r"missing: 'components/model/model\.data'"):
        verify(copy)
    file.write_bytes(whole)
    (copy / "golden" / "more.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"not in the manifest: 'golden/more\.npz'"):
        verify(copy)


def test_swapped_files_are_found(copy: Path) -> None:
    first, second = (copy / "components" / "model" / f"model.{end}" for end in ("onnx", "data"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(BundleError, match="model"):
        verify(copy)


def test_a_changed_byte_of_equal_size_is_named(copy: Path) -> None:
    file = copy / "components" / "model" / "model.onnx"
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(BundleError, match=r"components/model/model\.onnx was changed"):
        verify(copy)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_bundle_without_its_manifest_files_is_none(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"no {name}"):
        read_manifest(copy)


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        verify(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError, match="cannot be read as part of a zip"):
        verify(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        verify(tmp_path / "empty")


# --- links and special files


def test_links_and_special_files_are_refused(copy: Path, tmp_path: Path) -> None:
    file = copy / "components" / "model" / "model.onnx"
    shutil.move(file, tmp_path / "outside.onnx")
    file.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is a symbolic link"):
        verify(copy)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleError, match=r"model\.onnx is no regular file"):
        verify(copy)


def test_a_linked_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "components", tmp_path / "components")
    (copy / "components").symlink_to(tmp_path / "components")
    with pytest.raises(BundleError, match="components is a symbolic link"):
        verify(copy)


# --- manifests that lie, with the right digest


def delete(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.pop(key)


def put(value: Any, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


FILE = {"path": "../evil", "bytes": 1, "sha256": "0" * 64}
LIES = [
    (delete("files"), r"manifest\.json: files is missing"),
    (put("1", "format"), r"format is '1'"),
    (put(1.0, "format"), r"format is 1\.0; must be a non-empty string"),
    (put([], "model"), r"model is \[\]; must be an object"),
    (put({}, "components"), r"components is \{\}; must be an array"),
    (put([], "components"), r"components is empty"),
    (put(True, "components", 0, "threads"), r"components\[0\]\.threads is True"),
    (put(1e400, "golden", "tolerance", "x"), r"Infinity is no JSON number"),
    (put(-1, "golden", "tolerance", "x"), r"golden\.tolerance\.x is -1"),
    (put({}, "golden", "tolerance"), r"golden\.tolerance is for \[\]"),
    (put("fp8", "components", 0, "execution"), r"execution is 'fp8'; must be one of: bf16"),
    (put("guessed", "quality", "verdict"), r"verdict is 'guessed'; must be one of: fail"),
    (put("banana", "inputs", 0, "dtype"), r"inputs\[0\]\.dtype is 'banana'"),
    (put([1.5], "inputs", 0, "shape"), r"inputs\[0\]\.shape\[0\] is 1\.5"),
    (put([-1], "inputs", 0, "shape"), r"inputs\[0\]\.shape\[0\] is -1"),
    (put(10**30, "files", 0, "bytes"), r"files\[0\]\.bytes is 1000"),
    (put(-1, "files", 0, "bytes"), r"files\[0\]\.bytes is -1"),
    (put("A" * 64, "files", 0, "sha256"), r"files\[0\]\.sha256"),
    (put("/etc/passwd", "files", 0, "path"), r"files\[0\]\.path is '/etc/passwd'"),
    (put("a/../../b", "files", 0, "path"), r"files\[0\]\.path is 'a/\.\./\.\./b'"),
    (put("manifest.json", "files", 0, "path"), r"files\[0\]\.path is 'manifest\.json'"),
    (put("../../x.onnx", "components", 0, "artifact", "main"), r"artifact\.main"),
    (put("golden/0000.npz", "components", 0, "artifact", "main"), r"not among the files of"),
    (put(["golden/9.npz"], "golden", "samples"), r"'golden/9\.npz' of golden\.samples"),
    (put("int64", "inputs", 0, "dtype"), r"is float32, but its source is int64"),
    (put("y", "outputs", 0, "from", "tensor"), r"output 'x' comes from tensor 'y'"),
    (put("\x1b[2J", "model", "name"), r"without control characters"),
    (put("\ud800", "model", "name"), r"valid Unicode"),
    (put("yesterday", "created"), r"created is 'yesterday'"),
    (lambda d: d["files"].append(d["files"][0]), r"is listed twice"),
    (lambda d: d["components"].append(d["components"][0]), r"two components are named 'model'"),
    (lambda d: d["inputs"].append(d["inputs"][0]), r"tensor 'x' of inputs appears twice"),
    (lambda d: d["outputs"].append(d["outputs"][0]), r"each name once"),
    (lambda d: d["files"].append(FILE), r"path is '\.\./evil'"),
]


@pytest.mark.parametrize(("change", "message"), LIES)
def test_a_lying_manifest_is_refused_by_key(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    document = json.loads((copy / "manifest.json").read_bytes())
    change(document)
    data, digest = sealed(document)
    (copy / "manifest.json").write_bytes(data)
    (copy / "manifest.sha256").write_bytes(digest)
    with pytest.raises(BundleError, match=message):
        read_manifest(copy)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JSON document"),
        (b"\xff\xfe", "not a JSON document"),
        (b'{"format": "1.0", "format": "1.0"}', "repeated key 'format'"),
        (b'{"format": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "not a JSON document"),
        (b"[]", r"manifest\.json is \[\]; must be an object"),
        (b"1" * 5000, "not a JSON document"),
    ],
)
def test_a_manifest_that_is_no_document_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_manifest(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=json_values)
def test_any_value_in_any_place_is_read_or_refused_never_worse(
    bundle: Path, data: st.DataObject, value: Any
) -> None:
    document = to_json(read_manifest(bundle))
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            place[key] = value
            break
        place = inner
    try:
        parse_manifest(json.dumps(document).encode())
    except BundleError as exc:
        assert str(exc)  # noqa: PT017 - either outcome is right; anything but BundleError is not


def test_a_huge_manifest_is_not_read(copy: Path) -> None:
    with (copy / "manifest.json").open("ab") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(BundleError, match="at most"):
        read_manifest(copy)


# --- zips made to do harm


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "C:evil", "a\\evil", ".bashrc"]
)
def test_an_entry_that_would_leave_the_folder_is_refused(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    path = repack({**contents_of(bundle), name: b"evil"}, tmp_path / "slip.zip")
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match=r"entry .* must be a relative path"):
        unpack(path, tmp_path / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "slip.zip"]
    assert not any((tmp_path / "out").iterdir())


def test_a_link_in_a_zip_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = repack(contents_of(bundle), tmp_path / "link.zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("link")
        info.create_system = 3
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BundleError, match="entry 'link' is a symbolic link"):
        verify(path)


def test_an_entry_that_is_there_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = repack(contents_of(bundle), tmp_path / "twice.zip")
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("manifest.json", b"{}")
    with pytest.raises(BundleError, match=r"entry 'manifest\.json' is there twice"):
        verify(path)


def test_a_bomb_is_refused_before_it_unpacks(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents_of(bundle).items():
            archive.writestr(name, data)
        with archive.open("bomb", "w") as stream:
            for _ in range(80):
                stream.write(bytes(1 << 20))
    with pytest.raises(BundleError, match="zip bomb"):
        verify(path)


def test_an_entry_that_unpacks_to_more_than_it_says_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    # The directory says 300 bytes; the stream holds a megabyte.
    files = contents_of(bundle)
    name = "components/model/model.data"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, data in files.items():
            archive.writestr(other, bytes(1 << 20) if other == name else data)
    raw = buffer.getvalue().replace(struct.pack("<I", 1 << 20), struct.pack("<I", 300))
    (tmp_path / "liar.zip").write_bytes(raw)
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match=r"model\.data"):
        unpack(tmp_path / "liar.zip", tmp_path / "out")
    written = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert written < 10_000


def test_a_compression_method_beyond_the_specification_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "lzma.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in contents_of(bundle).items():
            archive.writestr(name, data)
    with pytest.raises(BundleError, match="compressed by method 14"):
        verify(path)


def test_a_zip_of_the_folder_rather_than_its_content_is_explained(
    bundle: Path, tmp_path: Path
) -> None:
    files = {f"bundle/{name}": data for name, data in contents_of(bundle).items()}
    with pytest.raises(BundleError, match=r"no manifest\.json at its top"):
        verify(repack(files, tmp_path / "nested.zip"))
