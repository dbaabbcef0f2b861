"""Observing activations of small real models in onnxruntime."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesdk.compress import ranges as module
from edgesdk.compress.apply import compress
from edgesdk.compress.histogram import Histogram, Tally, merged
from edgesdk.compress.prepare import prepare
from edgesdk.compress.ranges import observe, read_ranges
from edgesdk.errors import InputError, SamplesError
from edgesdk.recipe import Recipe

Array = NDArray[np.generic]
LENGTHS = (5, 9, 7)


@dataclass(frozen=True)
class _Row:
    inputs: Mapping[str, Array]


class Rows:
    """Made-up rows, drawn anew whenever they are read; counts the readings."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count = kind, count
        self.read: Counter[int] = Counter()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int, /) -> _Row:
        self.read[row] += 1
        rng = np.random.default_rng(row)
        if self.kind == "attention":
            return _Row({"ids": rng.integers(0, 100, (1, LENGTHS[row % 3]))})
        shape, name = {"cnn": ((1, 3, 32, 32), "image"), "mlp": ((1, 64), "x")}[self.kind]
        return _Row({name: rng.normal(0, 1 + row % 4, shape).astype(np.float32)})


@pytest.fixture(scope="session")
def models(
    tmp_path_factory: pytest.TempPathFactory,
    small_cnn: Path,
    small_mlp: Path,
    small_attention: Path,
) -> dict[str, Path]:
    made = {"cnn": small_cnn, "mlp": small_mlp, "attention": small_attention}
    out = tmp_path_factory.mktemp("prepared")
    return {kind: prepare(model, out / kind, shapes=None).path for kind, model in made.items()}


def every_activation(model: Path, rows: Rows) -> dict[str, Histogram]:
    """By exposing all inner tensors at once, and keeping all they held."""
    proto = onnx.load(model)
    stored = {tensor.name for tensor in proto.graph.initializer}
    values = {v.name: v for v in (*proto.graph.value_info, *proto.graph.output)}
    floats = [n for n, v in values.items() if v.type.tensor_type.elem_type == 1 and n not in stored]
    del proto.graph.output[:]
    proto.graph.output.extend(values[name] for name in floats)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    tallies = {name: Tally() for name in floats}
    for row in range(len(rows)):
        feed = rows[row].inputs
        for name, value in feed.items():
            if value.dtype == np.float32:
                tallies.setdefault(name, Tally()).add(value)
        for name, value in zip(floats, session.run(floats, dict(feed)), strict=True):
            tallies[name].add(value)
    return {name: tally.histogram() for name, tally in tallies.items()}


@pytest.mark.parametrize("kind", ["cnn", "mlp", "attention"])
def test_every_float_activation_is_observed(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    rows = Rows(kind, 7)
    found = observe(models[kind], rows, tmp_path / "ranges.npz")
    expected = every_activation(models[kind], rows)
    assert found.rows == 7
    assert found.histograms.keys() == expected.keys()
    for name, histogram in expected.items():
        mine = found.histograms[name]
        assert mine.count == histogram.count
        assert mine.lowest == pytest.approx(histogram.lowest, rel=1e-4, abs=1e-5)
        assert mine.highest == pytest.approx(histogram.highest, rel=1e-4, abs=1e-5)
    assert found.notes == ()
    assert list(tmp_path.iterdir()) == [tmp_path / "ranges.npz"]


def test_the_file_does_not_depend_on_how_much_comes_out_at_once(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows("attention", 5)
    observe(models["attention"], rows, tmp_path / "one")
    once = rows.read.total()
    monkeypatch.setattr(module, "GROUP_BYTES", 2000)
    observe(models["attention"], rows, tmp_path / "many", saved_every=2)
    assert rows.read.total() > 3 * once
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_parts_of_the_rows_merge_to_the_whole(models: dict[str, Path], tmp_path: Path) -> None:
    class Part(Rows):
        def __getitem__(self, row: int, /) -> _Row:
            return super().__getitem__(row + 4)

    whole = observe(models["mlp"], Rows("mlp", 9), tmp_path / "whole")
    first = observe(models["mlp"], Rows("mlp", 4), tmp_path / "first")
    second = observe(models["mlp"], Part("mlp", 5), tmp_path / "second")
    for name, histogram in whole.histograms.items():
        assert merged(second.histograms[name], first.histograms[name]) == histogram


def test_a_bounded_number_of_rows_is_read_spread_over_all(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rows = Rows("mlp", 1000)
    assert observe(models["mlp"], rows, tmp_path / "ranges", most=20).rows == 20
    assert len(rows.read) == 20
    assert min(rows.read) < 50
    assert max(rows.read) >= 950


def test_without_rows_there_is_nothing_to_observe(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no rows"):
        observe(models["mlp"], Rows("mlp", 0), tmp_path / "ranges")


KILLED = """
import sys, time
from pathlib import Path
from edgesdk.compress import ranges
sys.path.insert(0, sys.argv[1])
from test_ranges import Rows

class Slow(Rows):
    def __getitem__(self, row):
        time.sleep(0.01)
        return super().__getitem__(row)

ranges.GROUP_BYTES = 20_000
model, out = Path(sys.argv[2]), Path(sys.argv[3])
ranges.observe(model, Slow("attention", 120), out / "ranges", checkpoint=out / "saved", saved_every=8)
"""


@pytest.mark.parametrize("saves", [1, 20])
def test_a_killed_observation_goes_on_and_ends_with_the_same_bytes(
    saves: int, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, saved = models["attention"], tmp_path / "saved"
    monkeypatch.setattr(module, "GROUP_BYTES", 20_000)
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, here, str(model), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    ) as child:
        seen: set[int] = set()
        while len(seen) < saves and child.poll() is None:
            if saved.exists():
                seen.add(saved.stat().st_mtime_ns)
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "ranges").exists()
    resumed, afresh = Rows("attention", 120), Rows("attention", 120)
    observe(model, resumed, tmp_path / "ranges", checkpoint=saved)
    observe(model, afresh, tmp_path / "uninterrupted")
    assert resumed.read.total() < afresh.read.total()
    assert (tmp_path / "ranges").read_bytes() == (tmp_path / "uninterrupted").read_bytes()
    assert not saved.exists()


def test_a_checkpoint_of_something_else_is_ignored(models: dict[str, Path], tmp_path: Path) -> None:
    alone = observe(models["mlp"], Rows("mlp", 6), tmp_path / "alone")
    saved = tmp_path / "saved"

    class Stop(Exception):
        pass

    class Ending(Rows):
        def __getitem__(self, row: int, /) -> _Row:
            if self.read[row]:
                raise Stop
            return super().__getitem__(row)

    for content in (b"", b"no archive", (tmp_path / "alone").read_bytes()):
        saved.write_bytes(content)
        found = observe(models["mlp"], Rows("mlp", 6), tmp_path / "again", checkpoint=saved)
        assert found.histograms == alone.histograms
    with pytest.raises(Stop):
        observe(models["cnn"], Ending("cnn", 6), tmp_path / "x", checkpoint=saved, saved_every=1)
    found = observe(models["mlp"], Rows("mlp", 6), tmp_path / "again", checkpoint=saved)
    assert found.histograms == alone.histograms


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="no file of observed ranges"):
        read_ranges(tmp_path / "other.npz")


def test_values_that_are_not_finite_are_counted_and_reported(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Log", ["x"], ["l"]),
        helper.make_node("MatMul", ["l", "w"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "model.onnx")
    rows = Rows("mlp", 8)
    found = observe(tmp_path / "model.onnx", rows, tmp_path / "ranges")
    values = np.concatenate([rows[row].inputs["x"].ravel() for row in range(8)])
    log = found.histograms["l"]
    assert log.nan == (values < 0).sum()
    assert log.count == (values > 0).sum()
    assert np.isfinite([log.lowest, log.highest]).all()
    assert "l (" in found.notes[0]
    done = compress(
        tmp_path / "model.onnx", Recipe.parse("w8a8-static"), tmp_path / "q", calibration=rows
    )
    assert found.notes[0] in done.notes


def test_weights_in_a_file_of_their_own_and_branches_are_no_obstacle(
    vad_model: Path, small_mlp: Path, tmp_path: Path
) -> None:
    class Frames(Rows):
        def __getitem__(self, row: int, /) -> _Row:
            rng = np.random.default_rng(row)
            frame = rng.normal(0, 0.3, (1, 576)).astype(np.float32)
            state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000)
            return _Row({"input": frame, "state": state, "sr": rate})

    found = observe(vad_model, Frames("", 3), tmp_path / "vad")
    assert {"input", "output", "stateN"} <= found.histograms.keys()
    big = tmp_path / "big.onnx"
    onnx.save(
        onnx.load(small_mlp), big, save_as_external_data=True, location="big.bin", size_threshold=16
    )
    apart = observe(big, Rows("mlp", 5), tmp_path / "apart")
    assert apart.histograms == observe(small_mlp, Rows("mlp", 5), tmp_path / "inside").histograms


def test_every_choice_of_ranges_makes_another_model_from_the_same_observation(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rows = Rows("cnn", 12)
    observe(models["cnn"], rows, tmp_path / "ranges")
    read = rows.read.total()
    made = set()
    for way in ("", "-percentile", "-entropy", "-mse"):
        recipe = Recipe.parse(f"w8a8-static{way}")
        done = compress(
            models["cnn"],
            recipe,
            tmp_path / f"q{way}",
            calibration=rows,
            ranges=tmp_path / "ranges",
        )
        made.add(done.path.read_bytes())
        assert {item.name for item in done.path.parent.iterdir()} == {"model.onnx"}
    assert len(made) >= 3
    assert rows.read.total() == read


def test_masks_stay_in_float_and_lose_nothing(tmp_path: Path) -> None:
    """Scores plus a mask of any size: only what touches the mask is left out."""
    for far in (-1e4, -1e9, -3.4028235e38):
        model = _masked(tmp_path, far)
        rows = _MaskedRows("", 16)
        done = compress(model, Recipe.parse("w8a8-static"), tmp_path / "q", calibration=rows)
        feed: dict[str, Any] = dict(rows[3].inputs)
        before, after = (
            ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
            for path in (model, done.path)
        )
        cosine = (before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after)
        assert cosine > 0.99
        assert any("around masked values" in note for note in done.notes)
        quantized = {n.op_type for n in onnx.load(done.path).graph.node}
        assert {"QuantizeLinear", "MatMul"} <= quantized


class _MaskedRows(Rows):
    def __getitem__(self, row: int, /) -> _Row:
        rng = np.random.default_rng(row)
        x = rng.normal(0, 1, (1, 8, 16)).astype(np.float32)
        return _Row({"x": x, "mask": (np.arange(8) < 8 - row % 3)[None].astype(np.float32)})


def _masked(folder: Path, far: float) -> Path:
    node = helper.make_node
    nodes = [
        node("Sub", ["one", "mask"], ["absent"]),
        node("Mul", ["absent", "far"], ["bias"]),
        node("MatMul", ["x", "w"], ["q"]),
        node("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["scores"]),
        node("Add", ["scores", "bias"], ["logits"]),
        node("Softmax", ["logits"], ["weights"]),
        node("MatMul", ["weights", "x"], ["y"]),
    ]
    shapes = {"x": [1, 8, 16], "mask": [1, 8], "y": [1, 8, 16]}
    ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    weight = np.random.default_rng(0).normal(0, 0.3, (16, 16)).astype(np.float32)
    stored = {"one": np.float32(1), "far": np.float32(far), "w": weight}
    graph = helper.make_graph(
        nodes,
        "masked",
        [ends["x"], ends["mask"]],
        [ends["y"]],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "masked.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path
