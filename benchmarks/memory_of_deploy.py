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

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgesdk.arrays import save_arrays
from edgesdk.cache import Cache
from edgesdk.deployment import deploy
from edgesdk.errors import EdgeSdkError
from edgesdk.events import Event
from edgesdk.machine import detect

TOKENS, HEADS = 16, 16
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


def watched_deploy(work: Path, *, layers: int, width: int) -> dict[str, object]:
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
            events.append(f"{event.stage} {event.subject}: {event.message}")

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
    data = model.with_name("decoder.data")
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


def write_decoder(path: Path, *, layers: int, width: int) -> Path:
    """A stack of decoder blocks with weights in `decoder.data`, one weight in memory at a time."""
    rng = np.random.default_rng(1)
    nodes, weights = [], []
    with path.with_name("decoder.data").open("wb") as stream:

        def weight(name: str, *shape: int) -> str:
            scale = 1.0 / np.sqrt(shape[0]) if len(shape) > 1 else 0.02
            values = (rng.standard_normal(shape, np.float32) * np.float32(scale)).astype(np.float32)
            if name.endswith("scale"):
                values += 1.0
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", "decoder.data"),
                ("offset", stream.tell()),
                ("length", values.nbytes),
            ):
                tensor.external_data.add(key=key, value=str(value))
            stream.write(values.tobytes())
            weights.append(tensor)
            return name

        hidden = "hidden"
        for layer in range(layers):
            hidden = _block(nodes, weight, f"l{layer}", hidden, width)
        nodes.append(helper.make_node("Identity", [hidden], ["output"]))
    shape = [1, TOKENS, width]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        weights,
    )
    small = np.array([1, TOKENS, HEADS, width // HEADS], np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(small, "split"))
    graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([1, TOKENS, width], np.int64), "join")
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def _block(nodes, weight, name, hidden, width):  # type: ignore[no-untyped-def]
    """Pre-norm attention and feed-forward; returns the name of its output."""

    def add(op, inputs, out, **attributes):  # type: ignore[no-untyped-def]
        nodes.append(
            helper.make_node(op, inputs, [f"{name}/{out}"], name=f"{name}/{out}", **attributes)
        )
        return f"{name}/{out}"

    def norm(x, which):  # type: ignore[no-untyped-def]
        scale, bias = weight(f"{name}.{which}.scale", width), weight(f"{name}.{which}.bias", width)
        return add("LayerNormalization", [x, scale, bias], f"norm_{which}")

    def linear(x, which, inner, outer):  # type: ignore[no-untyped-def]
        product = add("MatMul", [x, weight(f"{name}.{which}", inner, outer)], which)
        return add("Add", [product, weight(f"{name}.{which}.bias", outer)], f"{which}_bias")

    def heads(x, which, perm):  # type: ignore[no-untyped-def]
        split = add("Reshape", [x, "split"], f"{which}_split")
        return add("Transpose", [split], f"{which}_heads", perm=perm)

    normed = norm(hidden, "a")
    query = heads(linear(normed, "q", width, width), "q", [0, 2, 1, 3])
    key = heads(linear(normed, "k", width, width), "k", [0, 2, 3, 1])
    value = heads(linear(normed, "v", width, width), "v", [0, 2, 1, 3])
    scores = add("Softmax", [add("MatMul", [query, key], "scores")], "softmax", axis=-1)
    mixed = add("Transpose", [add("MatMul", [scores, value], "mixed")], "back", perm=[0, 2, 1, 3])
    joined = add("Reshape", [mixed, "join"], "joined")
    hidden = add("Add", [hidden, linear(joined, "o", width, width)], "attended")
    inner = linear(norm(hidden, "b"), "up", width, 4 * width)
    outer = linear(add("Gelu", [inner], "gelu"), "down", 4 * width, width)
    return add("Add", [hidden, outer], "out")


if __name__ == "__main__":
    sys.exit(main())
