"""Keeping what the components of a pipeline are given while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgesdk.arrays import save_arrays
from edgesdk.backend import Array
from edgesdk.samples import INPUT_PREFIX
from edgesdk.sources import row_file


class Recorder:
    """Writes rows that `edgesdk.samples.SampleSet` reads, in a folder for each component.

    A loop may have very many steps: when twice as many as asked for are held of one row, every second one
    is dropped, and from then on only every second one taken. So those that stay are evenly spread.
    """

    def __init__(self, folder: Path, most: int) -> None:
        """Write below `folder`; keep at least `most` steps of a row, and less than twice as many."""
        self._folder = folder
        self._most = most
        self._held: dict[str, list[dict[str, Array]]] = {}
        self._stride: dict[str, int] = {}
        self._calls: dict[str, int] = {}
        self.rows: dict[str, list[int]] = {}
        """For each component, the number of the row that each stored one came from."""
        self.shapes: dict[str, dict[str, list[int] | None]] = {}
        """For each component and input, the shape that all stored ones have; None where they differ."""

    def look(self, component: str, step: int | None, given: Mapping[str, Array]) -> None:
        """As `edgesdk.executor.run.Watch`."""
        del step
        call = self._calls.get(component, 0)
        self._calls[component] = call + 1
        stride = self._stride.setdefault(component, 1)
        if call % stride:
            return
        held = self._held.setdefault(component, [])
        held.append(dict(given))
        if len(held) >= 2 * self._most:
            del held[1::2]
            self._stride[component] = 2 * stride

    def end_row(self, number: int) -> None:
        """Write what is held, as of this row."""
        for component, held in self._held.items():
            folder = self._folder / component
            folder.mkdir(exist_ok=True)
            rows = self.rows.setdefault(component, [])
            shapes = self.shapes.setdefault(component, {})
            for given in held:
                arrays = {f"{INPUT_PREFIX}{name}": array for name, array in given.items()}
                save_arrays(row_file(folder, len(rows)), arrays)
                rows.append(number)
                for name, array in given.items():
                    shape = list(array.shape)
                    shapes[name] = shape if shapes.get(name, shape) == shape else None
        self._held.clear()
        self._stride.clear()
        self._calls.clear()
