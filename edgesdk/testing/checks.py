"""What the backend suite does with a backend: convert, open, run, compare."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgesdk.backend import Backend, OpenOptions, Session
from edgesdk.recipe import Recipe
from edgesdk.testing.graphs import Case, Feed

FLOAT = Recipe.parse("fp32")

# Relative to the largest output. A sum of 512 float32 products errs by some 1e-7 of it, one in
# float16 or bfloat16 by 1e-4 and more; 2^-6 leaves bfloat16 (8 bits) a factor of four.
FP32_ERROR = 1e-5
LOW_ERROR = 2**-6

_CHILD = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np
file, kind, work, stage, out = json.loads(sys.argv[1])
spec = importlib.util.spec_from_file_location("adapter_under_test", file)
module = importlib.util.module_from_spec(spec)
sys.modules["adapter_under_test"] = module
spec.loader.exec_module(module)
from edgesdk.backend import OpenOptions
from edgesdk.recipe import Recipe
backend = getattr(module, kind)()
work = Path(work)
if stage == "convert":
    artifact = backend.convert(work / "model.onnx", Recipe.parse("fp32"), work / out)
    (work / "artifact.txt").write_text(str(artifact))
else:
    feed = dict(np.load(work / "feed.npz"))
    with backend.open(Path((work / "artifact.txt").read_text()), OpenOptions()) as session:
        session.run(feed)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def make_folders(root: Path, *names: str) -> list[Path]:
    """Folders that were not there before."""
    for name in names:
        (root / name).mkdir(parents=True)
    return [root / name for name in names]


def converted(engine: Backend, case: Case, folder: Path) -> Path:
    """The artifact of a case's float model, made in a new folder."""
    source, out = make_folders(folder, "source", "out")
    return engine.convert(case.write(source), FLOAT, out)


@contextmanager
def opened(
    engine: Backend, case: Case, folder: Path, options: OpenOptions | None = None
) -> Iterator[Session]:
    """A session on a case, closed at the end."""
    with engine.open(converted(engine, case, folder), options or OpenOptions()) as session:
        yield session


def check_results(session: Session, case: Case, tolerance: float = FP32_ERROR) -> None:
    """Run all feeds; a result may differ from the standard by rounding only."""
    for feed in case.feeds:
        results: Feed = dict(session.run(feed))
        wanted = case.expected(feed)
        assert list(results) == list(wanted)
        for name, want in wanted.items():
            got = results[name]
            assert isinstance(got, np.ndarray)
            assert (got.dtype, got.shape) == (want.dtype, want.shape), name
            if want.dtype.kind == "f":
                atol = tolerance * float(np.abs(want).max(initial=1))
                np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=name)
            else:
                np.testing.assert_array_equal(got, want, err_msg=name)


def matmul_error(session: Session, case: Case) -> float:
    """Largest error of x @ w against float64, relative to the largest result."""
    from onnx import numpy_helper

    weight = numpy_helper.to_array(case.model.graph.initializer[0]).astype(np.float64)
    feed = case.feeds[0]
    exact = feed["x"].astype(np.float64) @ weight
    result = session.run(feed)["y"].astype(np.float64)
    return float(np.abs(result - exact).max() / np.abs(exact).max())


def spoiled(feed: Feed, wrong: str) -> Feed:
    """A feed of the case `convolution` with one thing wrong."""
    image = feed["image"]
    value: dict[str, Feed] = {
        "missing": {},
        "unknown": {"image": image, "no_image": image},
        "dtype": {"image": image.astype(np.float64)},
        "rank": {"image": image[0]},
        "length": {"image": image[:, :, :-1]},
        "list": {"image": image.tolist()},
        "byte order": {"image": image.astype(">f4" if sys.byteorder == "little" else "<f4")},
    }
    return value[wrong]


def copied(arrays: Feed) -> Feed:
    """Copies that share no memory with the originals."""
    return {name: array.copy() for name, array in arrays.items()}


def assert_same(got: Feed, wanted: Feed) -> None:
    """Bit for bit, in the same order."""
    assert list(got) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


def thread_seconds() -> dict[str, float]:
    """CPU time of every thread of this process, by its id; Linux only."""
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        # The name in brackets may hold anything; user and system time are fields 14 and 15.
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        seconds[task.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def write_job(case: Case, folder: Path) -> None:
    """What `run_in_child` works on."""
    case.write(folder).rename(folder / "model.onnx")
    with (folder / "feed.npz").open("wb") as stream:
        np.savez(stream, allow_pickle=False, **case.feeds[0])


def run_in_child(engine: Backend, work: Path, stage: str, out: str) -> set[str]:
    """Do `convert` or `run` in a fresh process; returns the modules that are loaded at its end."""
    kind = type(engine)
    job = json.dumps([inspect.getfile(kind), kind.__qualname__, str(work), stage, out])
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, job], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
