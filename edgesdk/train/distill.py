"""Distillation: the student learns on unlabelled samples what the teacher says to them.

The student is any graph that takes and gives what the teacher does: pruned, factored, or with
QuantizeLinear and DequantizeLinear in it (then it is quantization-aware training). It starts from its
own weights; the best epoch by the check is what comes back, and that is the student as it came
where no epoch was better.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from edgesdk.errors import InputError, TrainingDiverged
from edgesdk.train import checkpoint as checkpoints
from edgesdk.train.objective import Objective
from edgesdk.train.reader import OnnxModule
from edgesdk.train.rows import Row, split_rows
from edgesdk.train.settings import Check, Epoch, Listener, Trained, Training, nobody
from edgesdk.train.write import with_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgesdk.train.objective import Labels

_LOWER = 0.1
"""What the learning rate is multiplied with after a loss that is no number, or a first epoch that harms."""
_HARM = 1.5
"""How much worse than the model as it came the first epoch may leave it; at a high rate what was healed in
closed form is lost faster than it is learnt again."""
_LOWEST = 1e-3
"""Of the rate that was asked for."""


def distill(
    student: ModelProto,
    teacher: ModelProto,
    rows: Sequence[Row],
    settings: Training | None = None,
    *,
    labels: Labels | None = None,
    start: Mapping[str, NDArray[Any]] | None = None,
    check: Check | None = None,
    checkpoint: Path | None = None,
    listener: Listener = nobody,
) -> Trained:
    """Train the student to answer as the teacher does.

    Args:
        student: with its weights in memory; not changed.
        teacher: the same inputs and outputs.
        rows: arrays by input name, with the batch axis; read again and again, so a sequence that
            loads rows when they are asked for should be quick.
        settings: defaults where None.
        labels: integer classes by output, an array for each row; below 0 for none.
        start: float values of weights to start from; of integer weights those they were rounded from
            (`masters.float_masters`).
        check: judges an epoch in place of the loss on rows held out; lower is better.
        checkpoint: a file that keeps the state after every epoch and is removed in the end; where it
            is there, and is of the same models, rows and settings, training goes on from it.
        listener: told after every epoch.

    Raises:
        UnsupportedOperators: an operator of either graph cannot be trained through.
        ModelError: a graph that cannot be computed on these rows.
        InputError: settings or labels that fit nothing.
        SamplesError: no rows, or a row that lacks an input.
        TrainingDiverged: losses that are no numbers, also at a tenth of the learning rate.
    """
    settings = settings or Training()
    before = torch.get_num_threads()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        run = _Run(student, teacher, rows, settings, labels or {}, start or {}, check)
        return run.all(checkpoint, listener)
    finally:
        torch.set_num_threads(before)


class _Diverged(Exception):
    """A loss or gradient that is no number."""


class _Run:
    """One training and its state."""

    def __init__(
        self,
        student: ModelProto,
        teacher: ModelProto,
        rows: Sequence[Row],
        settings: Training,
        labels: Labels,
        start: Mapping[str, NDArray[Any]],
        check: Check | None,
    ) -> None:
        self._begun = time.monotonic()
        self._proto, self._settings, self._rows = student, settings, rows
        self._train, self._held = split_rows(len(rows), settings.held_out, settings.seed)
        self._module = OnnxModule(student, learn_scales=settings.learn_scales)
        self._module.load_weights(start)
        unknown = sorted(settings.frozen - self._module.weights.keys())
        if unknown:
            raise InputError(f"no weight {unknown[0]!r} to freeze; see OnnxModule.weights")
        self._teacher = OnnxModule(teacher)
        self._objective = Objective(self._module, self._teacher, student, rows, settings, labels)
        if self._objective.mixed:  # in which it is quickest
            for weight in self._module.weights.values():
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._labels = labels
        self._check = check or (lambda _: self._objective.mean(self._held))
        self._optimizer = self._new_optimizer()
        self._planned = settings.epochs
        self._factor = 1.0
        self._spent = 0.0
        self._history: list[Epoch] = []
        self._best = self._weights()

    def all(self, path: Path | None, listener: Listener) -> Trained:
        """Train until it is enough."""
        identity = ""
        if path is not None:
            modules = (self._module, self._teacher)
            identity = checkpoints.identity(modules, self._rows, self._labels, self._settings)
        state = checkpoints.load(path, identity)
        if state is not None:
            self._restore(state)
        else:
            self._note(0, math.nan, listener)
        # Not in the time of the first epoch, by which the others are planned; half of the time at most.
        rest = 0.0 if self._settings.seconds is None else self._left() / 2
        self._objective.prepare(self._train, lambda: self._left() > rest)
        good = self._state(identity)
        stopped = self._why_to_stop()
        while stopped is None:
            number = len(self._history)
            begun = time.monotonic()
            try:
                loss = self._epoch(number)
                if loss is None:
                    stopped = "time"
                    break
                self._note(number, loss, listener)
                if number == 1 and self._harmed() and self._factor > _LOWEST:
                    lower = self._factor * _LOWER
                    self._restore(good)
                    self._factor = lower
                    stopped = self._why_to_stop()
                    continue
            except _Diverged as exc:
                if self._factor < 1.0:
                    raise TrainingDiverged(
                        f"epoch {number}: {exc}, also at a learning rate of "
                        f"{self._settings.rate * self._factor:g}; give a lower one, or leave out "
                        "the rows that do it"
                    ) from None
                self._restore(good)
                self._factor = _LOWER
                continue
            if number == 1:
                self._planned = self._fitting(time.monotonic() - begun)
            good = self._state(identity)
            if path is not None:
                checkpoints.save(path, good)
            stopped = self._why_to_stop()
        self._load(self._best)
        if path is not None:
            path.unlink(missing_ok=True)
        best = self._best_epoch()
        return Trained(
            model=with_weights(self._module, self._proto),
            before=self._history[0].check,
            after=self._history[best].check,
            best_epoch=best,
            epochs=tuple(self._history),
            stopped=stopped,
            seconds=self._seconds(),
            notes=self._notes(),
        )

    def _epoch(self, number: int) -> float | None:
        """One pass over the rows: the mean loss; None when the time was over before its end.

        The first one counts as far as it came: it is all that there is.
        """
        settings = self._settings
        shapes = self._objective.shapes
        batches = shapes.batches(self._train, settings.batch, (settings.seed, number))
        total, seen = 0.0, 0
        for place, batch in enumerate(batches):
            if place and self._left() <= 0:
                if number > 1:
                    return None
                break
            rate = self._rate((number - 1 + place / len(batches)) / self._planned)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._objective.backward(batch)
            if not math.isfinite(loss):
                raise _Diverged(f"the loss is {loss}")
            norm = torch.nn.utils.clip_grad_norm_(self._trained(), settings.clip)
            if not bool(torch.isfinite(norm)):
                raise _Diverged(f"the norm of the gradient is {float(norm)}")
            self._optimizer.step()
            total += loss * len(batch)
            seen += len(batch)
        return total / seen

    def _note(self, number: int, loss: float, listener: Listener) -> None:
        """Judge the model as it is, and tell."""
        check = float(self._check(self._module))
        if not math.isfinite(check):
            if number == 0:
                raise TrainingDiverged(f"the check of the model as it came is {check}")
            raise _Diverged(f"the check is {check}")
        is_best = all(check < epoch.check for epoch in self._history)
        if is_best:
            self._best = self._weights()
        spent = self._seconds()
        each = spent / max(number, 1)
        epoch = Epoch(
            epoch=number,
            loss=loss,
            check=check,
            rate=self._optimizer.param_groups[0]["lr"] if number else 0.0,
            is_best=is_best,
            seconds=spent,
            seconds_left=max(0.0, min(each * (self._planned - number), self._left())),
        )
        self._history.append(epoch)
        listener(epoch)

    def _harmed(self) -> bool:
        """Whether the first epoch left the model much worse than it came."""
        return self._history[1].check > _HARM * self._history[0].check

    def _rate(self, done: float) -> float:
        """The learning rate after a share of all steps: a linear rise, then half a cosine."""
        warmup = self._settings.warmup
        highest = self._settings.rate * self._factor
        if done < warmup:
            return highest * max(done / warmup, 1e-2)
        return highest * 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / (1.0 - warmup)))

    def _why_to_stop(self) -> Literal["epochs", "patience", "time"] | None:
        done = len(self._history) - 1
        if done >= self._planned:
            return "epochs" if self._planned == self._settings.epochs else "time"
        if done - self._best_epoch() >= self._settings.patience:
            return "patience"
        return "time" if self._left() <= 0 else None

    def _fitting(self, epoch_s: float) -> int:
        """Epochs that fit into the time, the first one included; the schedule is made for them."""
        if self._settings.seconds is None:
            return self._settings.epochs
        return min(self._settings.epochs, 1 + max(0, int(self._left() / max(epoch_s, 1e-9))))

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._begun

    def _left(self) -> float:
        allowed = self._settings.seconds
        return math.inf if allowed is None else allowed - self._seconds()

    def _best_epoch(self) -> int:
        return max(epoch.epoch for epoch in self._history if epoch.is_best)

    def _notes(self) -> tuple[str, ...]:
        notes = self._objective.notes
        if self._train == self._held:
            notes += ("one row only: it was trained on and checked on",)
        if not self._objective.stacked:
            notes += ("rows were run one by one: the model, or what a row is, allows no batches",)
        if self._factor < 1.0:
            notes += (f"the learning rate was lowered to {self._settings.rate * self._factor:g}",)
        return notes

    # --- what is trained, and its state

    def _trained(self) -> list[torch.nn.Parameter]:
        weights = [w for k, w in self._module.weights.items() if k not in self._settings.frozen]
        return [*weights, *self._objective.projections.values()]

    def _new_optimizer(self) -> Any:
        parameters = self._trained()
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self._settings.decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self._settings.rate)

    def _weights(self) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in self._module.weights.values()]

    def _load(self, weights: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self._module.weights.values(), weights, strict=True):
                weight.copy_(value)

    def _state(self, identity: str) -> checkpoints.State:
        """All that the next epoch depends on, in copies."""
        return {
            "identity": identity,
            "weights": self._weights(),
            "best": self._best,
            "projections": [p.detach().clone() for p in self._objective.projections.values()],
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "history": [asdict(epoch) for epoch in self._history],
            "planned": self._planned,
            "factor": self._factor,
            "seconds": self._seconds(),
        }

    def _restore(self, state: checkpoints.State) -> None:
        self._load(state["weights"])
        self._best = state["best"]
        with torch.no_grad():
            for matrix, value in zip(
                self._objective.projections.values(), state["projections"], strict=True
            ):
                matrix.copy_(value)
        self._optimizer = self._new_optimizer()
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._history = [Epoch(**epoch) for epoch in state["history"]]
        self._planned, self._factor = state["planned"], state["factor"]
        if state["identity"]:
            self._spent, self._begun = max(state["seconds"], self._spent), time.monotonic()
