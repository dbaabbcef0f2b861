"""Sensitivity: a hostile node stands out, figures hold together, and estimates say that they are."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from edgesdk.arrays import save_arrays
from edgesdk.diagnose.sensitivity import measure_sensitivity
from edgesdk.errors import RecipeError, SamplesError
from edgesdk.plan.damage import SensitivityTable
from edgesdk.samples import INPUT_PREFIX, SampleSet
from edgesdk.steps import sensitivity as step
from edgesdk.testing.rows import Rows


def _hostile(model: Path, target: Path, first: str, second: str) -> Path:
    """The same function, but one channel between two convolutions is 300 times too small."""
    proto = onnx.load(model)
    nodes = {node.name: node for node in proto.graph.node}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, axis, factor in ((first, 0, 1 / 300), (second, 1, 300)):
        for position in (1, 2) if axis == 0 else (1,):
            tensor = tensors[nodes[name].input[position]]
            values = numpy_helper.to_array(tensor).copy()
            values.swapaxes(0, axis)[2] *= factor
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, target)
    return target


def test_a_hostile_node_is_the_worst(small_cnn: Path, tmp_path: Path) -> None:
    hostile = _hostile(small_cnn, tmp_path / "hostile.onnx", "conv_e", "conv_g")
    table = measure_sensitivity(hostile, Rows("cnn"), ["w8a8", "w8a16", "bf16"])
    assert table.ranking("w8a8")[0] == table.ranking("w8a16")[0] == "conv_g"
    worst, second = table.at("w8a8")[:2]
    assert worst.damage > 20 * second.damage
    assert (worst.sqnr_db or 0.0) < (second.sqnr_db or 0.0)
    healthy = measure_sensitivity(small_cnn, Rows("cnn"), ["w8a8"])
    assert worst.damage > 20 * max(item.damage for item in healthy.nodes)
    assert next(item.damage for item in table.at("bf16") if item.node == "conv_g") < 1e-3


def test_figures_hold_together(small_attention: Path) -> None:
    samples = Rows("attention")
    names = ["w8a8", "w8", "w4b32"]
    table = measure_sensitivity(small_attention, samples, names)
    assert table.outputs == ("states",)
    assert table.rows == 6
    assert {item.op for item in table.nodes} == {"MatMul", "Gather"}
    assert len(table.at("w8a8")) == 9
    assert len(table.at("w8")) == 7
    assert len(table.at("w4b32")) == 6
    assert all(item.measured and item.damage > 0 for item in table.nodes)
    assert all(0 <= (item.agreement or 0) <= 1 for item in table.nodes)
    assert [one.precision for one in table.additivity] == names
    for one in table.additivity:
        assert one.ratio is not None
        assert 0.3 < one.ratio < 3
    assert max(samples.read) == 2
    assert SensitivityTable.from_json(table.to_json()) == table


def test_few_tries_leave_estimates_for_the_quiet_nodes(small_attention: Path) -> None:
    full = measure_sensitivity(small_attention, Rows("attention"), ["w8a8"])
    table = measure_sensitivity(small_attention, Rows("attention"), ["w8a8"], refined=3)
    seen = [item for item in table.nodes if item.measured]
    assert len(seen) == 3
    loudest = sorted(full.nodes, key=lambda item: item.sqnr_db or 0.0)[:3]
    assert {item.node for item in seen} == {item.node for item in loudest}
    true = {item.node: item.damage for item in full.nodes}
    for item in table.nodes:
        assert item.damage == pytest.approx(true[item.node], rel=1e-6 if item.measured else 20)
        assert (item.agreement is None) == (not item.measured)


def test_fixed_ranges_that_clip_show(small_cnn: Path) -> None:
    wide = measure_sensitivity(small_cnn, Rows("cnn"), ["w8a8"])
    tight = measure_sensitivity(small_cnn, Rows("cnn"), ["w8a8"], ranges={"b": (0.0, 0.1)})
    before, after = ({item.node: item.damage for item in table.nodes} for table in (wide, tight))
    reader = "conv_c"
    assert after[reader] > 10 * before[reader]
    assert all(after[n] == pytest.approx(before[n]) for n in before if n != reader)


def test_what_cannot_be_measured_is_refused(small_cnn: Path) -> None:
    with pytest.raises(SamplesError, match="there are none"):
        measure_sensitivity(small_cnn, Rows("cnn", 0), ["w8a8"])
    with pytest.raises(RecipeError, match="no precision 'w2'"):
        measure_sensitivity(small_cnn, Rows("cnn"), ["w2"])


def test_as_a_step(small_cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = Rows("cnn", 3)
    for number in range(3):
        inputs = samples[number].inputs
        named = {f"{INPUT_PREFIX}{name}": array for name, array in inputs.items()}
        save_arrays(tmp_path / f"{number:06d}.npz", named)
    request = {
        "model": str(small_cnn),
        "rows": SampleSet(folder=tmp_path, rows=(0, 1, 2)).to_json(),
        "precisions": ["w8a8", "w8"],
        "ranges": {"image": [-4.0, 4.0]},
        "threads": 1,
    }
    table = SensitivityTable.from_json(step(request))
    assert table.rows == 3
    assert len(table.nodes) == 10
    assert not list(tmp_path.glob(".sensitivity*"))
