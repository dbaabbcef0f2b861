"""Training in a step: labels of calibration rows, where a name asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesdk.arrays import save_arrays
from edgesdk.errors import SamplesError
from edgesdk.model import read_model
from edgesdk.samples import SampleSet, read_samples
from edgesdk.teaching import teach
from edgesdk.train import unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A classifier that knows nothing: x float32[N, 8] -> y float32[N, 3]."""
    rng = np.random.default_rng(0)
    stored = {"a": (8, 16), "b": (16, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 4, name)
            for name, shape in stored.items()
        ],
    )
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def rows(network: Path, folder: Path, **labels: np.ndarray) -> SampleSet:
    x = np.random.default_rng(1).normal(size=(120, 8)).astype(np.float32)
    save_arrays(folder / "rows.npz", {"x": x, **labels})
    found = read_samples(
        str(folder / "rows.npz"), read_model(network).inputs, store=folder / "store"
    )
    return found.evaluation


def right(model: Path, samples: SampleSet) -> float:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    hits = [session.run(None, dict(s.inputs))[0].argmax() == s.labels["label"] for s in samples]
    return float(np.mean(hits))


def test_labels_are_learnt_where_they_are_asked_for(network: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(120, 8)).astype(np.float32)
    samples = rows(network, tmp_path, label=x[:, :3].argmax(1))
    plain = teach(network, network, samples, tmp_path / "plain.onnx")
    taught = teach(network, network, samples, tmp_path / "taught.onnx", with_labels=True)
    assert right(plain.path, samples) == right(network, samples)
    assert right(taught.path, samples) > right(network, samples) + 0.1


def test_labels_that_cannot_be_learnt_are_refused(network: Path, tmp_path: Path) -> None:
    for labels, words in (
        ({}, "no labels to learn"),
        ({"label": np.full(120, "cat")}, "legal: integer classes"),
        ({"label.z": np.zeros(120, np.int64)}, "of no output; give label.NAME for one of y"),
    ):
        samples = rows(network, tmp_path, **labels)
        with pytest.raises(SamplesError, match=words):
            teach(network, network, samples, tmp_path / "made.onnx", with_labels=True)
