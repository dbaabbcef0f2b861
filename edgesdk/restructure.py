"""One structural step on one model: find, choose, change, heal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.compress import onnx_io
from edgesdk.errors import InputError, ModelError, RecipeError, SamplesError
from edgesdk.layer_times import layer_times
from edgesdk.samples import SampleSet
from edgesdk.structural import Step
from edgesdk.structure.choose import Rules, choose
from edgesdk.structure.factors import break_even, parameters_of
from edgesdk.structure.groups import count_parameters, find_groups
from edgesdk.structure.heal import heal
from edgesdk.structure.importance import activations, comparable, energy, magnitude, taylor
from edgesdk.structure.judge import deal
from edgesdk.structure.moments import observe_channel_moments
from edgesdk.structure.net import Net
from edgesdk.structure.reference import Reference
from edgesdk.structure.remove import remove
from edgesdk.structure.shrink import shrink, survey
from edgesdk.structure.sparse import input_norms, prune, prune_pattern, sizes
from edgesdk.teaching import Progress, require_training, teach

if TYPE_CHECKING:
    import onnx

    from edgesdk.layer_times import Pace
    from edgesdk.structure.importance import Scores
    from edgesdk.structure.judge import Deal
    from edgesdk.structure.shrink import Shrunk, Survey
    from edgesdk.structure.units import Selection, Structure

ROWS = 400
"""Of the samples, to find by what is important and what ranks cost."""
HEALED_ROWS = 2000
"""Of the samples, to heal with. A layer with more inputs than it has positions is left as it is: of half of
a small ResNet's parameters removed, 1,600 rows healed all but 4e-6 of the error of 0.38, which 400 left."""
TAYLOR_ROWS = 64
_LEAST_KEPT = 0.1
"""Of the units of every group: a layer of one channel heals badly."""
_RANKS = 8
"""Ranks at least that a typical layer can have, also where the device likes large multiples."""
_CHANNEL_AXIS = {"Conv": 1, "ConvTranspose": 1, "BatchNormalization": 1, "Gemm": -1, "MatMul": -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restructured:
    """What a step made.

    Attributes:
        path: the model.
        notes: for the report.
    """

    path: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changed:
    """A model after the change itself, before healing.

    Attributes:
        kept: by node, the outputs that it still makes, where it makes fewer.
    """

    proto: onnx.ModelProto
    notes: tuple[str, ...]
    kept: Mapping[str, tuple[int, ...]] | None = None


def restructure(
    model: Path,
    step: Step,
    out: Path,
    scratch: Path,
    *,
    original: Path,
    samples: SampleSet | None,
    multiple: int,
    checkpoint: Path | None = None,
    training_s: float | None = None,
    pace: Pace | None = None,
    progress: Progress = lambda _: None,
) -> Restructured:
    """Do one step.

    Args:
        model: ONNX file in float: the original, or what earlier steps made of it.
        step: what to do.
        out: the file to write.
        scratch: an empty folder.
        original: what `distill` learns from.
        samples: real rows, for a step that needs some.
        multiple: of which numbers of channels and ranks are, as the device likes it.
        checkpoint: file in which training keeps its state, to go on from.
        training_s: seconds that `distill` may take; None for as long as it gets better.
        pace: by what layers are timed that `rank` splits; it goes by parameters where None.
        progress: told what was done, in a few words.

    Raises:
        RecipeError: the step would change nothing in this model, or cannot save so much.
        SamplesError: it needs samples, and there are none or too few.
        BackendUnavailable: it needs `edgesdk[train]`.
    """
    if step.needs_samples and (samples is None or not len(samples)):
        raise SamplesError(f"{step.name} needs real samples; give --samples")
    if step.kind == "distill":
        assert samples is not None
        taught = teach(
            model,
            original,
            samples,
            out,
            with_labels=step.labels,
            seconds=training_s,
            checkpoint=checkpoint,
            progress=progress,
        )
        return Restructured(path=taught.path, notes=taught.notes)
    match step.kind:
        case "prune":
            changed = _pruned(model, step, samples, scratch, multiple)
        case "rank":
            assert samples is not None
            changed = _factored(model, step, samples, scratch, multiple, pace)
        case _:
            changed = _sparse(model, step, samples, scratch)
    progress("; ".join(changed.notes))
    notes = changed.notes
    proto = changed.proto
    if step.healed:
        assert samples is not None
        healed = heal(
            model,
            proto,
            samples,
            deal(len(samples), HEALED_ROWS),
            _made(scratch / "heal"),
            kept=changed.kept,
            progress=lambda done, total: progress(f"healing, {done} of {total}"),
        )
        proto, notes = healed.proto, (*notes, *healed.notes)
    return Restructured(path=onnx_io.write(proto, out), notes=notes)


def _pruned(
    model: Path, step: Step, samples: SampleSet | None, scratch: Path, multiple: int
) -> _Changed:
    """Units removed, the least important of the whole model first."""
    assert step.share is not None
    proto = onnx_io.read_whole(model)
    found = find_groups(proto)
    if not found.groups:
        told = "; ".join(map(str, found.left[:3])) or "it has no layers that make channels"
        raise RecipeError(f"{step.name}: no unit of this model can be removed: {told}")
    scores = _scores(model, proto, found, step, samples, scratch)
    rules = Rules(keep=_LEAST_KEPT, multiple=multiple)
    choice = choose(proto, found, scores, share=step.share / 100, rules=rules)
    if not choice.reached:
        raise RecipeError(f"{step.name}: {'; '.join(choice.notes)}")
    gone = sum(map(len, choice.selection.values()))
    all_units = sum(len(group.units) for group in found.groups)
    saved = 1 - choice.after.parameters / choice.before.parameters
    note = (
        f"{gone:,} of {all_units:,} units in {len(choice.selection)} of {len(found.groups)} groups "
        f"were removed ({step.importance}), {saved:.1%} of the parameters"
    )
    if choice.before.macs and choice.after.macs is not None:
        note += f" and {1 - choice.after.macs / choice.before.macs:.1%} of the MACs"
    return _Changed(
        proto=remove(proto, found, choice.selection),
        notes=(note, *choice.notes),
        kept=_kept(proto, found, choice.selection),
    )


def _scores(
    model: Path,
    proto: onnx.ModelProto,
    found: Structure,
    step: Step,
    samples: SampleSet | None,
    scratch: Path,
) -> Scores:
    """The importance that the step asks for, comparable over the model."""
    if step.importance == "weights":
        return energy(proto, found)
    if step.importance in ("l1", "l2"):
        return comparable(found, magnitude(proto, found, order=int(step.importance[1])))
    assert samples is not None
    if step.importance == "taylor":
        require_training(step.name)
        from edgesdk.train.rows import SampleRows
        from edgesdk.train.taylor import products

        rows = SampleRows(samples.subset(min(TAYLOR_ROWS, len(samples))))
        return taylor(found, products(proto, rows))
    wanted = activations(found)
    moments = observe_channel_moments(
        Reference(model, _made(scratch / "activity"), samples),
        wanted,
        samples,
        _looked_at(samples).fitted,
    )
    squares = {name: one.variance + one.mean**2 for name, one in moments.items()}
    return energy(proto, found, squares)


def _kept(
    proto: onnx.ModelProto, found: Structure, selection: Selection
) -> dict[str, tuple[int, ...]]:
    """By node, the numbers of the outputs that are left, where some are gone."""
    kept = {}
    for node in proto.graph.node:
        axis = _CHANNEL_AXIS.get(node.op_type)
        labels = found.axes.labels.get(node.output[0])
        if axis is not None and labels and labels[axis] is not None:
            kept[node.name] = tuple(found.kept(node.output[0], axis, selection).tolist())
    return kept


def _factored(
    model: Path,
    step: Step,
    samples: SampleSet,
    scratch: Path,
    multiple: int,
    pace: Pace | None,
) -> _Changed:
    """Layers split in two, of ranks by damage for each millisecond saved, or each parameter."""
    assert step.share is not None
    whole = count_parameters(onnx_io.read_whole(model).graph)
    surveyed = survey(model, samples, _looked_at(samples), _made(scratch / "survey"))
    held = sum(parameters_of(one.layer, None) for one in surveyed.known.values())
    saved = step.share / 100 * whole
    if saved >= held:
        raise RecipeError(
            f"{step.name}: the layers that can be factored hold {held / whole:.0%} of the parameters"
        )
    typical = median(break_even(one.layer) for one in surveyed.known.values())
    multiple = max(1, min(multiple, int(typical) // _RANKS))
    left = 1 - saved / held
    shrunk = _by_time(surveyed, samples, left, multiple, pace) if pace is not None else None
    try:
        shrunk = shrunk or shrink(surveyed, left, multiple=multiple)
    except InputError as exc:
        raise RecipeError(f"{step.name}: {exc}") from exc
    if not shrunk.choices:
        raise RecipeError(f"{step.name}: {'; '.join(shrunk.notes)}")
    return _Changed(proto=shrunk.proto, notes=shrunk.notes)


def _by_time(
    surveyed: Survey, samples: SampleSet, left: float, multiple: int, pace: Pace
) -> Shrunk | None:
    """Split where that saves time; None where so few parameters cannot be reached by that."""
    layers = {name: one.layer for name, one in surveyed.known.items()}
    shapes = {name: array.shape for name, array in samples[0].inputs.items()}
    try:
        shrunk = shrink(
            surveyed,
            left,
            cost_of=layer_times(surveyed.model, shapes, layers, pace),
            share_of=parameters_of,
            multiple=multiple,
        )
    except (InputError, ModelError):
        return None
    told = (
        f"ranks by time: the layers that can be split take {shrunk.cost_after:.3g} ms in {pace.backend}, "
        f"not {shrunk.cost_before:.3g}, by the profile's speeds"
    )
    return replace(shrunk, notes=(*shrunk.notes, told))


def _sparse(model: Path, step: Step, samples: SampleSet | None, scratch: Path) -> _Changed:
    """Weights set to zero, the least of each layer first, by what enters them where there are samples."""
    net = Net(onnx_io.read_whole(model))
    before = sizes(net.proto)
    norms = None
    if samples is not None and len(samples):
        rows = _looked_at(samples).fitted
        norms = input_norms(Reference(model, _made(scratch / "norms"), samples), net, samples, rows)
    if step.kind == "sparse2of4":
        done = prune_pattern(net, norms=norms)
    else:
        assert step.share is not None
        done = prune(net, step.share / 100, norms=norms)
    if not done.zeros:
        raise RecipeError(f"{step.name}: no layer of this model has weights to set to zero")
    zeros = float(np.mean(list(done.zeros.values())))
    after = sizes(done.proto)
    told = (
        f"{len(done.zeros)} layers have {zeros:.0%} zeros on average; zipped, the model takes "
        f"{after.deflated / 1e6:.3g} MB, not {before.deflated / 1e6:.3g}"
    )
    return _Changed(proto=done.proto, notes=(told,))


def _looked_at(samples: SampleSet) -> Deal:
    """The rows that show what is important: some of those that healing will use for the same."""
    return deal(len(samples), HEALED_ROWS).at_most(ROWS)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
