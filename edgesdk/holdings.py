"""What a model file holds and computes, for tables that set models beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from edgesdk.errors import ModelError
from edgesdk.model import Model, node_facts
from edgesdk.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a model file holds and computes.

    Attributes:
        parameters: stored tensor elements.
        bytes: of the file and its data files.
        macs: multiply-accumulates of a run at the shapes of the samples; None where shapes are open.
    """

    parameters: int
    bytes: int
    macs: int | None


def holdings(model: Model, row: Sample) -> Holdings:
    """What a model holds, and computes for a row of this shape."""
    shapes = {name: array.shape for name, array in row.inputs.items()}
    names = {info.name for info in model.inputs}
    try:
        nodes = node_facts(model, {name: shapes[name] for name in names if name in shapes})
        macs = [node.macs for node in nodes]
    except ModelError:
        macs = [None]
    known = [count for count in macs if count is not None]
    return Holdings(
        parameters=model.parameters,
        bytes=model.file_bytes,
        macs=sum(known) if len(known) == len(macs) else None,
    )
