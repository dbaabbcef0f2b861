"""What share of each floor's allowance a form uses up. Pure.

Of a cosine or an agreement, what it lacks to 1 counts; of decibels, the power of the noise, which adds; of
the largest error, the error; of a metric, what it loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgesdk.budget import Floor
from edgesdk.floors import FloorResult, Verdict
from edgesdk.quality import Quality


def damages(quality: Quality, floors: Sequence[Floor]) -> dict[str, float]:
    """The share of each floor's allowance by its subject; infinite where the floor is surely broken.

    A figure that the rows do not give, such as of a constant output, counts as no damage: the check of the
    whole combination decides there.

    Args:
        quality: of the pipeline with one component replaced.
        floors: what it was judged by.
    """
    known = {floor.text: floor for floor in floors}
    references = {score.metric: score.reference for score in quality.scores}
    return {
        result.subject: _share(result, known.get(result.floor), references)
        for result in quality.floors
    }


def _share(
    result: FloorResult, floor: Floor | None, references: Mapping[str, float | None]
) -> float:
    if result.verdict == Verdict.FAIL or floor is None:
        return math.inf
    if result.value is None:
        return 0.0
    value, bound = result.value, floor.bound
    match floor.quantity, floor.kind:
        case (("cosine" | "agreement"), _):
            return _part(1.0 - value, 1.0 - bound)
        case "sqnr", _:
            return float(10.0 ** ((bound - value) / 10.0))
        case "max_error", _:
            return _part(value, bound)
        case _, "value":
            reference = references.get(result.subject)
            if reference is None:
                return 0.0
            return _part(reference - value, reference - bound)
    return _part(value, bound)


def _part(used: float, allowed: float) -> float:
    """`used / allowed`; both below 0 for what falls, and 0 where nothing was used."""
    if used == 0.0 or (allowed != 0.0 and used / allowed <= 0.0):
        return 0.0
    return used / allowed if allowed != 0.0 else math.inf
