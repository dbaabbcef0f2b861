"""What each weight adds to the loss, by gradients: importance for pruning.

Two estimators, both from the products w * dL/dw of single rows:

- `taylor`: the first-order change of the loss when a weight goes, mean over rows of |w * dL/dw|
  (Molchanov et al. 2017, arXiv 1611.06440; per weight and group in 2019, arXiv 1906.10771). It needs
  a loss whose gradient is not zero: a teacher that is another model, or labels.
- `fisher`: of the model itself, where the distillation loss is at its minimum and every first-order
  term is zero. Its second-order term is 1/2 w^2 F with the Fisher information F = E[(dL/dw)^2] of
  answers drawn from the model's own (LeCun, Denker, Solla 1990, "Optimal Brain Damage"; Theis et al.
  2018, arXiv 1801.05787). Classes are drawn from the probabilities; other outputs get a random sign a
  value (Hutchinson's estimator of the Gauss-Newton matrix of squared error).

A group of weights that goes as one is worth the mean over rows of |sum of its products| (or, for
`fisher`, of half the squared sum), so sums must be taken before the mean: use `products`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgesdk.train.losses import OutputLoss, class_axis, log_probabilities
from edgesdk.train.objective import Objective
from edgesdk.train.reader import OnnxModule
from edgesdk.train.rows import Row, collate
from edgesdk.train.settings import Training

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor

    from edgesdk.train.objective import Labels

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The loss whose gradients tell what weights are worth.

    Attributes:
        teacher: of the distillation loss. None: the model itself, and `fisher` in place of `taylor`.
        losses: by output, as in `Training`.
        labels: as in `distill`; with them, `taylor` without a teacher as well.
        seed: of what `fisher` draws.
    """

    teacher: ModelProto | None = None
    losses: Mapping[str, OutputLoss] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    seed: int = 0

    @property
    def is_fisher(self) -> bool:
        """Whether there is nothing to differ from."""
        return self.teacher is None and not self.labels


def importance(
    model: ModelProto, rows: Sequence[Row], by: Measure | None = None
) -> dict[str, Floats]:
    """The importance of every single weight, by the name under which the model stores it.

    Args:
        model: with its weights in memory.
        rows: arrays by input name, with the batch axis.
        by: the loss; `fisher` of the model itself where None.

    Returns:
        Arrays of the weights' shapes: the mean over rows of |w * dL/dw|, or of (w * dL/dw)^2 / 2.

    Raises:
        UnsupportedOperators, ModelError, InputError, SamplesError: as `distill`.
    """
    by = by or Measure()
    totals: dict[str, NDArray[np.float64]] = {}
    for row in products(model, rows, by):
        for name, values in row.items():
            each = np.square(values) / 2 if by.is_fisher else np.abs(values)
            totals[name] = totals.get(name, 0.0) + each.astype(np.float64)
    return {name: (total / len(rows)).astype(np.float32) for name, total in totals.items()}


def products(
    model: ModelProto, rows: Sequence[Row], by: Measure | None = None
) -> Iterator[dict[str, Floats]]:
    """For each row, w * dL/dw of every weight, by name; to be summed over groups.

    Args and errors as in `importance`. Weights that a row does not reach are zero.
    """
    module = OnnxModule(model)
    values = {key: weight.detach().float().numpy() for key, weight in module.weights.items()}
    for slopes in _row_gradients(model, rows, by or Measure()):
        yield {name: values[name] * slope for name, slope in slopes.items()}


def _row_gradients(
    model: ModelProto, rows: Sequence[Row], by: Measure
) -> Iterator[dict[str, Floats]]:
    """For each row, dL/dw of every weight, by name; for `fisher`, of an answer that is drawn."""
    settings = Training(losses=by.losses, features=())
    module = OnnxModule(model)
    other = module if by.teacher is None else OnnxModule(by.teacher)
    objective = Objective(module, other, model, rows, settings, by.labels)
    generator = torch.Generator().manual_seed(by.seed)
    for row in range(len(rows)):
        module.zero_grad(set_to_none=True)
        if by.is_fisher:
            inputs = collate(rows, (row,), module.input_names)
            found = module(inputs, tuple(objective.how))
            loss: Any = sum(
                _drawn(how, found[name], generator) for name, how in objective.how.items()
            )
        else:
            loss = objective.losses((row,)).sum()
        loss.backward()
        yield {
            key: (
                np.zeros(tuple(weight.shape), np.float32)
                if weight.grad is None
                else weight.grad.float().numpy().copy()
            )
            for key, weight in module.weights.items()
        }


def _drawn(how: OutputLoss, values: Tensor, generator: Any) -> Tensor:
    """A loss whose squared gradients are, on average, the curvature of the distillation loss."""
    if how.kind in ("logits", "probabilities"):
        known = log_probabilities(how, values, 1.0).movedim(class_axis(how, values), -1)
        flat = known.reshape(-1, known.shape[-1])
        drawn = torch.multinomial(flat.detach().exp(), 1, generator=generator)
        # Positions are independent: their squared gradients add up, and are averaged as the loss is.
        signs = _signs(flat[:, :1], generator)
        loss = (flat.gather(1, drawn) * signs).sum() / flat.shape[0] ** 0.5
    else:
        size = values.detach().square().mean().clamp_min(1e-12)
        loss = (values * _signs(values, generator)).sum() * (2.0 / (values.numel() * size)) ** 0.5
    return how.weight**0.5 * loss


def _signs(values: Tensor, generator: Any) -> Tensor:
    drawn = torch.randint(0, 2, values.shape, generator=generator)
    return (2 * drawn - 1).to(values.dtype)
