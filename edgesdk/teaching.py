"""Training in a step: a changed model taught to answer as the original, and what to say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgesdk.clock import spell
from edgesdk.compress import onnx_io
from edgesdk.errors import BackendUnavailable, SamplesError
from edgesdk.train import unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgesdk.samples import SampleSet
    from edgesdk.train.settings import Epoch

Progress = Callable[[str], None]

_RATES = {4: 1e-4, 8: 3e-5}
"""Learning rates by bits of a weight: what rounding did is little, and less with more bits. Of 1e-3, 1e-4
and 1e-5 the second was best for a keyword spotter in 4 bits, the third in 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What training made.

    Attributes:
        path: the model.
        notes: for the report.
    """

    path: Path
    notes: tuple[str, ...]


def teach(
    student: Path,
    teacher: Path,
    samples: SampleSet,
    out: Path,
    *,
    masters: Path | None = None,
    bits: int = 8,
    with_labels: bool = False,
    seconds: float | None = None,
    checkpoint: Path | None = None,
    progress: Progress = lambda _: None,
) -> Taught:
    """Train a model to answer as another does on real rows; the best epoch by rows held out is kept.

    Args:
        student: ONNX file; of the teacher's inputs and outputs.
        teacher: ONNX file in float.
        samples: rows to train on.
        out: the file to write.
        masters: of a quantized student, the float graph whose weights were rounded: training starts from
            these, and rounds them anew.
        bits: of a quantized student's weights, 4 or 8.
        with_labels: learn the labels of the rows as well: integer classes of an output with one score
            a class.
        seconds: for all of it; None for as long as it gets better.
        checkpoint: file in which training keeps its state, to go on from.
        progress: told each epoch, in a few words.

    Raises:
        BackendUnavailable: `edgesdk[train]` is not installed.
        ModelError: an operator that cannot be trained through.
        SamplesError: there are no labels, or they are not what an output classifies.
        TrainingDiverged: losses that are no numbers.
    """
    require_training("training")
    from edgesdk.train.distill import distill
    from edgesdk.train.losses import OutputLoss, kind_of_output
    from edgesdk.train.masters import float_masters
    from edgesdk.train.rows import SampleRows
    from edgesdk.train.settings import Training

    model = onnx_io.read_whole(student)
    settings = Training(seconds=seconds)
    start, labels = {}, None
    if masters is not None:
        settings = replace(settings, rate=_RATES[bits])
        start = float_masters(model, onnx_io.read_whole(masters))
    if with_labels:
        labels = _classes(samples, [value.name for value in model.graph.output])
        scores = [name for name in labels if kind_of_output(model, name) != "probabilities"]
        settings = replace(settings, losses={n: OutputLoss(kind="logits") for n in scores})
    done = distill(
        model,
        onnx_io.read_whole(teacher),
        SampleRows(samples),
        settings,
        labels=labels,
        start=start,
        checkpoint=checkpoint,
        listener=lambda epoch: progress(_told(epoch)),
    )
    epochs = len(done.epochs) - 1
    told = (
        f"trained for {done.seconds:.0f} s on {len(samples):,} rows: the loss on those held out fell from "
        f"{done.before:.4g} to {done.after:.4g}, best in epoch {done.best_epoch} of {epochs}"
        if done.best_epoch
        else f"training changed nothing: none of {epochs} epochs was better on rows held out"
    )
    return Taught(
        path=onnx_io.write(done.model if done.best_epoch else model, out),
        notes=(told, *done.notes),
    )


def _classes(samples: SampleSet, outputs: Sequence[str]) -> dict[str, list[NDArray[np.generic]]]:
    """The labels of rows by the output that they are of; a plain `label` is of the only one.

    Raises:
        SamplesError: there are none, they are no integers, or it is not told of which output they are.
    """
    found: dict[str, list[NDArray[np.generic]]] = {}
    for sample in samples:
        for name, values in sample.labels.items():
            output = outputs[0] if name == "label" and len(outputs) == 1 else name
            if output not in outputs:
                raise SamplesError(
                    f"label {name!r} is of no output; give label.NAME for one of {', '.join(outputs)}"
                )
            if values.dtype.kind not in "iu":
                raise SamplesError(
                    f"label {name!r} has dtype {values.dtype}; legal: integer classes"
                )
            found.setdefault(output, []).append(values)
    if not found:
        raise SamplesError(
            "the calibration rows have no labels to learn; give some, or leave out '-labels'"
        )
    return found


def require_training(step: str) -> None:
    """Refuse a step that needs what is not installed.

    Raises:
        BackendUnavailable: says what to install.
    """
    problem = unavailable()
    if problem:
        raise BackendUnavailable(f"{step} trains: {problem}")


def _told(epoch: Epoch) -> str:
    """An epoch in a line."""
    best = ", the best so far" if epoch.is_best and epoch.epoch else ""
    left = f", at most {spell(epoch.seconds_left)} to go" if epoch.seconds_left >= 1 else ""
    return f"epoch {epoch.epoch}: {epoch.check:.4g} on rows held out{best}{left}"
