"""PP-OCRv4 recogniser: a picture of a line becomes text; 2.7 M parameters.

Weights: `rapidocr-onnxruntime==1.4.4` (Apache-2.0, from PaddleOCR), as shipped: opset 12, dynamic
width, weights in Constant nodes.
Data: 500 lines drawn by `examples/ocr/render.py`, 320 pixels wide; nothing has to be provided.
Metric: character accuracy, one minus edit distance over length; the mean over the lines.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks.models.reference import Reference
from tools.fetch_models import TEST_MODELS

_WEIGHTS = next(file for file in TEST_MODELS if "v4_rec" in file.member)
LINES, SEED = 500, 1


def _build(files: Path, data: Path, out: Path) -> None:
    shutil.copy(files / _WEIGHTS.name, out)


def _samples(files: Path, data: Path, out: Path) -> Path:
    from examples.ocr.render import preprocess, render

    lines = render(LINES, SEED)
    path = out / "samples.npz"
    np.savez_compressed(
        path,
        x=np.concatenate([preprocess(image) for image, _ in lines]),
        label=np.array([text for _, text in lines]),
    )
    return path


REFERENCE = Reference(
    name="ocr_rec",
    task="reading lines of text",
    files=(_WEIGHTS,),
    licence="Apache-2.0",
    metric="examples/ocr/metric.py:character_accuracy",
    build=_build,
    samples=_samples,
)
