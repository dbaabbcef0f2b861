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


def load(data: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images float32[n, 1, 28, 28], normalized, and labels int64[n] of `train` or `t10k`.

    Raises:
        DataMissingError: it is not there; says how to get it.
    """
    folder = _folder(data)
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8).astype(np.int64)
    return ((pixels / 255 - MEAN) / SPREAD).astype(np.float32), labels


def _unit(ins: int, outs: int, kernel: int, stride: int = 1) -> list[Any]:
    from torch import nn

    conv = nn.Conv2d(ins, outs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outs)]


def _plain(ins: int, width: int, stride: int) -> list[Any]:
    """Two 3x3 convolutions, as in ResNet-18."""
    from torch import nn

    return [*_unit(ins, width, 3, stride), nn.ReLU(), *_unit(width, width, 3)]


def _bottleneck(ins: int, width: int, stride: int) -> list[Any]:
    """1x1 down, 3x3, 1x1 up to four times the width, as in ResNet-50."""
    from torch import nn

    first = [*_unit(ins, width, 1), nn.ReLU(), *_unit(width, width, 3, stride), nn.ReLU()]
    return [*first, *_unit(width, 4 * width, 1)]


def network(depths: tuple[int, int, int, int], *, bottlenecks: bool, stem_stride: int = 1) -> Any:
    """A residual network for images float32[n, 1, 28, 28], to ten classes.

    Args:
        depths: blocks in each stage.
        bottlenecks: of three convolutions instead of two.
        stem_stride: of the first convolution.
    """
    from torch import nn

    make, widening = (_bottleneck, 4) if bottlenecks else (_plain, 1)

    class Block(nn.Module):
        def __init__(self, ins: int, width: int, stride: int) -> None:
            super().__init__()
            outs = width * widening
            self.main = nn.Sequential(*make(ins, width, stride))
            if bottlenecks:  # each block begins as its side alone, so that deep ones train at once
                nn.init.zeros_(self.main[-1].weight)
            same = stride == 1 and ins == outs
            self.side = nn.Identity() if same else nn.Sequential(*_unit(ins, outs, 1, stride))
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.main(x) + self.side(x))

    layers = [*_unit(1, 64, 3, stem_stride), nn.ReLU(), nn.MaxPool2d(2)]
    ins = 64
    for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
        for number in range(depth):
            layers.append(Block(ins, width, 2 if stage and not number else 1))
            ins = width * widening
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ins, 10))


def _train(
    network: Any, images: NDArray[np.float32], labels: NDArray[np.int64], epochs: int, rate: float
) -> None:
    """Stochastic gradient descent with one cycle of the learning rate, in bfloat16."""
    import torch

    x = torch.from_numpy(images).to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels)
    steps = len(x) // BATCH
    optimizer = torch.optim.SGD(
        network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=epochs * steps
    )
    network.train()
    for epoch in range(epochs):
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
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    network.eval()


def build(
    made: Any, data: Path, out: Path, *, trained_on: int, epochs: int, rate: float = PEAK_RATE
) -> None:
    """Train a network on Fashion-MNIST's first training images, and write it as ONNX."""
    import torch

    images, labels = load(data, "train")
    made = made.to(memory_format=torch.channels_last)
    _train(made, images[:trained_on], labels[:trained_on], epochs, rate)
    with torch.no_grad():
        torch.onnx.export(
            made,
            (torch.zeros(1, 1, 28, 28),),
            str(out),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    torch.manual_seed(0)
    made = network((2, 2, 2, 2), bottlenecks=False)
    build(made, data, out, trained_on=TRAINED_ON, epochs=EPOCHS)


def samples(files: Path, data: Path, out: Path) -> Path:
    """The first test images with their labels."""
    images, labels = load(data, "t10k")
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
    samples=samples,
    marks="top-1 0.894 in float on the machine it was first trained on",
)
