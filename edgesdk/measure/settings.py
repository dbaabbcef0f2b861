"""What is measured, on which inputs, and how carefully: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgesdk.errors import InputError
from edgesdk.profile_values import Sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One artifact and how it is to run.

    Attributes:
        backend: name of the engine's adapter.
        artifact: the file to open.
        execution: `fp32`, `bf16` or `fp16`.
        threads: threads inside one run; at least 1.
        files: all files of the artifact; empty for `artifact` and its neighbours of the same stem
            (`model.xml` and `model.bin`, `model.onnx` and `model.onnx.data`).
    """

    backend: str
    artifact: Path
    execution: str = "fp32"
    threads: int = 1
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """For messages and logs."""
        return f"{self.backend}/{self.artifact.name}"

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes count as the artifact's size."""
        if self.files:
            return self.files
        same_stem = self.artifact.parent.glob(f"{glob_escape(self.artifact.stem)}.*")
        return tuple(sorted({self.artifact, *(file for file in same_stem if file.is_file())}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Real inputs that runs are timed on.

    Attributes:
        names: inputs of the model; other arrays of the files (labels) are left alone.
        prefix: what an input's array is called before its name; `input.` in stored samples.
        rows: uncompressed `.npz` files, one sample each.
    """

    names: tuple[str, ...]
    rows: tuple[Path, ...]
    prefix: str = ""

    def __post_init__(self) -> None:
        """Refuse to measure on nothing.

        Raises:
            InputError: there are no rows.
        """
        if not self.rows:
            raise InputError("nothing to measure on: give at least one row of inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long and how carefully to measure.

    A round is one window of the baseline and one of the candidate. Windows are short and many: what
    a host takes away in bursts then falls into few of them, which the median ignores. A model of
    10 ms takes 6 to 8 seconds on a quiet machine, plus what its engines need to start.

    Attributes:
        window_s, window_runs: a window lasts at least this long and has at least this many runs.
        min_rounds: measured in any case, unless `max_seconds` are over and 5 are there.
        max_rounds, max_seconds: where measuring ends at the latest, both sides together, without
            starting and warming up; twice that time while the interval is wider than
            `steady_interval`, as on a host that takes the cores away now and then.
        precise: from `min_rounds` on it ends as soon as the 95 % interval of the speedup is at most
            this wide on either side, as a fraction of it.
        hopeless: from the first process's rounds on it ends as soon as the whole interval of the
            speedup is below this, and is not called noisy: a search sets it to what the best so far
            is sure to reach.
        settled: warm-up ends when the typical times of three windows in a row differ by at most
            this fraction; or after `warmup_seconds`, and then the verdict is noisy unless the
            speedup's interval is at most `steady_interval` wide on either side.
        noisy_interval: a wider interval, or as much drift of the speedup, makes the verdict noisy.
        noisy_spread: without a partner, so does a spread (10 to 90 %) of the windows above this.
        processes: the runners are replaced by fresh ones so often (memory layout alone can make a
            process a few percent faster or slower), the rounds are shared between them.
        rows: inputs that are cycled; fewer where one cycle would be longer than a window.
        sequential: never both engines in memory at once; chosen by itself where memory is short.
        cores: what to pin the runs to; None for the idlest full cores, one for each thread.
        timeout_s: limit on any single answer of a runner (loading, one window).
        memory_bytes: limit on the memory of one runner; None for none.
        sensors: of the device; those of power are watched while the artifact runs on for
            `sense_seconds`, apart from what is timed.
    """

    window_s: float = 0.05
    window_runs: int = 3
    min_rounds: int = 16
    max_rounds: int = 200
    max_seconds: float = 8.0
    precise: float = 0.03
    hopeless: float = 0.97
    settled: float = 0.05
    warmup_seconds: float = 2.0
    noisy_interval: float = 0.10
    noisy_spread: float = 0.50
    steady_interval: float = 0.05
    processes: int = 2
    rows: int = 8
    sequential: bool = False
    cores: tuple[int, ...] | None = None
    timeout_s: float = 300.0
    memory_bytes: int | None = None
    sensors: tuple[Sensor, ...] = ()
    sense_seconds: float = 2.0


def glob_escape(text: str) -> str:
    """The pattern that matches just this text."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
