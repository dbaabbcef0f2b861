"""Task metrics of the reference models that edgesdk does not bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Floats = NDArray[np.float64]

THRESHOLD, SURE, GROW = 0.3, 0.5, 1.6  # as PP-OCR's own post-processing sets them
OVERLAP = 0.5


class SpeechAuc:
    """Area under the ROC curve: how surely speech gets a higher score than other sound."""

    def score(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> tuple[float, int]:
        """The probability of speech, 0 to 1, and whether it is speech."""
        return float(outputs["output"].item()), int(labels["label"].item())

    def aggregate(self, scores: Floats, rows: NDArray[np.intp]) -> float:
        """0 to 1; 0.5 is chance, and what is returned when only one kind is there."""
        chance, speech = scores[rows, 0], scores[rows, 1] > 0
        yes, no = int(speech.sum()), int((~speech).sum())
        if not yes or not no:
            return 0.5
        _, group, counts = np.unique(chance, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]  # from 1; equal values share theirs
        return float((ranks[speech].sum() - yes * (yes + 1) / 2) / (yes * no))


def line_f1(outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> float:
    """F1 of the text lines found on a page, 0 to 1; an IoU of 0.5 or more is a hit.

    `label` is int64[lines, 4] of left, top, right, bottom; the output float32[1, 1, height, width].
    """
    (maps,) = outputs.values()
    found = boxes_of(np.asarray(maps, np.float32)[0, 0])
    lines = [tuple(map(float, box)) for box in np.asarray(labels["label"])]
    pairs = sorted(
        ((overlap(a, b), i, j) for i, a in enumerate(found) for j, b in enumerate(lines)),
        reverse=True,
    )
    taken: set[tuple[str, int]] = set()
    hits = 0
    for iou, i, j in pairs:
        ends = {("found", i), ("line", j)}
        if iou >= OVERLAP and not ends & taken:
            taken |= ends
            hits += 1
    return 2 * hits / (len(found) + len(lines)) if found or lines else 1.0


def boxes_of(chance: NDArray[np.float32]) -> list[tuple[float, ...]]:
    """Boxes of connected areas above the threshold, grown by what training shrank them."""
    from scipy import ndimage

    areas, _ = ndimage.label(chance > THRESHOLD)
    found: list[tuple[float, ...]] = []
    for rows, columns in ndimage.find_objects(areas):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3 or chance[rows, columns].mean() < SURE:
            continue
        d = height * width * GROW / (2 * (height + width))
        found.append((columns.start - d, rows.start - d, columns.stop + d, rows.stop + d))
    return found


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes of left, top, right, bottom, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)
