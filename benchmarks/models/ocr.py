"""Reading pages: PP-OCRv4's detector, direction classifier and recogniser as one pipeline.

Weights: `rapidocr-onnxruntime==1.4.4` (Apache-2.0, from PaddleOCR), as shipped: opsets 11 and 12, weights
in Constant nodes, dynamic sizes. Only inputs and outputs have names of their own here.
Graphs: `detector.onnx`, `page` float32[pages, 3, height, width] -> `map` float32[pages, 1, height, width],
how surely each pixel is text; `classifier.onnx`, `line` float32[lines, 3, 48, 192] -> `direction`
float32[lines, 2], upright or upside down; `recogniser.onnx`, `line` float32[lines, 3, 48, width] ->
`characters` float32[lines, width / 8, 6625].
Between them, outside any graph: lines are cut out of the page by the boxes of the map, scaled to a height
of 48, and turned by what the classifier says.
Data: 60 pages of 640x480 pixels drawn here, about a third of them upside down; nothing has to be provided.
Figures: over the lines of all pages, those found (IoU 0.5), the mean share of right characters, and those
read without an error; a line that was not found has no right character. The same of upside-down pages.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.metrics import OVERLAP, boxes_of, overlap
from benchmarks.models.ocr_det import HEIGHT, WIDTH, draw_page, preprocess
from benchmarks.models.pipelines import Part, ReferencePipeline, Step
from tools.fetch_models import TEST_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

Pixels = NDArray[np.float32]

PAGES, SEED, UPSIDE_DOWN = 60, 4, 1 / 3
LINE_HEIGHT, DIRECTION_WIDTH, LEAST_WIDTH = 48, 192, 320
SURE = 0.9
"""From here on a line is believed to stand upside down, as PP-OCR sets it."""
_FILES = {
    "detector": ("v4_det", "page", "map"),
    "classifier": ("v2.0_cls", "line", "direction"),
    "recogniser": ("v4_rec", "line", "characters"),
}
_PACKAGED = {
    name: next(file for file in TEST_MODELS if part in file.member)
    for name, (part, _, _) in _FILES.items()
}


def _build(files: Path, data: Path, out: Path) -> None:
    import onnx

    for name, (_, given, made) in _FILES.items():
        model = onnx.load(files / _PACKAGED[name].name)
        names = {model.graph.input[0].name: given, model.graph.output[0].name: made}
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            value.name = names.get(value.name, value.name)
        for node in model.graph.node:
            node.input[:] = [names.get(one, one) for one in node.input]
            node.output[:] = [names.get(one, one) for one in node.output]
        onnx.checker.check_model(model)
        onnx.save(model, out / f"{name}.onnx")


def _samples(files: Path, data: Path, out: Path) -> Path:
    """One row a page: `page`, the boxes and texts of its lines, and whether it is upside down."""
    from examples.ocr.render import words

    rng = random.Random(SEED)
    source = words()
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(PAGES):
        image, boxes, texts = draw_page(source, rng)
        page, places = preprocess(image), np.array(boxes, np.int64)
        turned = rng.random() < UPSIDE_DOWN
        if turned:
            page = np.ascontiguousarray(page[:, :, ::-1, ::-1])
            places = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]) - places[:, [2, 3, 0, 1]]
        np.savez_compressed(
            folder / f"{i:03d}.npz",
            page=page,
            boxes=places,
            label=np.array(texts),
            turned=np.bool_(turned),
        )
    return folder


def cut_lines(page: Pixels, boxes: list[tuple[float, ...]]) -> list[Pixels]:
    """The lines of a page float32[1, 3, height, width], each float32[3, 48, its width]."""
    from PIL import Image

    found = []
    for left, top, right, bottom in boxes:
        x0, y0 = max(0, int(left)), max(0, int(top))
        cut = page[0, :, y0 : int(np.ceil(bottom)), x0 : int(np.ceil(right))]
        width = max(1, round(cut.shape[2] * LINE_HEIGHT / cut.shape[1]))
        channels = [
            Image.fromarray(channel).resize((width, LINE_HEIGHT), Image.Resampling.BILINEAR)
            for channel in cut
        ]
        found.append(np.stack([np.asarray(channel, np.float32) for channel in channels]))
    return found


def turn_lines(lines: list[Pixels], directions: list[NDArray[Any]]) -> list[Pixels]:
    """Lines turned by 180 degrees where the classifier is sure that they stand upside down."""
    return [
        np.ascontiguousarray(line[:, ::-1, ::-1]) if direction[0, 1] > SURE else line
        for line, direction in zip(lines, directions, strict=True)
    ]


def _padded(line: Pixels, width: int) -> Pixels:
    """One line as a batch, cut off or filled up with grey on the right."""
    found = np.zeros((1, 3, LINE_HEIGHT, width), np.float32)
    found[0, :, :, : line.shape[2]] = line[:, :, :width]
    return found


def read_page(
    sessions: Mapping[str, Any], page: Pixels, alphabet: tuple[str, ...]
) -> Iterator[tuple[tuple[float, ...], str]]:
    """Boxes and texts of the lines on a page; sessions by component have `run`."""
    from examples.ocr.metric import decode

    boxes = boxes_of(np.asarray(sessions["detector"].run({"page": page})["map"])[0, 0])
    lines = cut_lines(page, boxes)
    directions = [
        sessions["classifier"].run({"line": _padded(line, DIRECTION_WIDTH)})["direction"]
        for line in lines
    ]
    for box, line in zip(boxes, turn_lines(lines, directions), strict=True):
        given = _padded(line, max(LEAST_WIDTH, line.shape[2]))
        chances = sessions["recogniser"].run({"line": given})["characters"]
        yield box, decode(chances[0], alphabet).strip()


def _evaluate(folder: Path, most: int | None) -> Mapping[str, Any]:
    from contextlib import ExitStack

    from edgesdk.backend import OpenOptions, require_backend
    from examples.ocr.metric import alphabet, distance

    engine, options = require_backend("onnxruntime"), OpenOptions(threads=1)
    characters = alphabet(folder / "recogniser.onnx")
    paths = sorted((folder / "samples").glob("*.npz"))
    scores: list[tuple[bool, bool, float, bool]] = []
    with ExitStack() as held:
        sessions = {
            name: held.enter_context(engine.open(folder / f"{name}.onnx", options))
            for name in _FILES
        }
        for path in paths[:: -(-len(paths) // most) if most else 1]:
            with np.load(path, allow_pickle=False) as row:
                found = list(read_page(sessions, row["page"], characters))
                for box, text in zip(row["boxes"], row["label"], strict=True):
                    best = max(found, key=lambda one: overlap(one[0], box), default=None)
                    hit = best is not None and overlap(best[0], box) >= OVERLAP
                    read = best[1] if best is not None and hit else ""
                    right = 1 - distance(read, str(text)) / max(len(read), len(text))
                    scores.append((bool(row["turned"]), hit, right, read == text))
    figures: dict[str, Any] = {}
    for kind, chosen in (("", scores), ("turned_", [one for one in scores if one[0]])):
        if not chosen:
            continue
        figures[f"{kind}lines"] = len(chosen)
        names = ("lines_found", "character_accuracy", "lines_exact")
        for name, values in zip(names, list(zip(*chosen, strict=True))[1:], strict=True):
            figures[f"{kind}{name}"] = float(np.mean(values))
    return figures


PIPELINE = ReferencePipeline(
    name="ocr",
    task="reading pages",
    files=tuple(_PACKAGED.values()),
    licence="Apache-2.0",
    modalities={"page": "image"},
    parts=(
        Part(name="detector", inputs={"page": "page"}),
        Part(name="classifier", inputs={"line": "cut.lines"}),
        Part(name="recogniser", inputs={"line": "turn.lines"}),
    ),
    steps=(
        Step(
            name="cut",
            call="benchmarks.models.ocr:cut_lines",
            inputs={"page": "page", "boxes": "detector.map"},
        ),
        Step(
            name="turn",
            call="benchmarks.models.ocr:turn_lines",
            inputs={"lines": "cut.lines", "directions": "classifier.direction"},
        ),
    ),
    build=_build,
    samples=_samples,
    evaluate=_evaluate,
)
