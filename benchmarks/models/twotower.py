"""Image and text in one space: EfficientNet-Lite0 and all-MiniLM-L6-v2 joined by ConSE, 27.4 M parameters.

No training: an image becomes the mean of the sentence embeddings of its ten likeliest ImageNet classes,
weighted by their probabilities (Norouzi and others, arXiv 1312.5650), so it can be compared with any text.
Weights: as `efflite0` and `minilm` say (Apache-2.0); class names from `timm==1.0.22` (Apache-2.0).
Graphs: `image_tower.onnx`, `image` float32[images, 3, 224, 224] -> `image_embedding` float32[images, 384];
`text_tower.onnx`, `input_ids`, `attention_mask`, `token_type_ids` int64[texts, tokens] ->
`sentence_embedding` float32[texts, 384]; `similarity.onnx`, both embeddings -> `similarity`
float32[images, texts], 20 times their cosine. All embeddings have length 1.
Data: `tuxpaint-stamps/`, pictures with English captions (usr/share/tuxpaint/stamps of Debian's
`tuxpaint-stamps-default`, GPL-2) without the folder of symbols: read when samples are made, not part of
this project.
Figures: the right caption among the best 1 and 10 of all captions, for each picture; the right picture
among the best 1 and 10, for each caption; their ratio to chance is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import efflite0, minilm
from benchmarks.models.pipelines import Part, ReferencePipeline
from benchmarks.models.reference import require
from tools.fetch_models import Packaged

CLASSES, SCALE = 10, 20.0
SIGNS = "symbols"
"""The folder of letters, coins and hand signs, which no ImageNet class comes near."""
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


def _timm(name: str, sha256: str) -> Packaged:
    member = f"timm/data/_info/{name}"
    return Packaged(requirement="timm==1.0.22", member=member, sha256=sha256, licence="Apache-2.0")


_SYNSETS = _timm(
    "imagenet_synsets.txt", "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
)
_LEMMAS = _timm(
    "imagenet_synset_to_lemma.txt",
    "1b8babda187421a4bde0c9c5a197c36f6bdda962f7ca11ffb2813806cbb2178f",
)


def class_names(files: Path) -> list[str]:
    """The first name of each of the 1000 classes, in the order of the classifier."""
    lines = (files / _LEMMAS.name).read_text(encoding="utf-8").splitlines()
    names = dict(line.split("\t", 1) for line in lines)
    synsets = (files / _SYNSETS.name).read_text(encoding="utf-8").split()
    return [names[synset].split(",")[0] for synset in synsets]


def _tokenized(files: Path, texts: list[str]) -> dict[str, NDArray[np.int64]]:
    """What the text tower takes of them, padded to the longest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.enable_truncation(minilm.MAX_TOKENS)
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(texts)
    ids = np.array([one.ids for one in found], np.int64)
    mask = np.array([one.attention_mask for one in found], np.int64)
    return dict(zip(_TEXT, (ids, mask, np.zeros_like(ids)), strict=True))


def _towers(classes: NDArray[np.float32]) -> tuple[Any, Any]:
    """Image tower, without weights, and similarity head."""
    import torch
    from torch import nn

    class ImageTower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = efflite0.network()
            self.register_buffer("classes", torch.from_numpy(classes))

        def forward(self, image: Any) -> Any:
            chance, best = self.classifier(image).softmax(1).topk(CLASSES, dim=1)
            mean = (self.classes[best] * chance[:, :, None]).sum(1)
            return nn.functional.normalize(mean, dim=1)

    class Similarity(nn.Module):
        def forward(self, image_embedding: Any, sentence_embedding: Any) -> Any:
            return SCALE * image_embedding @ sentence_embedding.t()

    return ImageTower(), Similarity()


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    text_tower = out / "text_tower.onnx"
    minilm.REFERENCE.build(files, data, text_tower)
    with _opened(text_tower) as session:
        (classes,) = session.run(_tokenized(files, class_names(files))).values()
    image_tower, similarity = _towers(np.asarray(classes, np.float32))
    (weights,) = efflite0.REFERENCE.files
    image_tower.classifier.load_state_dict(
        torch.load(files / weights.name, map_location="cpu", weights_only=True)
    )
    image, embedding = torch.zeros(2, 3, efflite0.SIDE, efflite0.SIDE), torch.eye(3, 384)
    with torch.no_grad():
        torch.onnx.export(
            image_tower.eval(),
            (image,),
            str(out / "image_tower.onnx"),
            input_names=["image"],
            output_names=["image_embedding"],
            dynamic_axes={"image": {0: "images"}, "image_embedding": {0: "images"}},
            opset_version=17,
            dynamo=False,
        )
        torch.onnx.export(
            similarity.eval(),
            (embedding[:2], embedding),
            str(out / "similarity.onnx"),
            input_names=["image_embedding", "sentence_embedding"],
            output_names=["similarity"],
            dynamic_axes={
                "image_embedding": {0: "images"},
                "sentence_embedding": {0: "texts"},
                "similarity": {0: "images", 1: "texts"},
            },
            opset_version=17,
            dynamo=False,
        )


def preprocess(path: Path) -> NDArray[np.float32]:
    """A picture on white, made square, as float32[1, 3, 224, 224] of (x - 127) / 128."""
    from PIL import Image

    picture = Image.open(path).convert("RGBA")
    side = max(picture.size)
    canvas = Image.new("RGBA", (side, side), "white")
    corner = ((side - picture.width) // 2, (side - picture.height) // 2)
    canvas.alpha_composite(picture, corner)
    small = canvas.convert("RGB").resize((efflite0.SIDE, efflite0.SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(small, np.float32)
    return ((pixels - np.float32(127)) / np.float32(128)).transpose(2, 0, 1)[None]


def _stamps(data: Path) -> Iterator[tuple[Path, str]]:
    """Pictures with their English captions; of equal captions the first picture."""
    folder = require(data / "tuxpaint-stamps", "pictures with captions, of Tux Paint")
    seen = set()
    for path in sorted(folder.rglob("*.png")):
        if path.relative_to(folder).parts[0] == SIGNS:
            continue
        table = path.with_suffix(".txt")
        if not table.is_file():
            continue
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
        caption = lines[0].strip() if lines else ""
        if caption and caption not in seen:
            seen.add(caption)
            yield path, caption


def _samples(files: Path, data: Path, out: Path) -> Path:
    """One row a picture with its own caption; `label` is its number among the captions."""
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for i, (path, caption) in enumerate(_stamps(data)):
        np.savez(
            folder / f"{i:04d}.npz",
            image=preprocess(path),
            label=np.int64(i),
            allow_pickle=False,
            **_tokenized(files, [caption]),
        )
    return folder


def _opened(path: Path) -> Any:
    from edgesdk.backend import OpenOptions, require_backend

    return require_backend("onnxruntime").open(path, OpenOptions(threads=1))


def recall(similarity: NDArray[Any], best: int) -> float:
    """How often the diagonal is among the `best` highest of its row, 0 to 1; a tie is no hit."""
    right = np.diagonal(similarity)[:, None]
    ahead = (similarity >= right).sum(axis=1) - 1
    return float((ahead < best).mean())


def _evaluate(folder: Path, most: int | None) -> Mapping[str, Any]:
    paths = sorted((folder / "samples").glob("*.npz"))
    paths = paths[:: -(-len(paths) // most) if most else 1]
    images, texts = [], []
    with _opened(folder / "image_tower.onnx") as see, _opened(folder / "text_tower.onnx") as read:
        for path in paths:
            with np.load(path, allow_pickle=False) as row:
                images.append(see.run({"image": row["image"]})["image_embedding"])
                texts.append(read.run({name: row[name] for name in _TEXT})["sentence_embedding"])
    with _opened(folder / "similarity.onnx") as join:
        given = {
            "image_embedding": np.concatenate(images),
            "sentence_embedding": np.concatenate(texts),
        }
        similarity = join.run(given)["similarity"]
    return {
        "pairs": len(paths),
        "caption_recall_1": recall(similarity, 1),
        "caption_recall_10": recall(similarity, 10),
        "picture_recall_1": recall(similarity.T, 1),
        "picture_recall_10": recall(similarity.T, 10),
    }


PIPELINE = ReferencePipeline(
    name="twotower",
    task="finding captions for pictures",
    files=(*efflite0.REFERENCE.files, *minilm.REFERENCE.files, _SYNSETS, _LEMMAS),
    licence="Apache-2.0",
    modalities={"image": "image", **dict.fromkeys(_TEXT, "text")},
    parts=(
        Part(name="image_tower", inputs={"image": "image"}),
        Part(name="text_tower", inputs={name: name for name in _TEXT}),
        Part(
            name="similarity",
            inputs={
                "image_embedding": "image_tower.image_embedding",
                "sentence_embedding": "text_tower.sentence_embedding",
            },
        ),
    ),
    build=_build,
    samples=_samples,
    evaluate=_evaluate,
)
