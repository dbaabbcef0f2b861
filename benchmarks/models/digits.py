"""Spoken digits: two convolutions and a bidirectional LSTM over log-mel frames, 0.19 M parameters.

Trained here from a fixed seed, because no package carries such weights, on all speakers but one:
results differ slightly between machines, so compare within one.
Data: `fsdd.tar.gz`, the Free Spoken Digit Dataset, 3000 recordings of six speakers at 8 kHz
(CC-BY-SA-4.0); this project does not ship it.
Metric: top-1 accuracy over ten digits on the 500 recordings of the speaker held out. Beside the samples
lie the recordings of the others without labels, `unlabelled.npz`, for calibration and distillation.
"""

from __future__ import annotations

import io
import tarfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.reference import DataMissingError, Reference, require

RATE = 8_000
WINDOW, HOP, FRAMES, MELS = 200, 80, 100, 40  # 25 ms every 10 ms, the first second
HELD_OUT = "theo"
EPOCHS, BATCH, PEAK_RATE = 25, 64, 5e-3
SHIFT, NOISE = 10, 0.05  # frames, and spread in units of the features: what training varies

Floats = NDArray[np.float32]


def _mel_filters() -> Floats:
    """float32[MELS, WINDOW // 2 + 1]: triangles at equal distances in mel, 2595 log10(1 + f / 700)."""
    tops = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), MELS + 2) / 2595) - 1)
    left, centre, right = tops[:-2, None], tops[1:-1, None], tops[2:, None]
    at = np.fft.rfftfreq(WINDOW, 1 / RATE)[None]
    slopes = np.minimum((at - left) / (centre - left), (right - at) / (right - centre))
    return np.maximum(slopes, 0).astype(np.float32)


def _features(stream: io.BytesIO, filters: Floats) -> Floats:
    """float32[FRAMES, MELS] of a recording: log energies, of silence behind its end."""
    with wave.open(stream) as sound:
        raw = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)[:RATE]
    padded = np.pad(raw / 32768, (WINDOW // 2, WINDOW // 2 + RATE - len(raw)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:FRAMES]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW + 1)[:-1], axis=1)) ** 2
    return np.log(np.maximum(power @ filters.T, 1e-7)).astype(np.float32)


def _load(data: Path) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Features [n, FRAMES, MELS] with mean 0 and spread 1 over the speakers trained on, digits, held out?"""
    archive = require(data / "fsdd.tar.gz", "spoken digits")
    filters, rows, digits, held = _mel_filters(), [], [], []
    with tarfile.open(archive) as tar:
        for name in sorted(one for one in tar.getnames() if one.endswith(".wav")):
            stream = tar.extractfile(name)
            if stream is None:
                raise DataMissingError(f"{name} is not a file in the archive")
            digit, speaker, _ = Path(name).stem.split("_")
            rows.append(_features(io.BytesIO(stream.read()), filters))
            digits.append(int(digit))
            held.append(speaker == HELD_OUT)
    features, apart = np.stack(rows), np.array(held)
    known = features[~apart]
    return (features - known.mean()) / known.std(), np.array(digits, np.int64), apart


def _network() -> Any:
    import torch
    from torch import nn

    def block(ins: int, outs: int) -> Any:
        conv = nn.Conv1d(ins, outs, 5, padding=2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm1d(outs), nn.ReLU(), nn.MaxPool1d(2))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(block(MELS, 64), block(64, 96))
            self.lstm = nn.LSTM(96, 96, batch_first=True, bidirectional=True)
            self.last = nn.Linear(192, 10)

        def forward(self, mel: Any) -> Any:
            frames = self.convs(mel.transpose(1, 2)).transpose(1, 2)
            return self.last(self.lstm(frames)[0].mean(1))

    torch.manual_seed(0)
    return Network()


def _train(network: Any, features: Floats, digits: NDArray[np.int64]) -> None:
    import torch

    x, y = torch.from_numpy(features), torch.from_numpy(digits)
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=EPOCHS * steps
    )
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            shift = int(torch.randint(-SHIFT, SHIFT + 1, ()))
            batch = torch.roll(x[rows], shift, 1)
            batch = batch + NOISE * torch.randn_like(batch)
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(network(batch), y[rows]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    features, digits, held = _load(data)
    network = _network()
    _train(network, features[~held], digits[~held])
    with torch.no_grad():
        torch.onnx.export(
            network,
            (torch.from_numpy(features[:2]),),
            str(out),
            input_names=["mel"],
            output_names=["logits"],
            dynamic_axes={"mel": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _samples(files: Path, data: Path, out: Path) -> Path:
    features, digits, held = _load(data)
    np.savez(out / "unlabelled.npz", mel=features[~held])
    path = out / "samples.npz"
    np.savez(path, mel=features[held], label=digits[held])
    return path


REFERENCE = Reference(
    name="digits",
    task="spoken digits",
    files=(),
    licence="MIT",
    metric="top1",
    build=_build,
    samples=_samples,
)
