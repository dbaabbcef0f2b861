"""What removing parameters brought, in words: the same in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterator

from edgesdk.report import words
from edgesdk.report.document import DeployReport, Row

TITLE = "What removing parameters brought"


def lines(report: DeployReport) -> list[tuple[str, str]]:
    """A name and a sentence for each form that was measured with structural steps."""
    return [(row.name, _sentence(row, report)) for row in report.rows if row.removed]


def _sentence(row: Row, report: DeployReport) -> str:
    assert row.removed is not None
    gone = f"{row.removed.parameters:.1%} of the parameters"
    if row.removed.macs is not None:
        gone += f" and {row.removed.macs:.1%} of the multiply-accumulates"
    before = report.row(row.removed.before)
    told = f"without {gone} of {row.removed.before}"
    if before is None:
        return told
    brought = list(_gains(row, before, report))
    helps = any(gained for gained, _ in brought)
    told += f": {', '.join(text for _, text in brought)}"
    if row.removed.kept:
        return f"{told}; kept"
    if not helps:
        return f"{told}; it brings nothing that can be told from chance, and was undone"
    return f"{told}; not chosen: {row.reason}"


def _gains(row: Row, before: Row, report: DeployReport) -> Iterator[tuple[bool, str]]:
    """What is asked for: whether it is surely better than before, and the figures."""
    if report.objective != "size" and row.speedup and before.speedup:
        yield (
            row.speedup.low > before.speedup.high,
            f"{words.pace(report)} {words.times(row.speedup)} against the original, "
            f"{words.times(before.speedup)} before",
        )
    if report.objective == "size" and row.size_bytes and before.size_bytes:
        yield (
            row.size_bytes < before.size_bytes,
            f"{words.megabytes(row.size_bytes)}, {words.megabytes(before.size_bytes)} before",
        )
    if report.objective == "memory" and row.peak_mib and before.peak_mib:
        yield (
            row.peak_mib < before.peak_mib,
            f"{words.mebibytes(row.peak_mib)} of memory, {words.mebibytes(before.peak_mib)} before",
        )
