"""An engine that converts one node wrongly is named in the report, and so is the node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesdk.cache import Cache
from edgesdk.decide import Status
from edgesdk.deployment import deploy
from edgesdk.testing.quick import QUICK

CROOKED = '''
import onnx
from onnx import helper
from edgesdk_backends.onnxruntime import OnnxRuntimeBackend


class Crooked(OnnxRuntimeBackend):
    """Adds a hundredth of its square to what one node makes."""

    name = "crooked"

    def convert(self, model, recipe, out):
        proto = onnx.load(model)
        place, node = next((i, n) for i, n in enumerate(proto.graph.node) if n.name == "conv_e")
        made, node.output[0] = node.output[0], "right"
        proto.graph.node.insert(place + 1, helper.make_node("Mul", ["right", "right"], ["square"]))
        proto.graph.node.insert(place + 2, helper.make_node("Add", ["right", "square"], [made]))
        spoiled = out / "spoiled.onnx"
        onnx.save(proto, spoiled)
        return super().convert(spoiled, recipe, out)
'''
BOARD = """
schema = 1
extends = "x86-avx2"
name = "board"
backends = ["onnxruntime", "crooked"]

[[runtimes]]
name = "crooked"
units = ["cpu"]
versions = ">=1"
"""


@pytest.fixture
def crooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Registers the engine above, as a third party's package would."""
    site = tmp_path / "site"
    (site / "crooked-1.dist-info").mkdir(parents=True)
    (site / "crooked-1.dist-info/METADATA").write_text("Name: crooked\nVersion: 1\n")
    (site / "crooked-1.dist-info/entry_points.txt").write_text(
        "[edgesdk.backends]\ncrooked = crooked_engine:Crooked\n"
    )
    (site / "crooked_engine.py").write_text(CROOKED)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    return "crooked"


def test_the_node_that_an_engine_converts_wrongly_is_named(
    crooked: str, small_cnn: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (24, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", image=images)
    profile = tmp_path / "board.toml"
    profile.write_text(BOARD)
    done = deploy(
        small_cnn,
        profile=str(profile),
        samples=str(tmp_path / "rows.npz"),
        backends=("onnxruntime", crooked),
        recipes=(f"{crooked}/fp32",),
        settings=QUICK,
        cache=Cache(tmp_path / "cache"),
        out=tmp_path / "out",
    )
    status = {item.name: item.status for item in done.decision.judged}
    assert status[f"{crooked}/fp32"] == Status.FAILED
    (told,) = [note for note in done.report.notes if note.startswith(crooked)]
    assert "converts a node wrongly" in told
    assert "'conv_e' (Conv)" in told
