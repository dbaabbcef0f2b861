"""Low rank from a model to a smaller model: looked at once, shrunk as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesdk.compress import onnx_io
from edgesdk.errors import InputError
from edgesdk.structure.factorize import factorize
from edgesdk.structure.factors import Choice, parameters_of
from edgesdk.structure.judge import Judge
from edgesdk.structure.lowrank import CostOf, Study, options, study, weigh
from edgesdk.structure.net import Net
from edgesdk.structure.ranks import Rung, allocate
from edgesdk.structure.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from edgesdk.compress.calibration import SampleSet
    from edgesdk.structure.judge import Deal
    from edgesdk.structure.moments import Progress

WEIGHING_ROWS = 16
"""On which each layer alone is tried."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What is known of a model's layers.

    Attributes:
        model: its file.
        known: by node name, the layers that can be split.
        weights: of their relative errors, by what these do to the outputs.
        left: names of the other layers with weights, each with the reason.
    """

    model: Path
    known: Mapping[str, Study]
    weights: Mapping[str, float]
    left: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What came out.

    Attributes:
        proto: the model.
        choices: how layers were split, by node name; the others are whole.
        cost_before, cost_after: of all layers that can be split, in the unit that was asked for.
        damage: weighted relative errors of all layers together, as far as they add up.
        notes: for the report.
    """

    proto: onnx.ModelProto
    choices: Mapping[str, Choice]
    cost_before: float
    cost_after: float
    damage: float
    notes: tuple[str, ...]


def survey(
    model: Path,
    samples: SampleSet,
    rows: Deal,
    scratch: Path,
    *,
    progress: Progress | None = None,
) -> Survey:
    """Run a model on rows, and find what its layers lose at every rank and what that does to it.

    The fitted rows give the moments; the first 16 of the choosing ones weigh the layers.

    Args:
        model: ONNX file, prepared.
        samples: rows; their shapes may vary.
        rows: which of them do what.
        scratch: an empty folder.
        progress: told how many steps are done, of how many: two for each layer.
    """
    net = Net(onnx_io.read_whole(model))
    reference = Reference(model, scratch / "survey", samples)

    def told(offset: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, total: progress(offset * total + done, 2 * total)

    known, left = study(reference, net, samples, rows.fitted, progress=told(0))
    judge = Judge(model, samples, rows.choosing[:WEIGHING_ROWS])
    weights = weigh(judge, net, known, scratch, progress=told(1))
    return Survey(model=model, known=known, weights=weights, left=left)


def shrink(
    surveyed: Survey,
    share: float,
    *,
    cost_of: CostOf = parameters_of,
    share_of: CostOf | None = None,
    multiple: int = 1,
) -> Shrunk:
    """Split layers until a share of what they cost is left, with the least damage for what is saved.

    Args:
        surveyed: the model.
        share: of the layers that can be split, what is left: above 0 and at most 1.
        cost_of: tells what a layer costs whole and split: milliseconds, bytes, or parameters. Damage is
            weighed against it, and what costs no less split stays whole.
        share_of: tells what the share is of; `cost_of` where None.
        multiple: of which ranks are, such as the width of the device's vectors.

    Raises:
        InputError: the share is outside of its range, or cannot be reached at any rank.
    """
    if not 0 < share <= 1:
        raise InputError(f"a share of {share} of the cost to keep; legal: above 0, at most 1")
    choosable = {
        name: options(one, cost_of, multiple=multiple, weight=surveyed.weights[name])
        for name, one in surveyed.known.items()
    }
    before = sum(choices[0].cost for choices in choosable.values())
    counted = share_of or cost_of
    known = {name: one.layer for name, one in surveyed.known.items()}
    whole = sum(counted(layer, None) for layer in known.values())

    def left(rung: Rung[Choice | None]) -> float:
        return sum(counted(known[name], option.choice) for name, option in rung.options.items())

    found = allocate(choosable, share * whole, left) if choosable else None
    if found is None:
        least = sum(min(counted(known[n], o.choice) for o in os) for n, os in choosable.items())
        raise InputError(
            f"{share:g} of the cost of {len(choosable)} layer(s) cannot be reached; legal: "
            f"{least / whole if whole else 1:.2g} up, with ranks that are multiples of {multiple}"
        )
    choices = {name: o.choice for name, o in found.options.items() if o.choice is not None}
    net = Net(onnx_io.read_whole(surveyed.model))
    return Shrunk(
        proto=factorize(net, surveyed.known, choices),
        choices=choices,
        cost_before=before,
        cost_after=found.cost,
        damage=found.damage,
        notes=(_note(surveyed, choices),),
    )


def _note(surveyed: Survey, choices: Mapping[str, Choice]) -> str:
    if not choices:
        return f"none of {len(surveyed.known)} layers was split: whole, they cost little enough"
    ranks = sorted(choice.rank for choice in choices.values())
    apart = sum(choice.form == "separable" for choice in choices.values())
    kernels = f", {apart} of them into columns and rows of their kernels" if apart else ""
    return (
        f"{len(choices)} of {len(surveyed.known)} layers were split in two{kernels}; "
        f"ranks {ranks[0]} to {ranks[-1]}; {len(surveyed.left)} other layers cannot be"
    )
