"""The sensitivity of every node of a quantized model as it was written, seen at the model's outputs.

The simulation in `sensitivity` says what a precision would do to a node. This looks at what a
quantizer did: its ranges, its smoothing, its corrected biases, and every operator that it rounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.closeness import decibels
from edgesdk.compress.restoring import Board, build_board
from edgesdk.diagnose.sensitivity import ROWS, simulate_mixtures
from edgesdk.diagnose.simulator import Damage, Engine, Simulator
from edgesdk.errors import SamplesError, StepFailed
from edgesdk.plan.damage import Additivity, NodeSensitivity, SensitivityTable

if TYPE_CHECKING:
    from edgesdk.compress.calibration import SampleSet

_SOUND = 1e-6
"""Noise over signal that the board with every node in float may have beside the original."""


def measure_written(
    original: Path,
    quantized: Path,
    samples: SampleSet,
    precision: str,
    *,
    rows: int = ROWS,
    threads: int = 0,
    scratch: Path | None = None,
) -> SensitivityTable:
    """What every quantized node costs at the outputs, with all others in float.

    Args:
        original: the float model that was quantized.
        quantized: with QuantizeLinear/DequantizeLinear pairs.
        samples: calibration rows; lengths may differ from row to row.
        precision: what to call the quantized form.
        rows: samples at most, evenly chosen; at least 1.
        threads: of onnxruntime; 0 for all cores.
        scratch: folder for a file as large as the original; by default a temporary one.

    Raises:
        SamplesError: there are no samples.
        ModelError: no node is quantized.
        StepFailed: onnxruntime cannot run it, or with every node in float it is not the original.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".written.") as folder:
        board = build_board(original, quantized, Path(folder) / "board.onnx", precision)
        everything = board.except_for(())
        mixtures = [{node: precision} for node in board.nodes] + [everything]
        damages, outputs = _simulated(board, original, samples, mixtures, rows, threads)
    *alone, together = damages
    nodes = tuple(
        NodeSensitivity(
            node=node,
            op=op,
            precision=precision,
            sqnr_db=None,
            damages=damage.by_output,
            agreement=damage.agreement,
            measured=True,
        )
        for (node, op), damage in zip(board.nodes.items(), alone, strict=True)
    )
    actual = together.by_output
    worst = actual.index(max(actual))
    added = Additivity(
        precision=precision,
        predicted=sum(item.damages[worst] for item in nodes),
        actual=actual[worst],
    )
    looked_at = min(max(rows, 1), len(samples))
    return SensitivityTable(outputs=outputs, rows=looked_at, nodes=nodes, additivity=(added,))


def measure_kept(
    original: Path,
    quantized: Path,
    samples: SampleSet,
    kept: Sequence[Sequence[str]],
    *,
    rows: int = ROWS,
    threads: int = 0,
    scratch: Path | None = None,
) -> tuple[float, ...]:
    """Noise over signal at the worst output with each of these sets of nodes kept in float.

    Takes and raises what `measure_written` does.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".written.") as folder:
        board = build_board(original, quantized, Path(folder) / "board.onnx", "quantized")
        mixtures = [board.except_for(names) for names in kept]
        damages, _ = _simulated(board, original, samples, mixtures, rows, threads)
    return tuple(max(damage.by_output) for damage in damages)


def _simulated(
    board: Board,
    original: Path,
    samples: SampleSet,
    mixtures: Sequence[dict[str, str]],
    rows: int,
    threads: int,
) -> tuple[list[Damage], tuple[str, ...]]:
    from edgesdk.compress.calibration import evenly

    chosen = evenly(len(samples), max(rows, 1))
    if not chosen:
        raise SamplesError("sensitivity is seen on samples, and there are none; give --samples")
    with Simulator(board, threads=threads) as simulator:
        with Engine(original, threads=threads) as engine:
            inputs = samples[chosen[0]].inputs
            same = Damage()
            same.add(engine.run(inputs, simulator.outputs), simulator.run(inputs, {}))
        off = max(same.by_output)
        if off > _SOUND:
            raise StepFailed(
                "nodes of the quantized model cannot be turned back into float: with all of them "
                f"restored it is {_decibels(off):.0f} dB from the original"
            )
        return simulate_mixtures(simulator, samples, chosen, mixtures), simulator.outputs


def _decibels(noise: float) -> float:
    """Signal over noise in decibels, for a ratio of noise to signal."""
    return float(decibels(np.array([1.0]), np.array([noise]))[0])
