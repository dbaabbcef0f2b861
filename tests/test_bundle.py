"""Writing and reading bundles. The artifacts here are plain files: packing needs no engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.bundle.golden import GoldenSample, deviation, read_golden, tolerance, write_golden
from edgesdk.bundle.manifest import Engine, Figure, Identity, Quality, TensorSource, to_json
from edgesdk.bundle.paths import clash, path_problem
from edgesdk.bundle.read import parse_manifest, read_manifest
from edgesdk.bundle.verify import unpack, verify
from edgesdk.bundle.write import (
    BundleContents,
    BundledComponent,
    single_model,
    write_bundle,
    zip_bundle,
)
from edgesdk.errors import BundleError, OutputError
from edgesdk.evidence import Evidence
from edgesdk.recipe import Recipe
from edgesdk.signature import TensorInfo

X = TensorInfo(name="x", dtype="float32", shape=(1, 4))
Y = TensorInfo(name="y", dtype="float32", shape=(1, 2))
CREATED = "2026-11-21T22:00:00Z"


def make_contents(folder: Path) -> BundleContents:
    """A pipeline of one whose artifact is two plain files."""
    (folder / "weights").mkdir(parents=True)
    (folder / "model.xml").write_text("<net/>")
    (folder / "weights" / "model.bin").write_bytes(bytes(range(256)) * 8)
    component = BundledComponent(
        name="model",
        original_sha256="a" * 64,
        recipe=Recipe.parse("w8a8-static-nncf-transformer-bf16"),
        engine=Engine(name="openvino", tested="2026.4.1", minimum="2025.0"),
        artifact=folder / "model.xml",
        folder=folder,
        threads=2,
        inputs=((X, TensorSource(component=None, tensor="x")),),
        outputs=(Y,),
    )
    inputs, outputs = single_model(component, original_inputs=(("batch", 4),))
    sample = GoldenSample(
        inputs={"x": np.arange(4, dtype=np.float32).reshape(1, 4)},
        reference={"y": np.array([[1.0, 2.0]], np.float32)},
        expected={"y": np.array([[1.0, 2.5]], np.float32)},
    )
    return BundleContents(
        model=Identity(name="net", sha256="a" * 64),
        profile=Identity(name="x86", sha256="b" * 64),
        inputs=inputs,
        outputs=outputs,
        components=(component,),
        quality=Quality(
            verdict="pass",
            figures=(
                Figure(name="cosine", of="y", value=0.99, unit="", evidence=Evidence.MEASURED),
            ),
        ),
        golden=(sample,),
        measured=(
            Figure(
                name="speedup",
                value=2.0,
                low=1.9,
                high=2.1,
                unit="x",
                evidence=Evidence.MEASURED,
            ),
        ),
        environment={"cpu": "this one"},
        samples_fingerprint="c" * 64,
        created=CREATED,
    )


@pytest.fixture
def contents(tmp_path: Path) -> BundleContents:
    return make_contents(tmp_path / "artifact")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_what_is_written_is_what_is_read(contents: BundleContents, tmp_path: Path) -> None:
    written = write_bundle(contents, tmp_path / "bundle")
    assert read_manifest(tmp_path / "bundle") == written
    verify(tmp_path / "bundle")
    (component,) = written.components
    assert component.main == "components/model/model.xml"
    assert component.files == (
        "components/model/model.xml",
        "components/model/weights/model.bin",
    )
    assert component.execution == "bf16"
    assert component.settings["transformer"] is True
    assert written.inputs[0].original_shape == ("batch", 4)
    assert written.inputs[0].is_fixed
    assert not written.outputs[0].is_fixed
    assert written.figure("speedup") == contents.measured[0]
    assert written.figure("latency_p50") is None
    for file in written.files:
        assert (tmp_path / "bundle" / file.path).stat().st_size == file.bytes


def test_equal_contents_give_equal_bytes(contents: BundleContents, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bundle(contents, tmp_path / name)
        zip_bundle(tmp_path / name, tmp_path / f"{name}.zip")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_only_the_time_differs_when_none_is_given(contents: BundleContents, tmp_path: Path) -> None:
    now = write_bundle(replace(contents, created=""), tmp_path / "now")
    then = write_bundle(contents, tmp_path / "then")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now.created)
    assert replace(now, created=then.created) == then


def test_a_zip_says_and_holds_what_the_folder_does(
    contents: BundleContents, tmp_path: Path
) -> None:
    written = write_bundle(contents, tmp_path / "bundle")
    zip_bundle(tmp_path / "bundle", tmp_path / "bundle.zip")
    verify(tmp_path / "bundle.zip")
    assert read_manifest(tmp_path / "bundle.zip") == written
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "bundle.zip", tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "bundle")


def test_a_zip_made_by_another_tool_is_read(contents: BundleContents, tmp_path: Path) -> None:
    write_bundle(contents, tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.mkdir("golden")
        for name, data in files_of(tmp_path / "bundle").items():
            archive.writestr(name, data)
    verify(tmp_path / "other.zip")


def test_a_taken_place_is_refused_and_kept(contents: BundleContents, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_bundle(contents, tmp_path / "bundle")
    assert files_of(tmp_path / "bundle") == {"mine.txt": b"mine"}
    write_bundle(contents, tmp_path / "other")
    (tmp_path / "taken.zip").write_bytes(b"")
    with pytest.raises(OutputError, match=r"taken\.zip exists"):
        zip_bundle(tmp_path / "other", tmp_path / "taken.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, r"threads is 0; must be a whole number of at least 1"),
        ({"original_sha256": "xyz"}, r"original_sha256 is 'xyz'; must be 64 lower-case hex"),
        ({"name": "no/slash"}, r"letters, digits"),
        (
            {"inputs": ((X, TensorSource(component="later", tensor="x")),)},
            r"input 'x' of component 'model' comes from tensor 'x' of component 'later'",
        ),
        ({"outputs": ()}, r"output 'y' comes from tensor 'y' of component 'model', not there"),
    ],
)
def test_contents_that_contradict_themselves_leave_nothing_behind(
    contents: BundleContents, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    broken = replace(contents, components=(replace(contents.components[0], **change),))
    with pytest.raises(BundleError, match=message):
        write_bundle(broken, tmp_path / "bundle")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["artifact"]


def test_a_figure_that_is_not_a_number_is_refused(contents: BundleContents, tmp_path: Path) -> None:
    nan = replace(contents.measured[0], value=float("nan"))
    with pytest.raises(BundleError, match=r"manifest\.json cannot hold"):
        write_bundle(replace(contents, measured=(nan,)), tmp_path / "bundle")


def test_an_unbounded_interval_is_written_as_null(contents: BundleContents, tmp_path: Path) -> None:
    wide = replace(contents.measured[0], low=float("-inf"), high=float("inf"))
    read = write_bundle(replace(contents, measured=(wide,)), tmp_path / "bundle")
    assert (read.measured[0].low, read.measured[0].high) == (None, None)


def test_a_file_name_no_other_system_could_hold_is_refused(
    contents: BundleContents, tmp_path: Path
) -> None:
    (tmp_path / "artifact" / "a:b").write_text("")
    with pytest.raises(BundleError, match="a:b"):
        write_bundle(contents, tmp_path / "bundle")


def test_several_components_are_wired_in_order(contents: BundleContents, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    folder.mkdir()
    (folder / "head.onnx").write_bytes(b"head")
    z = TensorInfo(name="z", dtype="float32", shape=(1, 3))
    head = BundledComponent(
        name="head",
        original_sha256="d" * 64,
        recipe=Recipe(),
        engine=Engine(name="onnxruntime", tested="1.31.1", minimum="1.20"),
        artifact=folder / "head.onnx",
        folder=folder,
        threads=1,
        inputs=((Y, TensorSource(component="model", tensor="y")),),
        outputs=(z,),
    )
    _, outputs = single_model(head)
    golden = GoldenSample(
        inputs=contents.golden[0].inputs,
        reference={"z": np.zeros((1, 3), np.float32)},
        expected={"z": np.zeros((1, 3), np.float32)},
    )
    both = replace(
        contents, components=(*contents.components, head), outputs=outputs, golden=(golden,)
    )
    written = write_bundle(both, tmp_path / "bundle")
    assert [component.name for component in written.components] == ["model", "head"]
    backwards = replace(both, components=both.components[::-1])
    with pytest.raises(BundleError, match="in the order in which they run"):
        write_bundle(backwards, tmp_path / "backwards")


# --- the specification and the version


def test_the_example_of_the_specification_is_a_manifest() -> None:
    text = (Path(__file__).parent.parent / "docs" / "bundle.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    manifest = parse_manifest(example.encode())
    assert to_json(manifest) == json.loads(example)


def test_the_specification_names_every_field(contents: BundleContents, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "bundle.md").read_text()

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = set(value) - {"settings", "environment", "tolerance"}
            return own.union(*(keys(value[key]) for key in own))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    prose = text.split("### Example")[0]
    words = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", prose))))
    assert keys(to_json(write_bundle(contents, tmp_path / "bundle"))) <= words


def changed(contents: BundleContents, folder: Path, change: dict[str, Any]) -> bytes:
    document = to_json(write_bundle(contents, folder))
    return json.dumps({**document, **change}).encode()


def test_fields_of_a_newer_minor_version_are_kept_and_ignored(
    contents: BundleContents, tmp_path: Path
) -> None:
    data = changed(contents, tmp_path / "b", {"format": "1.7", "moon": {"phase": 3}})
    manifest = parse_manifest(data)
    assert manifest.format == "1.7"
    assert manifest.document["moon"] == {"phase": 3}


@pytest.mark.parametrize("version", ["2.0", "0.9", "11.0"])
def test_another_major_version_is_refused(
    contents: BundleContents, tmp_path: Path, version: str
) -> None:
    data = changed(contents, tmp_path / "b", {"format": version})
    with pytest.raises(BundleError, match=rf"format {re.escape(version)}; this edgesdk reads 1\.x"):
        parse_manifest(data)


def test_a_feature_that_is_not_known_is_refused(contents: BundleContents, tmp_path: Path) -> None:
    data = changed(contents, tmp_path / "b", {"requires": ["telepathy"]})
    with pytest.raises(BundleError, match="'telepathy'"):
        parse_manifest(data)


def test_reading_and_verifying_import_the_standard_library_only(
    contents: BundleContents, tmp_path: Path
) -> None:
    write_bundle(contents, tmp_path / "bundle")
    zip_bundle(tmp_path / "bundle", tmp_path / "bundle.zip")
    code = (
        "import sys; from pathlib import Path\n"
        "from edgesdk.bundle.read import read_manifest\n"
        "from edgesdk.bundle.verify import verify\n"
        "for path in sys.argv[1:]: verify(Path(path)); read_manifest(Path(path))\n"
        "known = {'edgesdk', '__main__'} | sys.stdlib_module_names\n"
        "site = [n for n in sys.modules if n.split('.')[0] not in known]\n"
        "print([n for n in site if getattr(sys.modules[n], '__file__', None)])\n"
    )
    arguments = [str(tmp_path / "bundle"), str(tmp_path / "bundle.zip")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    foreign = [name for name in json.loads(done.stdout.replace("'", '"')) if "finder" not in name]
    # What start-up hooks of site-packages and of the system's Python load is not ours.
    hooks = ("_distutils", "_virtualenv", "sitecustomize")
    assert [name for name in foreign if not name.startswith(hooks)] == []


# --- golden samples

finite = st.floats(-1e6, 1e6, width=32)


@given(st.lists(finite, min_size=1, max_size=20), st.lists(finite, min_size=1, max_size=20))
def test_deviation_is_zero_only_for_equal_arrays(left: list[float], right: list[float]) -> None:
    a, b = np.array(left, np.float32), np.array(right, np.float32)
    assert deviation(a, a) == 0.0
    assert deviation(a, b) == deviation(b, a)
    assert (deviation(a, b) == 0.0) == (left == right)


def test_deviation_of_what_cannot_be_compared_is_infinite() -> None:
    inf, nan = np.array([np.inf, 1.0]), np.array([np.nan, 1.0])
    assert deviation(inf, inf) == deviation(nan, nan) == 0.0
    assert deviation(inf, nan) == deviation(nan, np.array([0.0, 1.0])) == np.inf
    assert deviation(inf, -inf) == np.inf
    assert deviation(np.zeros(2), np.zeros(3)) == np.inf
    assert deviation(np.array(["a"]), np.array(["a"], object)) == 0.0
    assert deviation(np.array(["a"]), np.array(["b"])) == np.inf
    assert deviation(np.array([True]), np.array([False])) == 1.0
    assert deviation(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


def test_tolerance_is_what_compression_moved_and_never_below_rounding() -> None:
    def sample(reference: float, expected: float) -> GoldenSample:
        arrays = ({"y": np.array([value], np.float32)} for value in (reference, expected))
        return GoldenSample(inputs={}, reference=next(arrays), expected=next(arrays))

    assert tolerance([sample(10.0, 10.5), sample(4.0, 4.0)], "y") == 0.5
    assert tolerance([sample(10.0, 10.0)], "y") == pytest.approx(1e-3)


def test_golden_samples_keep_names_that_no_file_could_have(tmp_path: Path) -> None:
    sample = GoldenSample(
        inputs={"a/b:0": np.array([1, 2], np.int64), "../": np.array(True)},
        reference={"ö": np.array(["x", "yy"], object)},
        expected={"ö": np.array(["x", "yy"], object)},
    )
    write_golden(tmp_path / "g.npz", sample, ["a/b:0", "../"], ["ö"])
    again = read_golden(tmp_path / "g.npz", ["a/b:0", "../"], ["ö"])
    assert again.inputs["a/b:0"].dtype == np.int64
    assert again.inputs["../"].shape == ()
    assert again.expected["ö"].tolist() == ["x", "yy"]
    with pytest.raises(BundleError, match="cannot be read"):
        read_golden(tmp_path / "g.npz", ["a/b:0", "../"], ["ö", "more"])


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "C:/x", "a\\b", ".hidden", "con"),
        *("a/NUL.txt", "x.", "a b", "a\0b", "a\nb", "ä", "x" * 201, "-rf", "~/x"),
    ],
)
def test_a_path_that_could_leave_the_folder_or_confuse_a_system_is_refused(path: str) -> None:
    assert path_problem(path)


@given(st.text(max_size=30))
def test_a_legal_path_stays_below_its_folder(path: str) -> None:
    if path_problem(path) is None:
        folder = Path("/bundle")
        assert (folder / path).resolve().is_relative_to(folder)
        assert len((folder / path).parts) > 2


def test_paths_that_clash_somewhere_are_found() -> None:
    assert clash(["a", "b/c", "b/d"]) is None
    assert clash(["a", "a"]) == "a"
    assert clash(["A/x", "a/X"]) == "a/X"
    assert clash(["a/b", "a"]) == "a"
    assert clash(["a", "a/b"]) == "a/b"
