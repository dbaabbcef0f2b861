"""Lines of text drawn as pictures, with the text as label: real input whose answer is known.

    python -m examples.ocr.render OUT [--count 400] [--seed 0]

writes OUT/samples.npz (what `edgesdk deploy --samples` takes) and OUT/line.png. The words come from
Python's own documentation, the typeface from Pillow; size, grey levels, slant, blur and noise vary
from line to line, drawn from the seed.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

HEIGHT, WIDTH = 48, 320  # pixels: what the PP-OCRv4 recogniser was trained on
MIN_LENGTH, MAX_LENGTH = 4, 24
DEMO_LINE = "Every figure is measured"  # in no sample: what the finished bundle shall read


def words() -> list[str]:
    """Words of Python's documentation as they stand there: letters, digits, some punctuation."""
    from pydoc_data.topics import topics

    found = re.findall(r'[A-Za-z0-9][A-Za-z0-9.,:;()"\'-]*', " ".join(topics.values()))
    return [word for word in found if len(word) < MAX_LENGTH]


def phrase(source: list[str], rng: random.Random) -> str:
    """Words that stand beside each other in the documentation, 4 to 24 characters in all."""
    start = rng.randrange(len(source) - 4)
    text = source[start]
    for word in source[start + 1 : start + rng.randint(1, 4)]:
        if len(text) + 1 + len(word) > MAX_LENGTH:
            break
        text = f"{text} {word}"
    return text if len(text) >= MIN_LENGTH else phrase(source, rng)


def draw(text: str, rng: random.Random) -> Image:
    """A line of text as a camera sees it: dark on light, slightly turned, blurred and noisy."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.load_default(size=rng.randint(20, 34))
    left, top, right, bottom = font.getbbox(text)
    paper, ink = rng.randint(170, 255), rng.randint(0, 90)
    size = (int(right - left) + 20, int(bottom - top) + 14)
    image = Image.new("L", size, paper)
    ImageDraw.Draw(image).text((10 - left, 7 - top), text, font=font, fill=ink)
    slant = rng.uniform(-1.5, 1.5)
    image = image.rotate(slant, Image.Resampling.BICUBIC, expand=True, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.0)))
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 14), pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).convert("RGB")


def preprocess(image: Image) -> NDArray[np.float32]:
    """The recogniser's input float32[1, 3, 48, 320]: blue first, -1 to 1, right side padded with 0.

    A picture wider than 320 at a height of 48 is squeezed to fit.
    """
    from PIL import Image as Pillow

    width = min(WIDTH, max(1, round(image.width * HEIGHT / image.height)))
    small = image.convert("RGB").resize((width, HEIGHT), Pillow.Resampling.BILINEAR)
    pixels = np.asarray(small, np.float32)[:, :, ::-1] / np.float32(127.5) - np.float32(1)
    padded = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    padded[0, :, :, :width] = pixels.transpose(2, 0, 1)
    return padded


def render(count: int, seed: int) -> list[tuple[Image, str]]:
    """`count` pictures with their texts; the same for the same seed."""
    rng = random.Random(seed)
    source = words()
    texts = [phrase(source, rng) for _ in range(count)]
    return [(draw(text, rng), text) for text in texts]


def main() -> None:
    """Write samples and one picture."""
    parser = argparse.ArgumentParser(prog="python -m examples.ocr.render")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = render(arguments.count, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(DEMO_LINE, random.Random(arguments.seed)).save(arguments.out / "line.png")
    np.savez_compressed(
        arguments.out / "samples.npz",
        x=np.concatenate([preprocess(image) for image, _ in lines]),
        label=np.array([text for _, text in lines]),
    )
    print(f"{len(lines)} lines in {arguments.out / 'samples.npz'}; line.png says: {DEMO_LINE}")


if __name__ == "__main__":
    main()
