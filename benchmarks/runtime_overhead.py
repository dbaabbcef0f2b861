"""What `session.run` of a bundle costs over the raw engine call.

    python benchmarks/runtime_overhead.py BUNDLE [BUNDLE …] [--seconds 4] [--json FILE]

Each bundle is opened twice, by `edgesdk.runtime.load` and by the engine's own API with the same
settings, and both run the first golden sample in turns: short windows, their order changing, so
that whatever else the machine does meets both alike. The cost is the middle over pairs of windows,
with its interval. The promise: at most 2 % or 20 microseconds, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.backend import Array
from edgesdk.bundle.golden import deviation, read_golden
from edgesdk.runtime import load
from edgesdk.statistics import middle_interval

ALLOWED_SHARE, ALLOWED_US = 0.02, 20.0
WINDOW_S = 0.01
Run = Callable[[], Mapping[str, Array]]


def main() -> int:
    """Measure, print a table and a JSON document; exit 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, a bundle")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    arguments = parser.parse_args()
    rows = [measure(bundle, arguments.seconds) for bundle in arguments.bundles]
    document = {"machine": machine(), "allowed": [ALLOWED_SHARE, ALLOWED_US], "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(
        f"{'bundle':28} {'engine':12} {'raw us':>10} {'session us':>10}  cost us [95 %]"
        "            share"
    )
    for row in rows:
        low, high = row["cost_us_interval"]
        print(
            f"{row['bundle'][:28]:28} {row['engine']:12} {row['raw_us']:10.1f} "
            f"{row['session_us']:10.1f}  {row['cost_us']:5.2f} [{low:.2f}, {high:.2f}]"
            f"{100 * row['share']:10.2f} %  {row['verdict']}"
        )
    return 1 if any(row["verdict"] == "broken" for row in rows) else 0


def measure(bundle: Path, seconds: float) -> dict[str, Any]:
    """One bundle: both ways in turns, on the same input, in the same process."""
    with load(bundle) as session:
        manifest = session.manifest
        (component,) = manifest.components
        sample = read_golden(
            bundle / manifest.golden.samples[0],
            [info.name for info in session.inputs],
            [info.name for info in session.outputs],
        )
        feed = dict(sample.inputs)
        names = [info.name for info in session.outputs]
        raw = RAW[component.engine.name](bundle / component.main, component, feed, names)

        def ours() -> Mapping[str, Array]:
            return session.run(feed)

        apart = max(deviation(raw()[name], ours()[name]) for name in names)
        pairs = alternate(raw, ours, seconds)
    raw_us, our_us = (pairs[:, side] * 1e6 for side in (0, 1))
    cost, low, high = middle_interval(our_us - raw_us)
    base = float(np.median(raw_us))
    return {
        "bundle": str(manifest.model.name),
        "engine": component.engine.name,
        "threads": component.threads,
        "windows": len(pairs),
        "raw_us": base,
        "session_us": float(np.median(our_us)),
        "cost_us": cost,
        "cost_us_interval": [low, high],
        "share": cost / base,
        "outputs_differ_by": apart,
        "verdict": verdict(low, high, max(ALLOWED_US, ALLOWED_SHARE * base)),
        "windows_us": np.round(pairs * 1e6, 3).tolist(),
    }


def verdict(low: float, high: float, allowed: float) -> str:
    """Kept, broken, or undecided because the machine was too noisy to tell."""
    if high <= allowed:
        return "kept"
    return "broken" if low > allowed else "undecided"


def alternate(first: Run, second: Run, seconds: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean seconds a run in paired windows, [pairs, 2]; which goes first alternates."""
    for _ in range(20):
        first()
        second()
    count = max(1, int(WINDOW_S / min(window(first, 3), window(second, 3))))
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 10:
        if len(pairs) % 2:
            later = window(second, count)
            pairs.append((window(first, count), later))
        else:
            pairs.append((window(first, count), window(second, count)))
    return np.array(pairs)


def window(run: Run, count: int) -> float:
    """Mean seconds of some runs in a row."""
    begin = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - begin) / count


def raw_onnxruntime(
    artifact: Path, component: Any, feed: dict[str, Array], names: list[str]
) -> Run:
    """The engine's own session with the settings that the adapter uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = component.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    engine = onnxruntime.InferenceSession(
        str(artifact), options, providers=["CPUExecutionProvider"]
    )
    return lambda: dict(zip(names, engine.run(names, feed), strict=True))


def raw_openvino(artifact: Path, component: Any, feed: dict[str, Array], names: list[str]) -> Run:
    """The leanest way: inputs bound once without a copy, results copied out for the app."""
    import openvino

    types = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    compiled = openvino.Core().compile_model(
        str(artifact),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": component.threads,
            "INFERENCE_PRECISION_HINT": types[component.execution],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    for number, (info, _) in enumerate(component.inputs):
        array = np.ascontiguousarray(feed[info.name])
        request.set_input_tensor(number, openvino.Tensor(array, shared_memory=True))

    def run() -> Mapping[str, Array]:
        results = request.infer().to_tuple()
        return dict(zip(names, results, strict=True))

    return run


RAW = {"onnxruntime": raw_onnxruntime, "openvino": raw_openvino}


def machine() -> dict[str, str]:
    """What the figures belong to."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    load_file = Path("/proc/loadavg")
    return {
        "cpu": model or platform.processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load": load_file.read_text().split()[0] if load_file.is_file() else "",
    }


if __name__ == "__main__":
    sys.exit(main())
