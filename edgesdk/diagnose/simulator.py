"""Running switchboards and shadows in onnxruntime, and the damage that a mixture does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from edgesdk.closeness import COLUMNS, compare
from edgesdk.errors import StepFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.generic]
    Outputs = dict[str, Array]


class Board(Protocol):
    """A model whose nodes are switched by one of its inputs."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def choices(self) -> str:
        """Name of that input."""

    def encode(self, assignment: Mapping[str, str]) -> NDArray[np.int64]:
        """Its value for precisions by node name; nodes not named are float."""


_QUIET = 4
BROKEN = 1e20
"""Damage of an output with NaN or infinite values where the float model has none: -200 dB."""


class Engine:
    """An ONNX file in onnxruntime, opened so that what only simulates is left as it is written.

    A context manager.

    Attributes:
        inputs: names.
        outputs: names and onnxruntime's names of their types, as `tensor(float)`.
    """

    def __init__(self, model: Path, *, threads: int = 0, optimise: bool = True) -> None:
        """Load the model.

        Args:
            model: the file.
            threads: 0 for all cores.
            optimise: do onnxruntime's basic rewrites, except folding of constants.

        Raises:
            StepFailed: onnxruntime cannot load it.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_BASIC if optimise else levels.ORT_DISABLE_ALL
        )
        try:
            self._session: Any = ort.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConstantFolding"],
            )
        except Exception as exc:  # onnxruntime's error types share no other base
            raise StepFailed(f"onnxruntime cannot load {model.name}: {exc}") from exc
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = {value.name: str(value.type) for value in self._session.get_outputs()}

    def run(self, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> Outputs:
        """The outputs of these names.

        Args:
            feed: all inputs; arrays under other names are left out.

        Raises:
            StepFailed: onnxruntime cannot run it.
        """
        taken = {name: feed[name] for name in self.inputs}
        try:
            values = self._session.run(list(outputs), taken)
        except Exception as exc:  # as above
            raise StepFailed(f"onnxruntime cannot run the model: {exc}") from exc
        return dict(zip(outputs, values, strict=True))

    def close(self) -> None:
        """Free the graph and its weights."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Simulator:
    """One session that runs any mixture of a switchboard's precisions. A context manager.

    Attributes:
        outputs: names of the model's outputs.
    """

    def __init__(self, board: Board, *, threads: int = 0) -> None:
        """Open the board; see `Engine`."""
        self.board = board
        self._engine = Engine(board.path, threads=threads)
        self.outputs = tuple(self._engine.outputs)

    def run(self, inputs: Mapping[str, Array], assignment: Mapping[str, str]) -> Outputs:
        """The outputs for one sample, with these nodes at these precisions and all others in float.

        Raises:
            ModelError: the assignment does not fit the board.
            StepFailed: onnxruntime cannot run it.
        """
        feed = {**inputs, self.board.choices: self.board.encode(assignment)}
        return self._engine.run(feed, self.outputs)

    def close(self) -> None:
        """Free the session."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Damage:
    """Noise and signal at every output, summed up sample by sample."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._broken: set[str] = set()

    def add(self, reference: Outputs, candidate: Outputs) -> None:
        """Compare one sample's outputs with the float model's, name by name."""
        for name, before in reference.items():
            row = compare(before, candidate.get(name))
            numbers = dict(zip(COLUMNS, row.numbers, strict=True))
            if row.problem or row.bad_values:
                self._broken.add(name)  # its sums no longer count
            if before.dtype.kind == "f":
                pair = (numbers["error_sq"], numbers["reference_sq"])
            else:
                pair = (1.0 - numbers["agreement"], 1.0)
            agreement = numbers["agreement"]
            counted = (0.0, 0.0) if np.isnan(agreement) else (agreement, 1.0)
            sums = self._sums.setdefault(name, np.zeros(4))
            sums += np.nan_to_num(np.array([*pair, *counted]))

    @property
    def by_output(self) -> tuple[float, ...]:
        """Noise power over signal power of every output, at most 1e20."""
        return tuple(
            BROKEN if name in self._broken else _ratio(error, signal)
            for name, (error, signal, _, _) in self._sums.items()
        )

    @property
    def agreement(self) -> float | None:
        """Mean share of largest entries in place, at the worst output; None where none has them."""
        shares = [share / rows for _, _, share, rows in self._sums.values() if rows]
        return float(min(shares)) if shares else None


def _ratio(error: float, signal: float) -> float:
    if error == 0:
        return 0.0
    return float(min(error / signal, BROKEN)) if signal > 0 else BROKEN
