from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesdk.errors import SamplesError
from edgesdk.model import read_model
from edgesdk.samples import SampleSet, read_samples, synthesise
from edgesdk.signature import TensorInfo

IMAGE = (TensorInfo(name="x", dtype="float32", shape=("N", 3, 4)),)
VAD = (
    TensorInfo(name="input", dtype="float32", shape=(None, None)),
    TensorInfo(name="state", dtype="float32", shape=(2, None, 128)),
    TensorInfo(name="sr", dtype="int64", shape=()),
)


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 4)).astype(np.float32)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, allow_pickle=False, **arrays)
    return str(path)


def contents(rows: SampleSet) -> list[bytes]:
    return [b"".join(array.tobytes() for array in row.inputs.values()) for row in rows]


def test_each_row_of_an_npz_is_a_sample_with_a_batch_axis(tmp_path: Path) -> None:
    data = images(20)
    source = npz(tmp_path / "s.npz", x=data, label=np.arange(20))
    samples = read_samples(source, IMAGE, store=tmp_path / "store")
    assert (len(samples.calibration), len(samples.evaluation)) == (4, 16)
    assert samples.uniform_shapes == {"x": (1, 3, 4)}
    for row in (*samples.calibration, *samples.evaluation):
        number = int(row.labels["label"])
        np.testing.assert_array_equal(row.inputs["x"], data[number : number + 1])


def test_a_row_that_has_its_batch_axis_is_taken_as_it_is(tmp_path: Path) -> None:
    source = npz(tmp_path / "s.npz", x=images(6).reshape(3, 2, 3, 4))
    samples = read_samples(source, IMAGE, store=tmp_path / "store")
    assert samples.uniform_shapes == {"x": (2, 3, 4)}


def test_files_of_a_folder_may_differ_in_shape(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for number in range(3):
        npz(tmp_path / "s" / f"{number}.npz", x=np.ones((1, 3, 4 + number), np.float32) * number)
    wide = (TensorInfo(name="x", dtype="float32", shape=("N", 3, "W")),)
    samples = read_samples(str(tmp_path / "s"), wide, store=tmp_path / "store", calibration=0)
    assert samples.uniform_shapes == {"x": None}
    assert [row.inputs["x"].shape[-1] for row in samples.evaluation] == [4, 5, 6]


def test_scalar_inputs_work_given_once_or_for_each_row(tmp_path: Path, vad_model: Path) -> None:
    inputs = read_model(vad_model).inputs
    rng = np.random.default_rng(0)
    arrays = {
        "input": rng.standard_normal((4, 576)).astype(np.float32),
        "state": np.zeros((4, 2, 1, 128), np.float32),
    }
    each = npz(tmp_path / "each.npz", **arrays, sr=np.full(4, 16000))
    once = npz(tmp_path / "once.npz", **arrays, sr=np.array(16000))
    first = read_samples(each, inputs, store=tmp_path / "store")
    second = read_samples(once, inputs, store=tmp_path / "store")
    assert first.fingerprint == second.fingerprint
    assert first.evaluation[0].inputs["sr"].shape == ()

    import onnxruntime

    session = onnxruntime.InferenceSession(vad_model, providers=["CPUExecutionProvider"])
    assert len(session.run(None, first.evaluation[0].inputs)) == 2


def test_a_function_of_a_file_yields_samples(tmp_path: Path) -> None:
    code = "import numpy as np\ndef rows():\n"
    code += (
        "    for i in range(5):\n        yield {'x': np.full((3, 4), i, np.float32), 'label': i}\n"
    )
    (tmp_path / "mine.py").write_text(code)
    samples = read_samples(f"{tmp_path}/mine.py:rows", IMAGE, store=tmp_path / "store")
    assert samples.labels == ("label",)
    assert len(samples.calibration) + len(samples.evaluation) == 5


def test_a_failing_function_is_shown_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def rows():\n    yield 1 / 0\n")
    with pytest.raises(SamplesError, match=r"mine\.py:2: yield 1 / 0 \(ZeroDivisionError"):
        read_samples(f"{tmp_path}/mine.py:rows", IMAGE, store=tmp_path / "store")
    with pytest.raises(SamplesError, match="no 'row'; did you mean 'rows'"):
        read_samples(f"{tmp_path}/mine.py:row", IMAGE, store=tmp_path / "store")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": images(3)}, r"row 0: the model has no input 'y'.*Legal: x, label, label\.<name>"),
        ({"x": images(3), "labels": np.arange(3)}, "'labels'; did you mean 'label'"),
        ({"label": np.arange(3)}, "input 'x' is missing; the model takes x: float32"),
        (
            {"x": images(3).astype(np.float64)},
            r"float64, the model takes float32;.*\.astype\('float",
        ),
        ({"x": images(3)[:, :2]}, r"row 0: x: shape \[1, 2, 4\], expected x: float32\[N, 3, 4\]"),
        ({"x": images(3)[:, 0, 0]}, r"shape \[\], expected"),
        ({"x": images(0)}, "no samples; at least 1"),
        ({"x": images(3), "label": np.arange(4)}, "x has 3, label has 4 rows"),
        ({"x": np.array(1.0, np.float32)}, "no array has a first axis"),
    ],
)
def test_what_does_not_fit_the_model_is_named(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    store = tmp_path / "store"
    with pytest.raises(SamplesError, match=message):
        read_samples(npz(tmp_path / "s.npz", **arrays), IMAGE, store=store)
    assert not store.exists() or not list(store.iterdir()), "something was left behind"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(tmp_path: Path, value: float) -> None:
    data = images(5)
    data[2, 1, 3] = value
    with pytest.raises(SamplesError, match=rf"row 2: 'x' holds {value} at \[0, 1, 3\] \(1 such"):
        read_samples(npz(tmp_path / "s.npz", x=data), IMAGE, store=tmp_path / "store")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    fired = tmp_path / "fired"

    class Trap:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (fired,)

    trap = np.empty(2, dtype=object)
    trap[:] = [Trap(), Trap()]
    np.savez(tmp_path / "s.npz", allow_pickle=True, x=trap)
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "folder" / "0.npz", allow_pickle=True, x=trap)
    for source in ("s.npz", "folder"):
        with pytest.raises(SamplesError, match="never unpickled"):
            read_samples(str(tmp_path / source), IMAGE, store=tmp_path / "store")
    assert not fired.exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = Path(npz(tmp_path / "s.npz", x=images(50))).read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    text = tmp_path / "text.npz"
    text.write_text("no zip")
    long = tmp_path / "long.npz"
    with zipfile.ZipFile(long, "w") as archive, archive.open("x.npy", "w") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**40)}
        np.lib.format.write_array_header_1_0(stream, header)
    for source in (cut, text, long):
        with pytest.raises(SamplesError, match=r"not a readable \.npz|cut short"):
            read_samples(str(source), IMAGE, store=tmp_path / "store")
    with pytest.raises(SamplesError, match="no samples at"):
        read_samples(str(tmp_path / "absent.npz"), IMAGE, store=tmp_path / "store")


def test_only_one_row_is_in_memory_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    wide = (TensorInfo(name="x", dtype="float32", shape=("N", 3, 50_000)),)
    source = npz(tmp_path / "s.npz", x=np.random.default_rng(0).random((60, 3, 50_000), np.float32))
    row_bytes = 3 * 50_000 * 4
    tracemalloc.start()
    samples = read_samples(source, wide, store=tmp_path / "store")
    for _ in samples.evaluation:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * row_bytes


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 3))
def test_equal_rows_never_land_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("split")
    data = np.array(values, np.float32)[:, None, None] * np.ones((1, 3, 4), np.float32)
    samples = read_samples(npz(folder / "s.npz", x=data), IMAGE, store=folder / "store", seed=seed)
    calibration, evaluation = contents(samples.calibration), contents(samples.evaluation)
    assert not set(calibration) & set(evaluation)
    assert len(calibration) + len(evaluation) == len(values)
    assert evaluation
    assert bool(calibration) == (len(set(values)) > 1)


def test_the_split_depends_on_content_not_on_order(tmp_path: Path) -> None:
    data = images(30)
    order = np.random.default_rng(1).permutation(30)
    first = read_samples(npz(tmp_path / "a.npz", x=data), IMAGE, store=tmp_path / "store")
    second = read_samples(npz(tmp_path / "b.npz", x=data[order]), IMAGE, store=tmp_path / "store")
    other = read_samples(str(tmp_path / "a.npz"), IMAGE, store=tmp_path / "store", seed=1)
    assert set(contents(first.calibration)) == set(contents(second.calibration))
    assert first.fingerprint != second.fingerprint
    assert set(contents(first.calibration)) != set(contents(other.calibration))


def test_the_number_of_calibration_rows_is_the_users_within_reason(tmp_path: Path) -> None:
    source = npz(tmp_path / "s.npz", x=images(10))
    for wanted in (0, 1, 7, 9):
        samples = read_samples(source, IMAGE, store=tmp_path / "store", calibration=wanted)
        assert len(samples.calibration) == wanted
    for wanted in (10, -1):
        with pytest.raises(SamplesError, match="legal: 0 to 9"):
            read_samples(source, IMAGE, store=tmp_path / "store", calibration=wanted)


def test_a_single_row_only_evaluates(tmp_path: Path) -> None:
    source = npz(tmp_path / "s.npz", x=images(1))
    samples = read_samples(source, IMAGE, store=tmp_path / "store")
    assert (len(samples.calibration), len(samples.evaluation)) == (0, 1)
    assert "no calibration rows" in samples.notes[0]


def test_a_calibration_source_must_not_share_rows(tmp_path: Path) -> None:
    source = npz(tmp_path / "s.npz", x=images(6))
    apart = npz(tmp_path / "c.npz", x=images(4, seed=1))
    samples = read_samples(source, IMAGE, store=tmp_path / "store", calibration_source=apart)
    assert (len(samples.calibration), len(samples.evaluation)) == (4, 6)
    shared = npz(tmp_path / "d.npz", x=np.concatenate([images(1, seed=2), images(6)[3:4]]))
    with pytest.raises(SamplesError, match=r"d\.npz, row 1 equals row 3"):
        read_samples(source, IMAGE, store=tmp_path / "store", calibration_source=shared)


def test_stored_rows_are_found_again_and_open_elsewhere(tmp_path: Path) -> None:
    source = npz(tmp_path / "s.npz", x=images(8))
    first = read_samples(source, IMAGE, store=tmp_path / "store")
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    second = read_samples(source, IMAGE, store=tmp_path / "store")
    assert {file: file.stat().st_mtime_ns for file in second.folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "store").iterdir()] == [first.fingerprint]
    again = SampleSet.from_json(json.loads(json.dumps(first.evaluation.to_json())))
    assert contents(again) == contents(second.evaluation)
    assert contents(again.subset(2)) == [contents(again)[0], contents(again)[3]]
    assert len(again.subset(100)) == len(again)


def test_foreign_byte_order_and_layout_do_not_reach_the_engine(tmp_path: Path) -> None:
    data = np.asfortranarray(images(4).astype(">f4"))
    samples = read_samples(npz(tmp_path / "s.npz", x=data), IMAGE, store=tmp_path / "store")
    array = samples.evaluation[0].inputs["x"]
    assert array.dtype.isnative
    assert array.flags.c_contiguous
    same = read_samples(npz(tmp_path / "t.npz", x=images(4)), IMAGE, store=tmp_path / "store")
    assert same.fingerprint == samples.fingerprint


def test_made_up_inputs_say_so_and_never_calibrate(tmp_path: Path) -> None:
    dims = {"input.1": 576, "state.1": 1}
    made = synthesise(VAD, count=3, seed=0, store=tmp_path, dims=dims)
    again = synthesise(VAD, count=3, seed=0, store=tmp_path, dims=dims)
    assert made.synthetic
    assert len(made.calibration) == 0
    assert "NO REAL SAMPLES" in made.notes[0]
    assert made.fingerprint == again.fingerprint
    row = made.evaluation[0].inputs
    assert {name: (a.dtype.name, a.shape) for name, a in row.items()} == {
        "input": ("float32", (1, 576)),
        "state": ("float32", (2, 1, 128)),
        "sr": ("int64", ()),
    }


def test_an_open_axis_without_a_length_is_named(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"axis 1 of input input.*'input\.1'"):
        synthesise(VAD, count=1, seed=0, store=tmp_path, dims={})
