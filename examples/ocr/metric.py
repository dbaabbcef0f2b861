"""How well lines of text are read: from probabilities to text, and from text to a figure.

`edgesdk deploy --metric examples/ocr/metric.py:character_accuracy` (or `...:exact_line`). Both take
the outputs and labels of one sample and return a number; edgesdk averages it over the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

MODEL = Path(__file__).resolve().parents[2] / ".models" / "ch_PP-OCRv4_rec_infer.onnx"


@cache
def alphabet(model: Path = MODEL) -> tuple[str, ...]:
    """Characters of the recogniser's classes: a blank, those in the model's metadata, a space."""
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    return ("", *found["character"].splitlines(), " ")


def decode(probabilities: Array, characters: Sequence[str]) -> str:
    """Text of one line from [steps, classes]: best class a step, repeats merged, blanks dropped."""
    best = np.asarray(probabilities).argmax(-1)
    changed = np.diff(best, prepend=-1) != 0
    return "".join(characters[i] for i in best[changed])


def distance(left: str, right: str) -> int:
    """Characters to insert, delete or replace to turn one text into the other."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def exact_line(outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> float:
    """1 when the line is read without a single error, else 0."""
    return float(_read(outputs) == labels["label"].item())


def character_accuracy(outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> float:
    """Share of a line that is right, 0 to 1: one minus edit distance over the longer length."""
    text, label = _read(outputs), str(labels["label"].item())
    return 1 - distance(text, label) / max(len(text), len(label), 1)


def _read(outputs: Mapping[str, Array]) -> str:
    (probabilities,) = outputs.values()
    return decode(probabilities[0], alphabet()).strip()
