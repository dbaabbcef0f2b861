"""Conversions that are wrong in one place: the place is found, through the adapter contract alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper

from edgesdk.arrays import save_arrays
from edgesdk.backend import Array, Backend
from edgesdk.diagnose.conversion import bisect_conversion
from edgesdk.errors import ModelError, SamplesError
from edgesdk.model import read_model
from edgesdk.recipe import Recipe
from edgesdk.samples import INPUT_PREFIX, Sample, SampleSet
from edgesdk.steps import bisect_conversion as step
from edgesdk.testing.graphs import build
from edgesdk_backends.onnxruntime import OnnxRuntimeBackend
from edgesdk_backends.openvino import OpenVinoBackend

SEEDS = range(8)


class BrokenConversion(OnnxRuntimeBackend):
    """Converts one node wrongly: a tenth of its result's square is added to the result."""

    name: ClassVar[str] = "broken"

    def __init__(self, node: str) -> None:
        self.node = node
        self.conversions = 0

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        self.conversions += 1
        proto = onnx.load(model)
        _break(proto, self.node)
        spoiled = out / "spoiled.onnx"
        onnx.save(proto, spoiled)
        return super().convert(spoiled, recipe, out)


class BrokenFusion(OnnxRuntimeBackend):
    """Wrong at a pair of nodes, and only where nothing else sees what is between them."""

    name: ClassVar[str] = "broken-fusion"

    def __init__(self, first: str, second: str) -> None:
        self.first, self.second = first, second

    def convert(self, model: Path, recipe: Recipe, out: Path) -> Path:
        proto = onnx.load(model)
        between = next(n for n in proto.graph.node if n.name == self.first).output[0]
        if between not in {value.name for value in proto.graph.output}:
            _break(proto, self.second)
        spoiled = out / "spoiled.onnx"
        onnx.save(proto, spoiled)
        return super().convert(spoiled, recipe, out)


def _break(proto: onnx.ModelProto, name: str) -> None:
    place, node = next((i, n) for i, n in enumerate(proto.graph.node) if n.name == name)
    output = next(out for out in node.output if out)
    node.output[list(node.output).index(output)] = "right"
    tenth = helper.make_node("Constant", [], ["tenth"], value_float=0.1)
    extra = [
        helper.make_node("Mul", ["right", "right"], ["square"]),
        helper.make_node("Mul", ["square", "tenth"], ["little"]),
        helper.make_node("Add", ["right", "little"], [output]),
    ]
    for number, one in enumerate([tenth, *extra]):
        proto.graph.node.insert(place + 1 + number, one)


class Rows:
    """Samples in memory."""

    def __init__(self, feeds: Sequence[dict[str, Array]]) -> None:
        self._feeds = feeds

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, row: int, /) -> Sample:
        return Sample(inputs=self._feeds[row])


def _rows(model: Path) -> Rows:
    rng = np.random.default_rng(5)
    if "attention" in str(model):
        return Rows([{"ids": rng.integers(0, 100, (1, 5 + i))} for i in range(3)])
    (info,) = read_model(model).inputs
    shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
    return Rows([{info.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(3)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["small_cnn", "small_attention", "small_mlp"])
def test_the_broken_node_is_found_in_few_conversions(
    kind: str, seed: int, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(kind)
    nodes = onnx.load(model).graph.node
    broken = nodes[int(np.random.default_rng(seed).integers(len(nodes)))]
    backend = BrokenConversion(broken.name)
    fault = bisect_conversion(backend, model, _rows(model))
    assert fault is not None
    assert fault.suspects == (broken.name,)
    assert fault.ops == (broken.op_type,)
    assert fault.tensor == broken.output[0]
    assert fault.error > 1e-5
    assert fault.conversions == backend.conversions <= 2 + math.log(len(nodes), 4) + 1


@pytest.mark.parametrize("kind", ["small_cnn", "small_attention"])
@pytest.mark.parametrize("backend", [OnnxRuntimeBackend(), OpenVinoBackend()], ids=lambda b: b.name)
def test_a_right_conversion_takes_one_look(
    kind: str, backend: Backend, request: pytest.FixtureRequest
) -> None:
    if backend.unavailable():
        pytest.skip(str(backend.unavailable()))
    model: Path = request.getfixturevalue(kind)
    assert bisect_conversion(backend, model, _rows(model)) is None


def test_a_fault_that_hides_when_it_is_looked_at_is_told_apart(small_cnn: Path) -> None:
    fault = bisect_conversion(BrokenFusion("conv_c", "relu_2"), small_cnn, _rows(small_cnn))
    assert fault is not None
    assert fault.suspects[-1] == "relu_2" or not fault.certain
    assert {"conv_c", "relu_2"} & set(fault.suspects)


def test_values_that_branches_read_cross_the_cut(tmp_path: Path) -> None:
    case = build("branch")
    model = case.write(tmp_path)
    fault = bisect_conversion(BrokenConversion("choice"), model, Rows(case.feeds))
    assert fault is not None
    assert fault.suspects == ("choice",)
    fault = bisect_conversion(BrokenConversion("add_0"), model, Rows(case.feeds))
    assert fault is not None
    assert fault.suspects == ("add_0",)


def test_outputs_of_every_type_are_compared(tmp_path: Path) -> None:
    case = build("integers")
    model = case.write(tmp_path)
    assert bisect_conversion(OnnxRuntimeBackend(), model, Rows(case.feeds)) is None


def test_what_cannot_be_searched_is_refused(small_cnn: Path, tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="there are none"):
        bisect_conversion(OnnxRuntimeBackend(), small_cnn, Rows([]))
    proto = onnx.load(small_cnn)
    proto.graph.node[3].name = proto.graph.node[1].name
    onnx.save(proto, tmp_path / "twice.onnx")
    with pytest.raises(ModelError, match="2 nodes are called 'relu_1'"):
        bisect_conversion(OnnxRuntimeBackend(), tmp_path / "twice.onnx", _rows(small_cnn))


def test_as_a_step(small_mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        inputs = _rows(small_mlp)[number].inputs
        named = {f"{INPUT_PREFIX}{name}": array for name, array in inputs.items()}
        save_arrays(tmp_path / f"{number:06d}.npz", named)
    rows = SampleSet(folder=tmp_path, rows=(0, 1))
    request = {
        "model": str(small_mlp),
        "rows": rows.to_json(),
        "backend": "onnxruntime",
        "recipe": "fp32",
        "threads": 1,
    }
    assert step(request) == {"fault": None}
