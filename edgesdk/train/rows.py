"""Rows of samples in batches: those of equal shape together, in an order that a seed gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgesdk.errors import ModelError, SamplesError
from edgesdk.train.types import to_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor

    from edgesdk.samples import SampleSet
    from edgesdk.train.reader import OnnxModule

Row = Mapping[str, "NDArray[Any]"]
Batch = tuple[int, ...]

_ALIKE = 1e-3
"""How far a row computed in a batch may be from the same row alone, relative to its largest value."""


class SampleRows(Sequence[Row]):
    """The inputs of stored samples, each read when it is asked for."""

    def __init__(self, samples: SampleSet) -> None:
        """Read nothing yet."""
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SampleRows(self._samples[index])
        return self._samples[index].inputs


def split_rows(count: int, share: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows to train on and rows held out, each in ascending order.

    At least one row is held out, and one trained on; of a single row both are made.
    """
    if count < 1:
        raise SamplesError("no rows to train on; give --samples")
    if count == 1:
        return (0,), (0,)
    held = min(max(1, round(count * share)), count - 1)
    order = np.random.default_rng([seed, 0]).permutation(count)
    return tuple(sorted(order[held:].tolist())), tuple(sorted(order[:held].tolist()))


class Shapes:
    """The shapes of rows, and the batches that they allow."""

    def __init__(self, rows: Sequence[Row], inputs: Sequence[str]) -> None:
        """Read every row once.

        Raises:
            SamplesError: a row lacks an input.
        """
        self._of: list[tuple[Any, ...]] = []
        for number, row in enumerate(rows):
            missing = [name for name in inputs if name not in row]
            if missing:
                raise SamplesError(f"row {number} has no {missing[0]!r}; it has {sorted(row)}")
            self._of.append(tuple((row[n].shape, row[n].dtype.str) for n in inputs))

    def batches(self, rows: Sequence[int], size: int, seed: Sequence[int] = ()) -> list[Batch]:
        """Rows in batches of one shape, of at most `size`; shuffled where there is a seed."""
        rng = np.random.default_rng(list(seed)) if seed else None
        order = rows if rng is None else [rows[place] for place in rng.permutation(len(rows))]
        groups: dict[Any, list[int]] = {}
        for row in order:
            groups.setdefault(self._of[row], []).append(row)
        found = [
            tuple(group[start : start + size])
            for group in groups.values()
            for start in range(0, len(group), size)
        ]
        return found if rng is None else [found[place] for place in rng.permutation(len(found))]

    def pair(self) -> Batch | None:
        """Two rows of one shape, where there are any."""
        first: dict[Any, int] = {}
        for row, shape in enumerate(self._of):
            if shape in first:
                return first[shape], row
            first[shape] = row
        return None


def collate(rows: Sequence[Row], batch: Batch, inputs: Sequence[str]) -> dict[str, Tensor]:
    """The inputs of a batch: arrays of single rows as they are, of several one behind the other."""
    chosen = [rows[row] for row in batch]
    if len(chosen) == 1:
        return {name: to_torch(np.asarray(chosen[0][name])) for name in inputs}
    return {name: to_torch(np.concatenate([row[name] for row in chosen])) for name in inputs}


def can_stack(proto: ModelProto, module: OnnxModule, rows: Sequence[Row], shapes: Shapes) -> bool:
    """Whether rows can be run together, as two rows say that are run so and alone.

    A first axis that the model declares to be 1 is no hindrance where nothing inside insists on it.
    """
    inputs = {value.name: value for value in proto.graph.input}
    for name in module.input_names:
        dims = inputs[name].type.tensor_type.shape.dim
        if not dims or dims[0].dim_value > 1:
            return False
    pair = shapes.pair()
    if pair is None:
        return False
    if any(rows[pair[0]][name].shape[:1] != (1,) for name in module.input_names):
        return False
    try:
        with torch.no_grad():
            both = module(collate(rows, pair, module.input_names))
            alone = [module(collate(rows, (row,), module.input_names)) for row in pair]
    except ModelError:
        return False
    return all(
        alone[0][name].ndim > 0 and _alike(both[name], torch.cat([one[name] for one in alone]))
        for name in module.output_names
    )


def _alike(together: Tensor, apart: Tensor) -> bool:
    if together.shape != apart.shape:
        return False
    away = (together.double() - apart.double()).abs().max()
    return bool(away <= _ALIKE * apart.double().abs().max().clamp_min(1e-12))


def pieces(batch: Batch, *, stacked: bool) -> Iterator[Batch]:
    """What of a batch is run together: all of it, or each row alone."""
    if stacked:
        yield batch
    else:
        yield from ((row,) for row in batch)
