"""ResNet-18 trained here on Fashion-MNIST: 11.2 M parameters, the network in which int8 pays most.

The standard residual stages (He et al., arXiv 1512.03385) behind a stem of one 3x3 convolution
and a pooling, as usual for small images. Trained for a few minutes on the CPU from a fixed seed,
because no package carries such weights; results differ slightly between machines, so compare
within one.
Data: Fashion-MNIST (MIT), the four `.gz` files of Debian's `dataset-fashion-mnist`, in
`fashion-mnist/`.
Metric: top-1 accuracy on the test images; none of them is seen in training.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.reference import DataMissingError, Reference

_INSTALLED = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts them
MEAN, SPREAD = 0.286, 0.353  # of the training pixels, in 0 to 1
TRAINED_ON = 15_000
EPOCHS = 2
BATCH = 128
PEAK_RATE = 0.1
SAMPLES = 2_000


def _folder(data: Path) -> Path:
    for folder in (data / "fashion-mnist", _INSTALLED):
        if (folder / "train-images-idx3-ubyte.gz").is_file():
            return folder
    raise DataMissingError(
        f"Fashion-MNIST is neither in {data / 'fashion-mnist'} nor in {_INSTALLED}; "
        "on Debian: apt-get install dataset-fashion-mnist"
    )


def _load(folder: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images float32[n, 1, 28, 28], normalized, and labels int64[n] of `train` or `t10k`."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8).astype(np.int64)
    return ((pixels / 255 - MEAN) / SPREAD).astype(np.float32), labels


def _network() -> Any:
    from torch import nn

    def unit(ins: int, outs: int, kernel: int, stride: int = 1) -> list[Any]:
        conv = nn.Conv2d(ins, outs, kernel, stride, padding=kernel // 2, bias=False)
        return [conv, nn.BatchNorm2d(outs)]

    class Block(nn.Module):
        def __init__(self, ins: int, outs: int, stride: int) -> None:
            super().__init__()
            self.main = nn.Sequential(*unit(ins, outs, 3, stride), nn.ReLU(), *unit(outs, outs, 3))
            same = stride == 1 and ins == outs
            self.side = nn.Identity() if same else nn.Sequential(*unit(ins, outs, 1, stride))
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.main(x) + self.side(x))

    layers = [*unit(1, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    ins = 64
    for outs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(ins, outs, stride), Block(outs, outs, 1)]
        ins = outs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def _train(network: Any, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Stochastic gradient descent with one cycle of the learning rate, in bfloat16."""
    import torch

    x = torch.from_numpy(images).to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels)
    steps = len(x) // BATCH
    optimizer = torch.optim.SGD(
        network.parameters(), lr=PEAK_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=EPOCHS * steps
    )
    network.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x))
        for i in range(steps):
            rows = order[i * BATCH : (i + 1) * BATCH]
            batch = x[rows]
            if i % 2:
                batch = batch.flip(3)  # a shirt seen in a mirror is a shirt
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(network(batch), y[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
    network.eval()


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    images, labels = _load(_folder(data), "train")
    torch.manual_seed(0)
    network = _network().to(memory_format=torch.channels_last)
    _train(network, images[:TRAINED_ON], labels[:TRAINED_ON])
    with torch.no_grad():
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 28, 28),),
            str(out),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _samples(files: Path, data: Path, out: Path) -> Path:
    images, labels = _load(_folder(data), "t10k")
    path = out / "samples.npz"
    np.savez(path, image=images[:SAMPLES], label=labels[:SAMPLES])
    return path


REFERENCE = Reference(
    name="resnet",
    task="image classification",
    files=(),
    licence="MIT",
    metric="top1",
    build=_build,
    samples=_samples,
    marks="top-1 0.894 in float on the machine it was first trained on",
)
