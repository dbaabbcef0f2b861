"""ResNet-50 trained here on Fashion-MNIST: 23.5 M parameters, far more than these images need.

The bottleneck architecture of He et al. (arXiv 1512.03385), whose stem halves the image twice as theirs
does (by a 3x3 convolution instead of their 7x7, as the images are small), trained on the CPU from a
fixed seed; results differ slightly between machines, so compare within one. Large networks that were
taken for a small task are what structural compression is for.
Data, metric: as `resnet`. Beside the samples lie training images without labels, `unlabelled.npz`,
for calibration and distillation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.models import resnet
from benchmarks.models.reference import Reference

TRAINED_ON = 24_000
EPOCHS = 3
PEAK_RATE = 0.03
UNLABELLED = 20_000


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    torch.manual_seed(0)
    made = resnet.network((3, 4, 6, 3), bottlenecks=True, stem_stride=2)
    resnet.build(made, data, out, trained_on=TRAINED_ON, epochs=EPOCHS, rate=PEAK_RATE)


def _samples(files: Path, data: Path, out: Path) -> Path:
    images, _ = resnet.load(data, "train")
    np.savez(out / "unlabelled.npz", image=images[:UNLABELLED])
    return resnet.samples(files, data, out)


REFERENCE = Reference(
    name="resnet50",
    task="image classification",
    files=(),
    licence="MIT",
    metric="top1",
    build=_build,
    samples=_samples,
)
