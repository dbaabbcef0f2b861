"""The sensitivity of every node, by simulation: locally first, then at the model's outputs.

One pass with shadows gives the noise that each node at each precision makes at its own output. Then
each node is quantized alone in a switchboard and the model's outputs are compared with the float
ones: for all nodes where they are few, else for those that are noisiest locally; the damage of the
others is estimated from their noise. At last all nodes at once, to see whether damages add up.

Samples are read one at a time and all mixtures run on each, so that no more than two sets of
outputs are in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.closeness import decibels
from edgesdk.compress.switchboard import Shadows, build_shadows, build_switchboard
from edgesdk.diagnose.simulator import BROKEN, Damage, Engine, Simulator
from edgesdk.errors import SamplesError
from edgesdk.plan.damage import Additivity, NodeSensitivity, SensitivityTable
from edgesdk.precision import Precision

if TYPE_CHECKING:
    from edgesdk.compress.calibration import SampleSet
    from edgesdk.compress.simulated import Ranges
    from edgesdk.statistics import Floats

    Pair = tuple[str, str]
    """A node and a precision."""

ROWS = 8
"""Samples that are looked at by default; a node's damage settles within a few."""
REFINED = 150
"""Nodes a precision that are tried at the outputs, by default."""


def measure_sensitivity(
    model: Path,
    samples: SampleSet,
    precisions: Sequence[str],
    *,
    ranges: Ranges | None = None,
    rows: int = ROWS,
    refined: int = REFINED,
    threads: int = 0,
    scratch: Path | None = None,
) -> SensitivityTable:
    """Simulate every quantizable node at every precision on real samples.

    Args:
        model: what `prepare` wrote; nodes have names of their own.
        samples: calibration rows; lengths may differ from row to row.
        precisions: names, see `edgesdk.precision`; at least one.
        ranges: lowest and highest value of activations by tensor name, for fixed ranges; the others
            are ranged anew in each run.
        rows: samples at most, evenly chosen; at least 1.
        refined: nodes a precision whose damage is seen rather than estimated; at least 1.
        threads: of the simulation; 0 for all cores.
        scratch: folder for two files as large as the model; by default a temporary one.

    Raises:
        SamplesError: there are no samples.
        ModelError: no node can be quantized, or names are missing or not unique.
        RecipeError: a precision that does not decode.
        StepFailed: onnxruntime cannot run the model on these samples.
    """
    from edgesdk.compress.calibration import evenly

    if not len(samples):
        raise SamplesError("sensitivity is seen on samples, and there are none; give --samples")
    wanted = [Precision.parse(name) for name in dict.fromkeys(precisions)]
    chosen = evenly(len(samples), max(rows, 1))
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".sensitivity.") as folder:
        shadows = build_shadows(model, Path(folder) / "shadows.onnx", wanted, ranges=ranges)
        noise, signal = _local(shadows, samples, chosen, threads)
        local = {
            (site.node, precision.name): (float(noise[i]), float(signal[i]))
            for i, (site, precision) in enumerate(shadows.pairs)
        }
        board = build_switchboard(model, Path(folder) / "board.onnx", wanted, ranges=ranges)
        alone = [pair for precision in wanted for pair in _noisiest(local, precision.name, refined)]
        together = {precision.name: board.everywhere(precision.name) for precision in wanted}
        mixtures = [{node: name} for node, name in alone] + list(together.values())
        with Simulator(board, threads=threads) as simulator:
            damages = simulate_mixtures(simulator, samples, chosen, mixtures)
            outputs = simulator.outputs
    seen = dict(zip(alone, damages, strict=False))
    table = SensitivityTable(
        outputs=outputs,
        rows=len(chosen),
        nodes=tuple(
            _described(site.node, site.op, precision.name, local, seen)
            for site, precision in shadows.pairs
        ),
        additivity=(),
    )
    sums = zip(together, damages[len(alone) :], strict=True)
    return SensitivityTable(
        outputs=outputs,
        rows=len(chosen),
        nodes=table.nodes,
        additivity=tuple(_added_up(table, name, damage) for name, damage in sums),
    )


def simulate_kept(
    model: Path,
    samples: SampleSet,
    precision: str,
    kept: Sequence[Collection[str]],
    *,
    rows: int = ROWS,
    threads: int = 0,
    scratch: Path | None = None,
) -> tuple[float, ...]:
    """Noise over signal at the worst output with each of these sets of nodes spared.

    They stay float, or have 8-bit weights where the precision has 4. Takes and raises what
    `measure_sensitivity` does.
    """
    from edgesdk.compress.calibration import evenly

    chosen = evenly(len(samples), max(rows, 1))
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".sensitivity.") as folder:
        wanted = Precision.parse(precision)
        both = [wanted, *([wanted.spared] if wanted.spared else [])]
        board = build_switchboard(model, Path(folder) / "board.onnx", both)
        everywhere = board.everywhere(precision)
        finer = board.everywhere(wanted.spared.name) if wanted.spared else {}
        mixtures = [
            {n: p for n, p in everywhere.items() if n not in names}
            | {n: p for n, p in finer.items() if n in names}
            for names in kept
        ]
        with Simulator(board, threads=threads) as simulator:
            damages = simulate_mixtures(simulator, samples, chosen, mixtures)
    return tuple(max(damage.by_output) for damage in damages)


def simulate_mixtures(
    simulator: Simulator,
    samples: SampleSet,
    rows: Sequence[int],
    mixtures: Sequence[Mapping[str, str]],
) -> list[Damage]:
    """What each mixture of precisions does to the outputs, over these rows.

    Args:
        simulator: an open switchboard.
        samples: read once, one at a time.
        rows: numbers of the samples to take.
        mixtures: precision names by node name.
    """
    damages = [Damage() for _ in mixtures]
    for row in rows:
        inputs = samples[row].inputs
        reference = simulator.run(inputs, {})
        for mixture, damage in zip(mixtures, damages, strict=True):
            damage.add(reference, simulator.run(inputs, mixture))
    return damages


def _local(
    shadows: Shadows, samples: SampleSet, rows: Sequence[int], threads: int
) -> tuple[Floats, Floats]:
    """Noise and signal energy of every pair over these rows."""
    sums = np.zeros((2, len(shadows.pairs)))
    names = (shadows.errors, shadows.signals)
    with Engine(shadows.path, threads=threads) as engine:
        for row in rows:
            found = engine.run(samples[row].inputs, names)
            sums += np.array([found[name] for name in names], np.float64)
    return sums[0], sums[1]


def _noisiest(local: Mapping[Pair, tuple[float, float]], precision: str, most: int) -> list[Pair]:
    pairs = [pair for pair in local if pair[1] == precision]
    return sorted(pairs, key=lambda pair: -_relative(*local[pair]))[: max(most, 1)]


def _relative(noise: float, signal: float) -> float:
    """Noise over signal; what is not finite comes first."""
    if not np.isfinite(noise):
        return np.inf
    return noise / signal if signal > 0 else np.inf if noise > 0 else 0.0


def _described(
    node: str,
    op: str,
    precision: str,
    local: Mapping[Pair, tuple[float, float]],
    seen: Mapping[Pair, Damage],
) -> NodeSensitivity:
    noise, signal = local[node, precision]
    finite = np.nan_to_num(np.array([signal, noise]), nan=np.inf)
    pair = (node, precision)
    measured = pair in seen
    damages = seen[pair].by_output if measured else _estimated(pair, local, seen)
    return NodeSensitivity(
        node=node,
        op=op,
        precision=precision,
        sqnr_db=float(decibels(finite[:1], finite[1:])[0]),
        damages=damages,
        agreement=seen[pair].agreement if measured else None,
        measured=measured,
    )


def _estimated(
    pair: Pair, local: Mapping[Pair, tuple[float, float]], seen: Mapping[Pair, Damage]
) -> tuple[float, ...]:
    """By how much the noise of the others at this precision grew or shrank on its way out."""
    own = _relative(*local[pair])
    others = [
        (_relative(*local[other]), damage.by_output)
        for other, damage in seen.items()
        if other[1] == pair[1]
    ]
    gains = [[out / noise for out in outs] for noise, outs in others if 0 < noise < np.inf]
    if not gains:
        return (0.0,) * len(others[0][1])
    return tuple(min(own * median(gain), BROKEN) for gain in zip(*gains, strict=True))


def _added_up(table: SensitivityTable, precision: str, damage: Damage) -> Additivity:
    actual = damage.by_output
    worst = actual.index(max(actual))
    predicted = sum(item.damages[worst] for item in table.at(precision))
    return Additivity(precision=precision, predicted=predicted, actual=actual[worst])
