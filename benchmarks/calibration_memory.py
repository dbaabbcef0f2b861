"""How much memory calibration takes, by the number of samples, beside one inference and onnxruntime's own.

    python -m benchmarks.calibration_memory REF/minilm --work build/calibration --out benchmarks/results

Rows are those of a reference text encoder, each repeated along its tokens up to `--tokens`, and all of
them repeated up to the number of samples. Every figure is the peak resident memory of a process of its
own, above that of a process which has only imported the engine. The marks: at most 1.3 times one
inference and 32 MiB, from 100 to 10,000 samples; at 128 samples at most a twentieth of what
onnxruntime's histogram calibrator takes.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesdk.arrays import load_arrays
from edgesdk.compress.calibration import Row
from edgesdk.compress.prepare import prepare
from edgesdk.isolate import run_isolated
from edgesdk.machine import detect
from edgesdk.process import memory_now

Array = NDArray[np.generic]
Request = dict[str, Any]

COUNTS = (100, 1000, 10_000)
PEER_COUNT = 128
MARK, CONSTANT_MIB, PEER_MARK = 1.3, 32.0, 20.0
_KEPT = 64
_INFERENCES = 20
_TIMEOUT_S = 7200.0


def main() -> int:
    """Measure, write the figures; exits 1 when a mark is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path, help="folder with model.onnx and samples/")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result file")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    model = prepare(options.reference / "model.onnx", options.work / "prepared", shapes=None).path
    common = {
        "model": str(model.resolve()),
        "samples": str((options.reference / "samples").resolve()),
        "tokens": options.tokens,
    }

    def measured(task: str, count: int = 0) -> dict[str, float]:
        request = {**common, "count": count}
        folder = options.work / f"{task}-{count}"
        target = f"benchmarks.calibration_memory:{task}"
        done = run_isolated(target, request, folder=folder, timeout_s=_TIMEOUT_S).response
        print(task, count, done, flush=True)
        return done

    idle = measured("idle")["peak_mib"]
    inference = measured("infer")["peak_mib"] - idle
    peer = measured("onnxruntime_percentile", PEER_COUNT)
    ours: dict[int, dict[str, float]] = {}
    for count in sorted({PEER_COUNT, *options.counts}):
        ours[count] = measured("observe", count)
    above = {count: found["peak_mib"] - idle for count, found in ours.items()}
    allowed = MARK * inference + CONSTANT_MIB
    peer_above = peer["peak_mib"] - idle
    times_less = peer_above / above[PEER_COUNT]
    counts = " ".join(map(str, options.counts))
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    document = {
        "command": "python -m benchmarks.calibration_memory REF --work W --out O "
        f"--tokens {options.tokens} --counts {counts}",
        "date": stamp,
        "machine": {**detect().to_json(), "python": platform.python_version()},
        "model": options.reference.name,
        "row": {name: list(array.shape) for name, array in Repeated(common).rows[0].inputs.items()},
        "idle_mib": idle,
        "one_inference_mib": inference,
        "observation_mib": {str(count): value for count, value in above.items()},
        "observation_seconds": {str(count): found["seconds"] for count, found in ours.items()},
        "times_one_inference": max(above.values()) / inference,
        "spread_mib": max(above.values()) - min(above.values()),
        "allowed_mib": allowed,
        "onnxruntime_percentile_mib": peer_above,
        "onnxruntime_percentile_seconds": peer["seconds"],
        "times_less_than_onnxruntime": times_less,
        "kept": max(above.values()) <= allowed and times_less >= PEER_MARK,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{stamp}-calibration-memory.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return int(not document["kept"])


@dataclass(frozen=True)
class _Row:
    inputs: dict[str, Array]


class Repeated:
    """Some rows of a reference model, lengthened, over and over."""

    def __init__(self, request: Request) -> None:
        self._count = request.get("count", 0)
        files = sorted(Path(request["samples"]).glob("*.npz"))[:_KEPT]
        self.rows = [_Row(_lengthened(load_arrays(file), request["tokens"])) for file in files]

    def __len__(self) -> int:
        return int(self._count)

    def __getitem__(self, row: int, /) -> Row:
        return self.rows[row % len(self.rows)]

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))


def _lengthened(row: dict[str, Array], tokens: int) -> dict[str, Array]:
    inputs = {name: array for name, array in row.items() if not name.startswith("label")}
    return {
        name: np.tile(array, (1, -(-tokens // array.shape[1])))[:, :tokens]
        for name, array in inputs.items()
    }


def idle(request: Request) -> Request:
    """Import what the others use, and read the rows."""
    import onnx
    import onnxruntime

    import edgesdk.compress.ranges

    del onnx, onnxruntime, edgesdk
    return _peak(time.monotonic(), Repeated(request))


def infer(request: Request) -> Request:
    """Run rows in a plain session with the engine's own settings."""
    import onnx
    import onnxruntime

    del onnx
    start = time.monotonic()
    session = onnxruntime.InferenceSession(request["model"], providers=["CPUExecutionProvider"])
    rows = Repeated({**request, "count": _INFERENCES})
    for row in rows:
        session.run(None, dict(row.inputs))
    return _peak(start, rows)


def observe(request: Request) -> Request:
    """Observe ranges as `edgesdk deploy` does."""
    from edgesdk.compress import ranges

    start = time.monotonic()
    rows = Repeated(request)
    ranges.observe(
        Path(request["model"]),
        rows,
        Path("ranges.npz"),
        most=len(rows),
        checkpoint=Path("unfinished"),
    )
    return _peak(start, rows)


def onnxruntime_percentile(request: Request) -> Request:
    """Let onnxruntime's histogram calibrator see the same rows, with its own settings."""
    from onnxruntime.quantization import CalibrationMethod, calibrate
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self.left = iter(Repeated(request))

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.left, None)
            return None if row is None else dict(row.inputs)

    start = time.monotonic()
    calibrator = calibrate.create_calibrator(
        Path(request["model"]),
        sorted({*QDQRegistry, *QLinearOpsRegistry}),
        augmented_model_path="augmented.onnx",
        calibrate_method=CalibrationMethod.Percentile,
    )
    calibrator.collect_data(Reader())
    calibrator.compute_data()
    return _peak(start, calibrator)


def _peak(start: float, held: object) -> Request:
    del held
    return {"peak_mib": memory_now()["peak_mib"], "seconds": time.monotonic() - start}


if __name__ == "__main__":
    sys.exit(main())
