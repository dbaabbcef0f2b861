"""How much memory a deploy of a model over 2 GB takes, all its processes together.

    python -m benchmarks.memory_of_deploy --work build/big --out benchmarks/results [--layers 11]

The model has the architecture of a GPT-class decoder block stack (attention and a 4x feed-forward of
width 2048, LayerNorm, GELU) with synthetic weights in external data, written layer by layer. The
mark: a peak of at most 2.5 times the model plus the engines' own footprint, which is measured here by
deploying the same architecture with one narrow layer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgesdk.arrays import save_arrays
from edgesdk.cache import Cache
from edgesdk.deployment import deploy
from edgesdk.errors import EdgeSdkError
from edgesdk.events import Event
from edgesdk.machine import detect

TOKENS, HEADS = 16, 16
DATA = "decoder.data"
MARK = 2.5
_PAUSE_S = 0.1


def main() -> int:
    """Deploy a small and a large model, write the figures; exits 1 when the mark is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, 12 GB free")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result file")
    parser.add_argument("--layers", type=int, default=11)
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    small = watched_deploy(options.work / "small", layers=1, width=128)
    large = watched_deploy(options.work / "large", layers=options.layers, width=2048)
    allowed = MARK * large["model_mib"] + small["peak_mib"]
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    document = {
        "command": f"python -m benchmarks.memory_of_deploy --work W --out O --layers {options.layers}",
        "date": stamp,
        "machine": {**detect().to_json(), "python": platform.python_version()},
        "small": small,
        "large": large,
        "allowed_mib": allowed,
        "times_the_model": (large["peak_mib"] - small["peak_mib"]) / large["model_mib"],
        "kept": large["peak_mib"] <= allowed,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{stamp}-memory-of-deploy.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: document[key] for key in ("allowed_mib", "times_the_model", "kept")}))
    print(path)
    return int(not document["kept"])


def watched_deploy(work: Path, *, layers: int, width: int) -> dict[str, Any]:
    """Deploy a decoder stack while watching the memory of all processes."""
    work.mkdir(parents=True)
    model = write_decoder(work / "decoder.onnx", layers=layers, width=width)
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((10, TOKENS, width)).astype(np.float32)
    save_arrays(work / "samples.npz", {"hidden": samples})
    stage = ["start"]
    events: list[str] = []

    def listen(event: Event) -> None:
        if event.state == "begin":
            stage[0] = f"{event.stage} {event.subject}".strip()
        else:
            events.append(f"{event.stage} {event.subject}: {event.message}".replace(str(work), "W"))

    watcher = _Watcher(stage)
    begun = time.monotonic()
    failure = ""
    with watcher:
        try:
            deploy(
                model,
                profile="x86",
                samples=str(work / "samples.npz"),
                out=work / "out",
                cache=Cache(work / "cache"),
                listen=listen,
            )
        except EdgeSdkError as exc:
            failure = f"{type(exc).__name__}: {exc}"
    data = model.with_name(DATA)
    return {
        "model_mib": (model.stat().st_size + data.stat().st_size) / 2**20,
        "peak_mib": watcher.peak_mib,
        "peak_during": watcher.peak_stage,
        "peak_mib_by_stage": watcher.by_stage,
        "seconds": time.monotonic() - begun,
        "events": events,
        "failure": failure,
    }


class _Watcher:
    """Peak of the proportional set size of this process and all it started."""

    def __init__(self, stage: list[str]) -> None:
        self._stage = stage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.by_stage: dict[str, float] = {}

    @property
    def peak_mib(self) -> float:
        return max(self.by_stage.values(), default=0.0)

    @property
    def peak_stage(self) -> str:
        return max(self.by_stage, key=lambda stage: self.by_stage[stage], default="")

    def __enter__(self) -> _Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            stage = self._stage[0]
            self.by_stage[stage] = max(self.by_stage.get(stage, 0.0), _tree_mib(os.getpid()))


def _tree_mib(root: int) -> float:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(text[text.rindex(")") + 2 :].split()[1])
    members = {root}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return sum(_pss_kib(pid) for pid in members) / 1024


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


class _Writer:
    """A graph under construction whose weights go to a file one at a time."""

    def __init__(self, data: BinaryIO) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._data = data
        self._rng = np.random.default_rng(1)

    def weight(self, name: str, *shape: int) -> str:
        """A synthetic weight, scaled so that activations keep their size."""
        scale = np.float32(1.0 / np.sqrt(shape[0]) if len(shape) > 1 else 0.02)
        values = self._rng.standard_normal(shape, np.float32) * scale
        if name.endswith("scale"):
            values += np.float32(1.0)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", DATA),
            ("offset", self._data.tell()),
            ("length", values.nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(values.tobytes())
        self.weights.append(tensor)
        return name

    def add(self, op: str, inputs: list[str], out: str, **attributes: Any) -> str:
        """A node; returns the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def norm(self, x: str, name: str, width: int) -> str:
        """LayerNormalization over the last axis."""
        scale = self.weight(f"{name}.scale", width)
        return self.add(
            "LayerNormalization", [x, scale, self.weight(f"{name}.bias", width)], f"{name}/out"
        )

    def linear(self, x: str, name: str, inner: int, outer: int) -> str:
        """A product with a weight, and a bias."""
        product = self.add("MatMul", [x, self.weight(name, inner, outer)], f"{name}/product")
        return self.add("Add", [product, self.weight(f"{name}.bias", outer)], f"{name}/out")

    def heads(self, x: str, name: str, perm: list[int]) -> str:
        """[1, tokens, width] split into heads and transposed."""
        split = self.add("Reshape", [x, "split"], f"{name}/split")
        return self.add("Transpose", [split], f"{name}/heads", perm=perm)

    def block(self, hidden: str, name: str, width: int) -> str:
        """Pre-norm attention and feed-forward."""
        normed = self.norm(hidden, f"{name}.a", width)
        query, key, value = (
            self.heads(self.linear(normed, f"{name}.{part}", width, width), f"{name}.{part}", perm)
            for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
        )
        scores = self.add("MatMul", [query, key], f"{name}/scores")
        weights = self.add("Softmax", [scores], f"{name}/softmax", axis=-1)
        mixed = self.add("MatMul", [weights, value], f"{name}/mixed")
        back = self.add("Transpose", [mixed], f"{name}/back", perm=[0, 2, 1, 3])
        joined = self.add("Reshape", [back, "join"], f"{name}/joined")
        attended = self.linear(joined, f"{name}.o", width, width)
        hidden = self.add("Add", [hidden, attended], f"{name}/attended")
        inner = self.linear(self.norm(hidden, f"{name}.b", width), f"{name}.up", width, 4 * width)
        outer = self.linear(
            self.add("Gelu", [inner], f"{name}/gelu"), f"{name}.down", 4 * width, width
        )
        return self.add("Add", [hidden, outer], f"{name}/out")


def write_decoder(path: Path, *, layers: int, width: int) -> Path:
    """A stack of decoder blocks with its weights in a file of their own."""
    with path.with_name(DATA).open("wb") as stream:
        writer = _Writer(stream)
        hidden = "hidden"
        for layer in range(layers):
            hidden = writer.block(hidden, f"l{layer}", width)
        writer.add("Identity", [hidden], "output")
    shape = [1, TOKENS, width]
    graph = helper.make_graph(
        writer.nodes,
        "decoder",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [
            *writer.weights,
            numpy_helper.from_array(np.array([1, TOKENS, HEADS, width // HEADS]), "split"),
            numpy_helper.from_array(np.array(shape), "join"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


if __name__ == "__main__":
    sys.exit(main())
