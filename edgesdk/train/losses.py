"""How far outputs of the student are from those of the teacher.

Every loss is one number a row, so that rows stacked and rows one by one give the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch.nn import functional

from edgesdk.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from torch import Tensor

Kind = Literal["auto", "logits", "probabilities", "binary", "cosine", "mse"]

_SMALLEST = 1e-12
_HIDING = frozenset(
    ("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze")
)
"""Operators that what an output is shows through."""
_LENGTHS = frozenset(("ReduceL2", "LpNormalization", "Clip", "Expand", "Max", "Sqrt"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLoss:
    """What is asked of one output.

    Attributes:
        kind: `logits`: Kullback-Leibler divergence of softmax(output / temperature), times the
            temperature's square (Hinton, Vinyals, Dean 2015, arXiv 1503.02531); `probabilities`:
            the same of what a softmax made already; `binary`: divergence of each value as the
            probability of a yes; `cosine`: 1 - cosine along the last axis; `mse`: squared error over
            the teacher's mean square; `auto`: as the graph and the name of the output suggest.
        weight: of this output in the sum, at least 0. Outputs of several modalities get each their
            share by it.
        temperature: above 0; softens the teacher's probabilities.
        axis: of the classes; None for the last one (axis 1 of images).
        smallest: what is added to probabilities before their logarithm; None for half of what one
            step of a quantized output is, and next to nothing of a float one.
    """

    kind: Kind = "auto"
    weight: float = 1.0
    temperature: float = 2.0
    axis: int | None = None
    smallest: float | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            InputError: names the field.
        """
        if self.kind not in get_args(Kind):
            raise InputError(f"loss {self.kind!r}; legal: {', '.join(get_args(Kind))}")
        if self.weight < 0 or not self.temperature > 0:
            raise InputError(
                f"weight {self.weight:g}, temperature {self.temperature:g}; legal: at least 0, "
                "above 0"
            )


def kind_of_output(proto: ModelProto, output: str) -> Kind:
    """What an output looks like: by the operator that makes it, else by its name, else `mse`."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _HIDING:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Softmax":
        return "probabilities"
    if node is not None and node.op_type == "Sigmoid":
        return "binary"
    if node is not None and _is_unit_length(node, makers):
        return "cosine"
    return "logits" if "logit" in output.lower() else "mse"


def step_of_output(proto: ModelProto, output: str) -> float:
    """The scale by which an output was quantized; 0 where it was not."""
    from onnx import numpy_helper

    maker = next((node for node in proto.graph.node if output in node.output), None)
    if maker is None or maker.op_type != "DequantizeLinear":
        return 0.0
    stored = (t for t in proto.graph.initializer if t.name == maker.input[1])
    return max((float(numpy_helper.to_array(t).max()) for t in stored), default=0.0)


def _is_unit_length(node: NodeProto, makers: dict[str, NodeProto]) -> bool:
    """Whether an output was divided by its own length."""
    if node.op_type == "LpNormalization":
        return True
    if node.op_type != "Div":
        return False
    length = makers.get(node.input[1])
    while length is not None and length.op_type in _LENGTHS:
        if length.op_type in ("ReduceL2", "LpNormalization"):
            return True
        length = makers.get(length.input[0])
    return False


def output_loss(how: OutputLoss, student: Tensor, teacher: Tensor, rows: int) -> Tensor:
    """[rows]: the loss of each row; `how.kind` is not `auto`. Axis 0 is the rows when they are many."""
    match how.kind:
        case "logits" | "probabilities":
            ours = log_probabilities(how, student, how.temperature)
            theirs = log_probabilities(how, teacher, how.temperature)
            axis = class_axis(how, teacher)
            each = (theirs.exp() * (theirs - ours)).sum(axis) * how.temperature**2
        case "binary":
            p, q = (x.clamp(1e-6, 1 - 1e-6) for x in (teacher, student))
            each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        case "cosine":
            each = 1.0 - functional.cosine_similarity(student, teacher, dim=-1)
        case _:
            return relative_error(student, teacher, rows)
    return by_row(each, rows)


def relative_error(student: Tensor, teacher: Tensor, rows: int) -> Tensor:
    """[rows]: mean squared error over the teacher's mean square."""
    error = by_row((student - teacher).square(), rows)
    return error / by_row(teacher.square(), rows).clamp_min(_SMALLEST)


def label_loss(how: OutputLoss, student: Tensor, labels: Tensor, rows: int) -> Tensor:
    """[rows]: cross entropy with integer classes; those below 0 do not count."""
    known = log_probabilities(how, student, 1.0).movedim(class_axis(how, student), -1)
    wanted = labels.reshape(known.shape[:-1]).long()
    picked = known.gather(-1, wanted.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return by_row(torch.where(wanted >= 0, -picked, torch.zeros_like(picked)), rows)


def log_probabilities(how: OutputLoss, values: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of classes, of logits or of probabilities."""
    axis = class_axis(how, values)
    if how.kind == "probabilities":
        values = (values + (how.smallest or _SMALLEST)).log()
    return functional.log_softmax(values / temperature, axis)


def class_axis(how: OutputLoss, values: Tensor) -> int:
    """The axis of the classes."""
    if how.axis is not None:
        return how.axis
    return 1 if values.ndim == 4 else -1


def by_row(values: Tensor, rows: int) -> Tensor:
    """[rows]: means over everything else."""
    return values.reshape(rows, -1).mean(1)
