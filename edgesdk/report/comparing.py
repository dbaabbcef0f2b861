"""Models beside each other, and one beside what a recipe made of it, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from edgesdk.report import words

if TYPE_CHECKING:
    from edgesdk.comparing import Beside, Compared
    from edgesdk.compressing import Compression
    from edgesdk.holdings import Holdings
    from edgesdk.measure.result import Measurement
    from edgesdk.quality import Score

_WIDE = 110
_WIDE_ONLY = frozenset(("95 % interval", "load ms"))


class BesideView:
    """A row for each: what it holds, its times beside the first's, its outputs and metrics."""

    def __init__(self, found: Beside) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        found, wide = self._found, options.max_width >= _WIDE
        names = _short_names([entry.name for entry in found.entries])
        columns = [column for column in _COLUMNS if wide or column[0] not in _WIDE_ONLY]
        metrics = [score.metric for score in _scores(found.entries[0])]
        table = _table("")
        for title in (*(title for title, _ in columns), *metrics):
            table.add_column(title, justify="right", no_wrap=True)
        for name, entry in zip(names, found.entries, strict=True):
            scores = {score.metric: _score(score.candidate) for score in _scores(entry)}
            table.add_row(
                _text(name),
                *(cell(entry) for _, cell in columns),
                *(scores.get(metric, words.ABSENT) for metric in metrics),
            )
        yield table
        said = (
            f"On {found.device}; quality over {found.rows:,} rows, beside {found.entries[0].name}."
        )
        yield Text(words.plain(said), style="dim")
        for name, entry in zip(names, found.entries, strict=True):
            if entry.problem:
                yield Text(words.plain(f"! {name}: {entry.problem}"), style="yellow")
            elif entry.measurement and not entry.measurement.stable:
                yield Text(words.plain(f"! {name}: too noisy to trust"), style="yellow")


def _short_names(names: Sequence[str]) -> list[str]:
    """The last parts of the paths, as few as tell them apart; without a `model.onnx` at the end."""
    parts = [_told_parts(Path(name)) for name in names]
    for count in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-count:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _told_parts(path: Path) -> tuple[str, ...]:
    known = path.name in ("model.onnx", "bundle") and len(path.parts) > 1
    return path.parent.parts if known else path.parts


def compression_view(found: Compression) -> RenderableType:
    """What the file held before and after, and what was remarked."""
    table = _table(found.recipe)
    for title in ("parameters", "MB", "M MACs"):
        table.add_column(title, justify="right")
    for label, holds in (("before", found.before), ("after", found.after)):
        table.add_row(label, *(cell(holds) for cell in (_parameters, _size, _macs)))
    notes = [Text(f"! {words.plain(note)}", style="yellow") for note in found.notes]
    return Group(table, *notes, Text(f"wrote {words.plain(found.folder)}"))


def _table(title: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(title, overflow="fold", min_width=20)
    return table


def _scores(entry: Compared) -> tuple[Score, ...]:
    return entry.quality.scores if entry.quality else ()


def _score(value: float | None) -> str:
    return words.ABSENT if value is None else f"{value:.4f}"


def _parameters(holds: Holdings | None) -> str:
    return f"{holds.parameters:,}" if holds else words.ABSENT


def _size(holds: Holdings) -> str:
    return _megabytes(holds.bytes)


def _megabytes(count: float) -> str:
    return words.megabytes(count).removesuffix(" MB")


def _macs(holds: Holdings | None) -> str:
    return words.millions(holds.macs) if holds else words.ABSENT


def _of(told: Callable[[Measurement], str]) -> Callable[[Compared], str]:
    return lambda entry: told(entry.measurement) if entry.measurement else words.ABSENT


def _cosine(entry: Compared) -> str:
    known = [item.cosine for item in entry.quality.closeness] if entry.quality else []
    return words.cosine(min((value for value in known if value is not None), default=None))


_COLUMNS: tuple[tuple[str, Callable[[Compared], str]], ...] = (
    ("parameters", lambda entry: _parameters(entry.holds)),
    ("M MACs", lambda entry: _macs(entry.holds)),
    ("MB", _of(lambda found: _megabytes(found.artifact_bytes))),
    ("p50 ms", _of(lambda found: words.milliseconds(found.timed.p50_ms))),
    ("speed", _of(lambda found: f"{found.speedup.value:.2f}")),
    ("95 % interval", _of(lambda found: str(found.speedup).partition(" ")[2])),
    ("MiB", _of(lambda found: f"{found.used_mib:.0f}")),
    ("load ms", _of(lambda found: words.milliseconds(found.load_ms))),
    ("cosine", _cosine),
)


def _text(value: object) -> Text:
    return Text(words.plain(str(value)), overflow="fold")
