"""Outputs there and here: what the device computes beside what this machine computes of the same files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgesdk.departures import Departure, ThereAndHere
from edgesdk.report import words
from edgesdk.report.document import DeployReport, Row

TITLE = "Outputs there and here"
COLUMNS = ("candidate", "output", "largest difference", "elements that differ", "cosine")
SHOWN = 3
"""Outputs of a candidate, those that depart most; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table, in the order of `COLUMNS`."""

    candidate: str
    output: str
    largest: str
    differing: str
    cosine: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As text."""
        return (self.candidate, self.output, self.largest, self.differing, self.cosine)


def lines(report: DeployReport) -> list[Line]:
    """The table, the winner first; empty where nothing was compared."""
    return [
        line
        for row in words.in_order(report.rows)
        if row.elsewhere
        for line in _lines(row.name, row.elsewhere)
    ]


def note(report: DeployReport) -> str:
    """What the table is of, in sentences."""
    found = [row.elsewhere for row in report.rows if row.elsewhere and row.elsewhere.outputs]
    kinds = " and ".join(dict.fromkeys(item.evidence.value for item in found))
    most = max((item.rows for item in found), default=0)
    return (
        f"The same files on the device ({kinds}) and on this machine, over up to {most} rows; "
        "differences in % of the range of the output. Verdicts are of the outputs there."
    )


def remarks(report: DeployReport) -> list[tuple[str, str]]:
    """Candidates of which something is to be said, and what."""
    return [
        (row.name, said)
        for row in words.in_order(report.rows)
        if row.elsewhere
        for said in _remarks(row, row.elsewhere)
    ]


def _lines(name: str, found: ThereAndHere) -> Iterator[Line]:
    ordered = sorted(found.outputs, key=lambda item: (not item.is_much, -(item.largest or 0.0)))
    for item in ordered[:SHOWN]:
        yield Line(
            candidate=name,
            output=item.output,
            largest=words.share(item.largest),
            differing=words.ABSENT if item.problem else words.share(item.differing),
            cosine=words.cosine(item.cosine),
        )
        name = ""
    if len(ordered) > SHOWN:
        yield Line("", f"and {len(ordered) - SHOWN} that depart less", "", "", "")


def _remarks(row: Row, found: ThereAndHere) -> Iterator[str]:
    if found.note:
        yield found.note
    if found.worst is not None:
        yield f"computed differently there: {_told(found.worst)}"
    if found.outputs and found.there and found.there != found.here:
        backend = row.name.partition("/")[0]
        yield f"{backend} is {found.there} there and {found.here} here"


def _told(item: Departure) -> str:
    if item.problem:
        return f"{item.output!r}: {item.problem}"
    if item.bad_values:
        return (
            f"{item.output!r} has {item.bad_values:,} values that are NaN or infinite on one side"
        )
    return (
        f"{item.output!r} departs by up to {words.share(item.largest)} of its range from what this "
        "machine computes of the same file"
    )
