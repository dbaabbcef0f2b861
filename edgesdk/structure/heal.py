"""Healing without training: layers fitted again to what they made before the model was changed.

Whatever was removed, factored or zeroed, every layer that is left has a counterpart in the original,
and real rows tell what it should make. Layers are fitted in the order of the graph, so that each
sees what the healed ones before it give it, in a few sweeps (layer-wise reconstruction: He et al.,
Channel Pruning for Accelerating Very Deep Neural Networks, 2017). Batch normalizations that still
stand in the graph are layers of one weight and one bias a channel, which replaces estimating their
statistics again. Two factors of one layer are fitted as one, of their rank.

Layers that nothing changed before or in are not looked at.

Of three sets of rows (`judge.deal`) one is fitted; the ridge, and whether a layer's change is kept,
follow from the error on the second; the third judges the outputs of the model after each sweep, and
what is best there is returned, so the outputs never get worse on it.

A sweep runs both models over the rows once for each stage, up to the layers of the stage, and oftener
where the sums of a stage outgrow `moments.MOMENT_BYTES`; stages are at most `STAGES`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.compress.exposing import read_by
from edgesdk.structure.judge import Judge, is_better, saved
from edgesdk.structure.layers import Layer
from edgesdk.structure.moments import Target, observe_moments
from edgesdk.structure.net import Net, depths
from edgesdk.structure.reference import Reference
from edgesdk.structure.solve import best_fit

if TYPE_CHECKING:
    import onnx

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.structure.judge import Deal
    from edgesdk.structure.moments import Moments, Progress

SWEEPS = 2
STAGES = 32
"""Layers that no path joins are fitted at once, and so are neighbours where there are more than so many
in a row."""
_WORTH = 1e-3
"""A layer is changed where its error falls by at least this share of it."""
_EXACT = 1e-9
"""Share of its outputs' energy that a layer is off by when nothing has to be healed."""
_SPARSE = 0.05
"""Share of zeros in a weight from which on they are meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHealing:
    """What became of one layer in one sweep.

    Attributes:
        node: its name.
        sweep: from 1.
        positions: that were fitted.
        unknowns: of each output.
        ridge: that was chosen.
        before, after: share of its outputs' energy that is wrong on rows that were not fitted.
        kept: False where the change was not taken.
    """

    node: str
    sweep: int
    positions: int
    unknowns: int
    ridge: float
    before: float
    after: float
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What came out.

    Attributes:
        proto: the model.
        layers: what was fitted, in order.
        left: names of layers that were not fitted, each with the reason.
        before, after: by output, its squared error on rows that neither fitted nor chose anything,
            over the sum of squares of the original's.
        sweeps: how many stand in the model; 0 where all were undone.
        notes: for the report.
    """

    proto: onnx.ModelProto
    layers: tuple[LayerHealing, ...]
    left: Mapping[str, str]
    before: Mapping[str, float]
    after: Mapping[str, float]
    sweeps: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A layer to fit.

    Attributes:
        layer: it; where there are two factors, what they make together.
        factors: the two layers that share the work; none for a layer of its own.
        target: what it should make.
        depth: layers before it.
    """

    layer: Layer
    factors: tuple[Layer, Layer] | None
    target: Target
    depth: int


def heal(
    original: Path,
    compressed: onnx.ModelProto,
    samples: SampleSet,
    rows: Deal,
    scratch: Path,
    *,
    kept: Mapping[str, Sequence[int]] | None = None,
    sweeps: int = SWEEPS,
    stages: int = STAGES,
    progress: Progress | None = None,
) -> Healed:
    """Fit the layers of a changed model to what the original makes.

    A weight with zeros in it, as pruning leaves them, keeps them.

    Args:
        original: the model before the change.
        compressed: after it; layers are known by their node's and their output's names. It is
            taken over.
        samples: rows; their shapes may vary.
        rows: which of them do what. What else was fitted to rows (factors) should have used the
            fitted ones alone, else the others judge it too kindly, and healing looks worse.
        scratch: an empty folder.
        kept: by node name, the numbers of the original's outputs that a layer still makes, in
            order; layers that are not named make all of them.
        sweeps: passes over all layers, at least 1.
        stages: see `STAGES`.
        progress: told how many stages are done, of how many.

    Raises:
        ModelError: nodes cannot be told apart, or a layer's outputs are not those of the original.
    """
    reference = Reference(original, scratch / "original", samples)
    net = Net(compressed)
    before_it = Net(onnx_io.read_structure(original))
    jobs, left = _jobs(net, before_it, reference, kept or {})
    changes = _changes(net, before_it, original.parent)
    jobs = [job for job in jobs if job.layer.biased in changes]
    groups = list(_staged(jobs, stages))
    place = scratch / "healing"
    judge = Judge(original, samples, rows.judging)
    best = saved(net.proto, place / "best.onnx")
    before = errors = judge.errors(best)
    told: list[LayerHealing] = []
    taken, sizes = 0, None
    for sweep in range(1, sweeps + 1):
        changed = False
        for number, group in enumerate(groups):
            now = saved(net.proto, place / "model.onnx")
            by_node = {job.layer.node: job for job in group}
            with tempfile.TemporaryDirectory(dir=place, prefix="stage.") as folder:
                current = Reference(now, Path(folder), samples, sizes=sizes)
                sizes = current.sizes
                observed = observe_moments(
                    current,
                    [job.layer for job in group],
                    samples,
                    [rows.fitted, rows.choosing],
                    against=(reference, {name: job.target for name, job in by_node.items()}),
                )
                for layer, (seen, held) in observed:
                    found = _fit(net, by_node[layer.node], seen, held, sweep)
                    if isinstance(found, LayerHealing):
                        told.append(found)
                        changed = changed or found.kept
                    else:
                        left[layer.node] = found
                del current, observed
            if progress is not None:
                progress((sweep - 1) * len(groups) + number + 1, sweeps * len(groups))
        if not changed:
            break
        reached = judge.errors(saved(net.proto, place / "model.onnx"))
        if not is_better(reached, errors):
            break
        saved(net.proto, best)
        errors, taken = reached, sweep
    return Healed(
        proto=onnx_io.read_whole(best),
        layers=tuple(told),
        left=left,
        before=before,
        after=errors,
        sweeps=taken,
        notes=_notes(told, left, taken, before, errors),
    )


def _jobs(
    net: Net, original: Net, reference: Reference, kept: Mapping[str, Sequence[int]]
) -> tuple[list[_Job], dict[str, str]]:
    """What can be fitted, in the order of the graph, and why the rest cannot."""
    left = {name: why for name, why in net.left.items() if name in original.nodes}
    levels = depths(net)
    jobs = []
    inner = set()
    for layer in reversed(net.layers.values()):
        if layer.node in inner:
            continue
        twin = original.nodes.get(layer.node)
        if twin is None:
            continue
        if layer.output not in twin.output or not reference.has(layer.biased):
            left[layer.node] = f"the original has no tensor {layer.biased!r} for it"
            continue
        first = _first_factor(net, layer, original)
        job = layer
        if first is not None:
            inner.add(first.node)
            job = _joined(first, layer)
        places = kept.get(layer.node)
        axis = -1 if layer.op in ("Gemm", "MatMul") else 1
        target = Target(
            name=layer.biased,
            kept=None if places is None else np.asarray(places, np.intp),
            axis=axis,
        )
        jobs.append(
            _Job(
                layer=job,
                factors=None if first is None else (first, layer),
                target=target,
                depth=levels[layer.node if first is None else first.node],
            )
        )
    return jobs[::-1], left


def _changes(net: Net, original: Net, folder: Path) -> set[str]:
    """Names of tensors that differ from the original's, or may.

    Args:
        net: the changed model.
        original: the other, whose weights may be in files.
        folder: where these files are.
    """
    from onnx import numpy_helper

    same = {"", *(value.name for value in net.proto.graph.input)}
    for name, tensor in net.stored.items():
        old = original.stored.get(name)
        if old is None or (old.dims, old.data_type) != (tensor.dims, tensor.data_type):
            continue
        values = numpy_helper.to_array(old, str(folder))
        if np.array_equal(numpy_helper.to_array(tensor), values):
            same.add(name)
    changed: set[str] = set()
    for node in net.proto.graph.node:
        taken = read_by(node).intersection(net.stored) | read_by(node).intersection(changed)
        if node == original.nodes.get(node.name) and taken <= same:
            same.update(node.output)
        else:
            changed.update(node.output)
    return changed


def _first_factor(net: Net, second: Layer, original: Net) -> Layer | None:
    """The layer before, where the two are one layer of the original in two pieces."""
    first = next((one for one in net.layers.values() if one.output == second.source), None)
    if first is None or first.node in original.nodes or first.bias or first.groups > 1:
        return None
    if not second.aligned or net.reads[second.source] != 1:
        return None
    return first if (first.op == "Conv") == (second.op == "Conv") else None


def _joined(first: Layer, second: Layer) -> Layer:
    """What two factors make together."""
    return replace(
        first,
        node=second.node,
        output=second.output,
        biased=second.biased,
        outputs=second.outputs,
        bias=second.bias,
        adder=second.adder,
    )


def _staged(jobs: Sequence[_Job], most: int) -> Iterator[list[_Job]]:
    """Jobs of the same depth together, and of neighbouring depths where there are too many."""
    known = sorted({job.depth for job in jobs})
    count = min(most, len(known))
    for number in range(count):
        low, high = (place * len(known) // count for place in (number, number + 1))
        yield [job for job in jobs if job.depth in known[low:high]]


def _fit(net: Net, job: _Job, seen: Moments, held: Moments, sweep: int) -> LayerHealing | str:
    """Fit a layer, and change it where that is worth it; a reason where it cannot be fitted."""
    layer = job.layer
    if not (seen.finite and held.finite):
        return "what enters or leaves it is infinite or no numbers on some rows"
    parts = job.factors or (layer,)
    matrices = [net.matrix(part) for part in parts]
    matrix = matrices[0] if len(parts) == 1 else matrices[0] @ matrices[1]
    last = parts[-1]
    vector = net.vector(last)
    mask = matrix != 0
    sparse = len(parts) == 1 and 1 - mask.mean() > _SPARSE
    unknowns = int(mask.sum(axis=1).max()) if sparse else layer.features
    if seen.count <= unknowns or held.count == 0:
        return (
            f"{seen.count} positions were seen for {unknowns} unknowns of each output: that would "
            "be learnt by heart; give more calibration rows"
        )
    found = best_fit(
        seen,
        held,
        matrix,
        vector,
        biased=last.takes_bias,
        mask=mask if sparse else None,
        rank=parts[0].outputs if len(parts) > 1 else None,
    )
    worthwhile = found.after < found.before * (1 - _WORTH) and found.before > _EXACT
    if worthwhile:
        if found.parts is not None:
            net.write(parts[0], found.parts[0][None], np.zeros(parts[0].outputs))
            net.write(last, found.parts[1][None], found.vector)
        else:
            net.write(last, found.matrix, found.vector)
    return LayerHealing(
        node=layer.node,
        sweep=sweep,
        positions=seen.count,
        unknowns=unknowns,
        ridge=found.ridge,
        before=found.before,
        after=found.after,
        kept=worthwhile,
    )


def _notes(
    told: Sequence[LayerHealing],
    left: Mapping[str, str],
    taken: int,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> tuple[str, ...]:
    healed = {one.node for one in told if one.kept and one.sweep <= taken}
    few = [name for name, why in left.items() if "positions were seen" in why]
    notes = []
    if taken:
        worst = max(before, key=lambda name: before[name])
        notes.append(
            f"{len(healed)} of {len({one.node for one in told})} layers were healed in {taken} "
            f"sweep(s): the squared error of output {worst!r} fell from {before[worst]:.3g} to "
            f"{after[worst]:.3g} of its energy, on rows that were not fitted"
        )
    elif not told and not few:
        notes.append("nothing to heal: every layer computes what it did")
    elif any(one.kept for one in told):
        notes.append("healing was undone: outputs got worse on rows that were not fitted")
    else:
        notes.append("healing changed nothing: no layer gained by it on rows that were not fitted")
    if few:
        notes.append(f"{len(few)} layer(s) not healed: {few[0]}: {left[few[0]]}")
    return tuple(notes)
