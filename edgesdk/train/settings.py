"""What training is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgesdk.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgesdk.train.losses import OutputLoss
    from edgesdk.train.reader import OnnxModule

Check = Callable[["OnnxModule"], float]
"""A figure of the model as it is now; lower is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How to train.

    Attributes:
        epochs: passes over the rows at most, at least 1.
        batch: rows for one step.
        rate: highest learning rate of AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101).
        decay: weight decay of weights with more than one axis.
        warmup: share of the steps in which the rate rises; after it falls by a half cosine.
        clip: largest norm of the gradient of a step.
        held_out: share of the rows that are only checked on.
        patience: epochs without a better check before it stops.
        seconds: time for all of it; None for no limit. The schedule is shortened to what fits.
        seed: of the order of rows and of their split.
        threads: of torch; None leaves them as they are. One thread gives equal bits in every run.
        losses: by output; those left out are `auto` with weight 1.
        features: inner tensors that are to be as the teacher's; None for the last one before each
            output that both have in one shape.
        feature_weight, label_weight: of their losses in the sum.
        frozen: keys of weights that stay as they are.
        learn_scales: train the scales of quantizers as well.
        mixed: multiply matrices in bfloat16 while learning (losses, weights and checks stay float32);
            None: where the processor has instructions for it and the student has no quantizers.
    """

    epochs: int = 30
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    held_out: float = 0.2
    patience: int = 8
    seconds: float | None = None
    seed: int = 0
    threads: int | None = None
    losses: Mapping[str, OutputLoss] = field(default_factory=dict)
    features: tuple[str, ...] | None = None
    feature_weight: float = 1.0
    label_weight: float = 1.0
    frozen: frozenset[str] = frozenset()
    learn_scales: bool = False
    mixed: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            InputError: names the field, the value and what is legal.
        """
        least_one = ("epochs", "batch", "patience")
        for name in least_one:
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}; legal: at least 1")
        if not 0 < self.rate < 10 or not self.clip > 0 or self.decay < 0:
            raise InputError(
                f"rate {self.rate:g}, clip {self.clip:g}, decay {self.decay:g}; legal: above 0 and "
                "below 10, above 0, at least 0"
            )
        if not 0 < self.held_out < 1 or not 0 <= self.warmup < 1:
            raise InputError(
                f"held_out {self.held_out:g}, warmup {self.warmup:g}; legal: above 0 and below 1, "
                "from 0 to below 1"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"{self.seconds:g} seconds for training; legal: above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the rows.

    Attributes:
        epoch: counted from 1; 0 is the model as it came.
        loss: mean over the rows trained on; NaN for epoch 0.
        check: on the rows held out; lower is better.
        rate: learning rate of the last step.
        is_best: no epoch before it was better.
        seconds: spent so far, those before a resume included.
        seconds_left: at most still to come, by the epochs so far.
    """

    epoch: int
    loss: float
    check: float
    rate: float
    is_best: bool
    seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of it.

    Attributes:
        model: the graph that was given, with the weights of the best epoch.
        before, after: the check of the model as it came, and of `model`.
        best_epoch: 0 where no epoch was better than the model as it came.
        epochs: in order, from epoch 0.
        stopped: why: all `epochs` done, no better for `patience` epochs, or the `time` was over.
        seconds: spent on it.
        notes: what the user should know, in words.
    """

    model: ModelProto
    before: float
    after: float
    best_epoch: int
    epochs: tuple[Epoch, ...]
    stopped: Literal["epochs", "patience", "time"]
    seconds: float
    notes: tuple[str, ...]


Listener = Callable[[Epoch], None]


def nobody(epoch: Epoch) -> None:
    """The listener that does not."""
    del epoch
