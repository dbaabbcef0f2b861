"""PP-OCRv4 detector: a page becomes a map of where text is; 1.2 M parameters.

Weights: `rapidocr-onnxruntime==1.4.4` (Apache-2.0, from PaddleOCR), as shipped: opset 12, dynamic
size, weights in Constant nodes.
Data: 60 pages of 640x480 pixels drawn here, with the boxes of their lines; nothing has to be
provided.
Metric: F1 of the lines found, a line counting as found where boxes overlap by IoU 0.5 or more;
the mean over the pages.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.reference import Reference
from tools.fetch_models import TEST_MODELS

if TYPE_CHECKING:
    from PIL.Image import Image

_WEIGHTS = next(file for file in TEST_MODELS if "v4_det" in file.member)
WIDTH, HEIGHT = 640, 480
PAGES, SEED = 60, 2
MOST_LINES = 14
GAP = 8  # least pixels between two lines

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


def draw_page(source: list[str], rng: random.Random) -> tuple[Image, list[Box], list[str]]:
    """A page with lines of several sizes at random places that do not touch, their boxes and texts."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    from examples.ocr.render import phrase

    paper = rng.randint(170, 255)
    image = Image.new("L", (WIDTH, HEIGHT), paper)
    canvas = ImageDraw.Draw(image)
    boxes: list[Box] = []
    texts: list[str] = []
    for _ in range(rng.randint(6, MOST_LINES)):
        font = ImageFont.load_default(size=rng.randint(14, 32))
        text = phrase(source, rng)
        left, _, right, _ = (int(edge) for edge in font.getbbox(text))
        _, top, _, bottom = (int(edge) for edge in font.getbbox("Ay"))  # a line's usual height
        width, height = right - left, bottom - top
        x = rng.randint(GAP, max(GAP, WIDTH - width - GAP))
        y = rng.randint(GAP, HEIGHT - height - GAP)
        box = (x, y, min(x + width, WIDTH), y + height)
        if not any(_touch(box, other) for other in boxes):
            canvas.text((x - left, y - top), text, font=font, fill=rng.randint(0, 90))
            boxes.append(box)
            texts.append(text)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 10), pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)), boxes, texts


def _touch(a: Box, b: Box) -> bool:
    apart = a[0] > b[2] + GAP or b[0] > a[2] + GAP or a[1] > b[3] + GAP or b[1] > a[3] + GAP
    return not apart


def preprocess(image: Image) -> NDArray[np.float32]:
    """A picture as float32[1, 3, height, width] from -1 to 1."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _build(files: Path, data: Path, out: Path) -> None:
    shutil.copy(files / _WEIGHTS.name, out)


def _samples(files: Path, data: Path, out: Path) -> Path:
    from examples.ocr.render import words

    rng = random.Random(SEED)
    source = words()
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(PAGES):
        image, boxes, _ = draw_page(source, rng)
        np.savez_compressed(
            folder / f"{i:03d}.npz", x=preprocess(image), label=np.array(boxes, np.int64)
        )
    return folder


REFERENCE = Reference(
    name="ocr_det",
    task="finding lines of text",
    files=(_WEIGHTS,),
    licence="Apache-2.0",
    metric="benchmarks/models/metrics.py:line_f1",
    build=_build,
    samples=_samples,
)
