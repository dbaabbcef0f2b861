"""When a check may stop: how many rows it looks at before each verdict, and how sure that must be. Pure.

Most candidates are far from a floor, and a part of the rows tells so. The rows are shuffled once, by
a fixed seed, and looked at in growing parts: an eighth, a quarter, a half, all. After each part there
is a verdict, and with it another chance to be wrong. After Haybittle (British Journal of Radiology
44:793, 1971) and Peto and others (British Journal of Cancer 34:585, 1976) the early looks therefore
decide on strong evidence only, a tail of 0.25 % each, which leaves nearly all of the 5 % to the last.

- FAIL is final at any look. The tails of all looks add up to 5 %, and so bound the chance that a good
  candidate ever fails, however the looks depend on each other (Bonferroni).
- PASS at an early look only lets a candidate be measured. What is chosen must also pass on all rows:
  a bad candidate ships only by passing that one test, so its 5 % needs no share for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesdk.bounds import VERDICT_TAIL, Tails
from edgesdk.budget import Floor
from edgesdk.files import sha256_json
from edgesdk.floors import Verdict

EARLY_TAIL = 0.0025
"""Chance that one bound of an early look is wrong: 5 of the 2,000 draws that a bound may rest on."""
FIRST_ROWS = 32
"""An early look at fewer rows would be a look at their spread rather than at their mean."""

_PARTS = (8, 4, 2)
_SEED = 20261122


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One verdict of a check.

    Attributes:
        rows: how many rows it is of, those of earlier looks included.
        tails: how sure it must be.
        last: it is of all rows.
    """

    rows: int
    tails: Tails
    last: bool

    def settles(self, verdict: Verdict, floors: Sequence[Floor]) -> bool:
        """Whether a verdict ends the check.

        Args:
            verdict: of the rows of this look.
            floors: the user's. The largest error of some rows has no bound over the others, so a
                floor on it is kept by all rows or not at all.
        """
        if self.last or verdict == Verdict.FAIL:
            return True
        return verdict == Verdict.PASS and all(floor.quantity != "max_error" for floor in floors)


def plan_looks(rows: int) -> tuple[Look, ...]:
    """The looks of a check of `rows` rows, at least 1; a single one below twice `FIRST_ROWS`."""
    early = [rows // part for part in _PARTS if rows // part >= FIRST_ROWS]
    strict = Tails(passing=EARLY_TAIL, failing=EARLY_TAIL)
    rest = Tails(passing=VERDICT_TAIL, failing=VERDICT_TAIL - len(early) * EARLY_TAIL)
    return (
        *(Look(rows=count, tails=strict, last=False) for count in early),
        Look(rows=rows, tails=rest, last=True),
    )


def shuffled(rows: int) -> tuple[int, ...]:
    """The numbers from 0 to `rows` - 1 in the order in which they are looked at.

    Samples often come sorted, by class or by time; the first part of this order is a fair draw.
    """
    return tuple(sorted(range(rows), key=lambda row: sha256_json([_SEED, row])))
