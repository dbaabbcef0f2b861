"""What training minimizes: how far the student is from the teacher, on given rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from edgesdk.errors import InputError, ModelError, SamplesError
from edgesdk.train.losses import (
    OutputLoss,
    kind_of_output,
    label_loss,
    output_loss,
    relative_error,
    step_of_output,
)
from edgesdk.train.rows import Batch, Row, Shapes, can_stack, collate, pieces
from edgesdk.train.types import to_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor

    from edgesdk.train.reader import OnnxModule
    from edgesdk.train.settings import Training

    Labels = Mapping[str, Sequence["NDArray[Any]"]]

_KEPT_BYTES = 1 << 30
"""The teacher's answers are kept up to this size, and computed anew in every epoch beyond it."""

_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply such numbers, as torch calls them."""


class Objective:
    """The losses of a student, on rows.

    Attributes:
        how: the loss of each float output.
        features: inner tensors compared, and the axis along which each is projected (None: as it is).
        projections: matrices [teacher's width, student's width] that are trained with the student and
            then thrown away, by feature.
        stacked: rows of equal shape are run together; else one by one, their gradients added up.
        mixed: the student learns with matrices multiplied in bfloat16.
        notes: what was left out, in words.
    """

    def __init__(
        self,
        student: OnnxModule,
        teacher: OnnxModule,
        proto: ModelProto,
        rows: Sequence[Row],
        settings: Training,
        labels: Labels,
    ) -> None:
        """Look at the first rows.

        Raises:
            InputError: a loss, label or feature names nothing that is there.
            SamplesError: a row lacks an input, or there are fewer labels than rows.
        """
        self._student, self._teacher, self._rows = student, teacher, rows
        self._settings = settings
        self.notes: tuple[str, ...] = ()
        self.shapes = Shapes(rows, student.input_names)
        self.stacked = can_stack(proto, student, rows, self.shapes)
        self._first = collate(rows, (0,), student.input_names)
        self.mixed = self._mixes(proto, settings.mixed)
        self.how = self._choose_losses(proto)
        self.features: dict[str, int | None] = {}
        self.projections: dict[str, Any] = {}
        self._choose_features()
        self._labels = _checked(labels, self.how, len(rows))
        self._known: dict[int, dict[str, Tensor]] = {}
        self._keeps = True

    def _mixes(self, proto: ModelProto, asked: bool | None) -> bool:
        """Whether bfloat16 is used: as asked, else where it is quick and harmless."""
        if asked is not None:
            return asked
        known = torch.cpu.get_capabilities()
        rounds = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
        if rounds or not any(known.get(name) for name in _BFLOAT16):
            return False
        try:
            with torch.no_grad(), _bfloat16(True):
                found = self._student(self._first)
        except ModelError:
            return False
        return all(bool(v.isfinite().all()) for v in found.values() if v.is_floating_point())

    def _choose_losses(self, proto: ModelProto) -> dict[str, OutputLoss]:
        given = self._settings.losses
        names = self._student.output_names
        unknown = sorted(given.keys() - set(names))
        if unknown:
            raise InputError(f"a loss for {unknown[0]!r}; the outputs are {', '.join(names)}")
        with torch.no_grad():
            found = self._teacher(self._first, names)
        how = {}
        for name in names:
            if not found[name].is_floating_point():
                self.notes += (f"output {name} is not of floats and has no loss",)
                continue
            asked = given.get(name, OutputLoss())
            kind = kind_of_output(proto, name) if asked.kind == "auto" else asked.kind
            smallest = asked.smallest
            if smallest is None:
                smallest = step_of_output(proto, name) / 2
            how[name] = replace(asked, kind=kind, smallest=smallest)
        if not any(one.weight for one in how.values()) and not self._settings.label_weight:
            raise InputError("no output has a loss above 0; give one a weight")
        return how

    def _choose_features(self) -> None:
        asked = self._settings.features
        if not self._settings.feature_weight or asked == ():
            return
        both = set(self._student.inner_names) & set(self._teacher.inner_names)
        missing = sorted(set(asked or ()) - both)
        if missing:
            raise InputError(f"no inner tensor {missing[0]!r} in both graphs; {len(both)} are")
        names = [name for name in self._teacher.inner_names if name in both]
        with torch.no_grad():
            ours = self._student(self._first, names)
            theirs = self._teacher(self._first, names)
        fit = {name: _fit(ours[name], theirs[name], stacked=self.stacked) for name in names}
        if asked is None:
            chosen = self._last_before_outputs([n for n in names if fit[n] == (True, None)])
        else:
            chosen = [name for name in asked if fit[name][0]]
            self.notes += tuple(
                f"feature {name} has shapes {tuple(ours[name].shape)} and "
                f"{tuple(theirs[name].shape)} and was left out"
                for name in asked
                if not fit[name][0]
            )
        for name in chosen:
            axis = self.features[name] = fit[name][1]
            if axis is not None:
                wide, narrow = theirs[name].shape[axis], ours[name].shape[axis]
                self.projections[name] = torch.nn.Parameter(torch.eye(wide, narrow))

    def _last_before_outputs(self, names: Sequence[str]) -> list[str]:
        """Of these, in graph order, the last one that each output is made of."""
        outputs = set(self._student.output_names)
        found: dict[str, None] = {}
        for output in self.how:
            above = self._teacher.ancestors([output]) - outputs
            last = next((name for name in reversed(names) if name in above), None)
            if last is not None:
                found[last] = None
        return list(found)

    def losses(self, batch: Batch, *, whole: bool = True) -> Tensor:
        """[rows of the batch]: the weighted sum of all losses; without features unless `whole`."""
        rows = len(batch)
        features = tuple(self.features) if whole else ()
        wanted = (*self.how, *features)
        inputs = collate(self._rows, batch, self._student.input_names)
        with _bfloat16(self.mixed and torch.is_grad_enabled()):
            found = self._student(inputs, wanted)
        ours = {name: v.float() if v.dtype == torch.bfloat16 else v for name, v in found.items()}
        theirs = self._targets(batch)
        total = torch.zeros(rows)
        for name, how in self.how.items():
            if how.weight:
                total = total + how.weight * output_loss(how, ours[name], theirs[name], rows)
        for name in features:
            error = relative_error(self._projected(name, ours[name]), theirs[name], rows)
            total = total + self._settings.feature_weight / len(features) * error
        for name, labels in self._labels.items():
            known = torch.stack([to_torch(labels[row]) for row in batch])
            error = label_loss(self.how[name], ours[name], known, rows)
            total = total + self._settings.label_weight * error
        return total

    def prepare(self, rows: Sequence[int], may_go_on: Callable[[], bool]) -> None:
        """Ask the teacher about rows, as far as its answers can be kept."""
        for batch in self.shapes.batches(rows, self._settings.batch):
            if self._keeps and may_go_on():
                self._targets(batch)

    def mean(self, rows: Sequence[int]) -> float:
        """The mean loss of rows, without features and without gradients."""
        size = self._settings.batch if self.stacked else 1
        with torch.no_grad():
            found = [self.losses(batch, whole=False) for batch in self.shapes.batches(rows, size)]
        return float(torch.cat(found).double().mean())

    def backward(self, batch: Batch) -> float:
        """Add the gradient of the mean loss of a batch to all that is trained; the loss itself."""
        total = 0.0
        for piece in pieces(batch, stacked=self.stacked):
            loss = self.losses(piece).sum() / len(batch)
            loss.backward()
            total += float(loss.detach())
        return total

    def _projected(self, name: str, values: Tensor) -> Tensor:
        axis = self.features[name]
        if axis is None:
            return values
        return torch.movedim(torch.movedim(values, axis, -1) @ self.projections[name].T, -1, axis)

    def _targets(self, batch: Batch) -> dict[str, Tensor]:
        """What the teacher says to rows, one behind the other."""
        missing = tuple(row for row in batch if row not in self._known)
        if missing and not self._keeps:
            return self._ask(batch)
        for piece in pieces(missing, stacked=self.stacked) if missing else ():
            answers = self._ask(piece)
            for place, row in enumerate(piece):
                own = {n: v[place : place + 1] if len(piece) > 1 else v for n, v in answers.items()}
                self._known[row] = {name: value.clone() for name, value in own.items()}
        known = [self._known[row] for row in batch]
        self._keeps = self._keeps and self._size() <= _KEPT_BYTES
        if len(known) == 1:
            return known[0]
        return {name: torch.cat([one[name] for one in known]) for name in known[0]}

    def _ask(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            inputs = collate(self._rows, batch, self._student.input_names)
            found: dict[str, Tensor] = self._teacher(inputs, (*self.how, *self.features))
        return found

    def _size(self) -> int:
        """Bytes of the answers that are kept, as if all were as large as the last one."""
        last = next(reversed(self._known.values()))
        each: int = sum(tensor.nbytes for tensor in last.values())
        return len(self._known) * each


def _bfloat16(on: bool) -> Any:
    """In which matrices are multiplied in bfloat16."""
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def _fit(ours: Tensor, theirs: Tensor, *, stacked: bool) -> tuple[bool, int | None]:
    """Whether a feature can be compared, and the one axis along which it must be projected."""
    if not (ours.is_floating_point() and theirs.is_floating_point() and theirs.ndim >= 2):
        return False, None
    if ours.ndim != theirs.ndim or ours.shape[0] != theirs.shape[0] or theirs.numel() < 2:
        return False, None
    if stacked and theirs.shape[0] != 1:  # its first axis is not that of the rows
        return False, None
    other = [axis for axis in range(theirs.ndim) if ours.shape[axis] != theirs.shape[axis]]
    if len(other) > 1:
        return False, None
    return True, other[0] if other else None


def _checked(labels: Labels, how: Mapping[str, OutputLoss], rows: int) -> Labels:
    for name, values in labels.items():
        if name not in how or how[name].kind not in ("logits", "probabilities"):
            told = how[name].kind if name in how else "no float output"
            raise InputError(
                f"labels for {name!r}, which is {told}; legal: an output of logits or probabilities"
            )
        if len(values) != rows:
            raise SamplesError(f"{len(values)} labels of {name!r} for {rows} rows")
    return labels
