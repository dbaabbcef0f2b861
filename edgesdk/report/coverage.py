"""What calibration rows show to each input, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgesdk.coverage import InputCoverage


def coverage_table(found: Sequence[InputCoverage]) -> RenderableType:
    """A row for each input, and below what is refused and what looks wrong."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for word in ("input", "modality"):
        table.add_column(word, overflow="fold")
    for word in ("rows", "distinct", "from", "to", "commonest", "padding"):
        table.add_column(word, justify="right")
    for item in found:
        name = f"{item.component}.{item.input}" if item.component else item.input
        table.add_row(
            Text(name),
            Text(", ".join(item.modalities) or "-"),
            str(item.rows),
            str(item.distinct),
            *("-" if value is None else f"{value:.4g}" for value in (item.low, item.high)),
            f"{item.common:.0%}",
            f"{item.padded:.0%}" if item.padded else "-",
        )
    refused = (Text.assemble(("refused: ", "red"), item.refused) for item in found if item.refused)
    warned = (Text.assemble(("! ", "yellow"), item.warning) for item in found if item.warning)
    return Group(table, *refused, *warned)
