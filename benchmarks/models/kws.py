"""Keyword spotter of MLPerf Tiny: depthwise-separable convolutions, 22.6 k parameters.

Weights: `mlperf-tiny/kws_ref_model_float32.tflite` of mlcommons/tiny (Apache-2.0), converted here
with `tflite2onnx==0.4.1`; its "float" file stores weights as int8 with one scale a channel, so
they are widened to the float values that the file stands for. The batch is fixed at 1 and the
opset is 11.
Data: `kws01.tar.gz`, 1000 spoken keywords as int8 features (copyright EEMBC, for measurements
only); this project does not ship it.
Metric: top-1 accuracy over the 12 classes.
"""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.reference import DataMissingError, Reference, require

# Input quantization of the int8 model of the same release: float = (int8 - zero point) * scale.
SCALE, ZERO_POINT = np.float32(0.5847029089927673), np.float32(83)


def _scales(tflite_file: Path) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Scales and their axis of every quantized tensor in a TFLite file, by name."""
    import tflite

    model = tflite.Model.GetRootAsModel(tflite_file.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        quantization = tensor.Quantization()
        if quantization is not None and quantization.ScaleLength():
            name = tensor.Name().decode()
            found[name] = quantization.ScaleAsNumpy(), quantization.QuantizedDimension()
    return found


def _widen(weight: Any, scales: dict[str, tuple[NDArray[np.float32], int]]) -> Any:
    """An int8 initializer as the float32 it stands for; the converter may lengthen its name."""
    from onnx import numpy_helper

    found = [name for name in scales if weight.name == name or weight.name.startswith(f"{name}_")]
    scale, axis = scales[max(found, key=len)]
    values = numpy_helper.to_array(weight)
    if scale.size > 1:
        # The converter moves TFLite's axis of scales (output channels) to ONNX's first or last one.
        axis = next(i for i, length in enumerate(values.shape) if length == scale.size)
        scale = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return numpy_helper.from_array((values * scale).astype(np.float32), weight.name)


def _build(files: Path, data: Path, out: Path) -> None:
    import onnx
    import tflite2onnx

    source = require(
        data / "mlperf-tiny" / "kws_ref_model_float32.tflite", "MLPerf Tiny's keyword spotter"
    )
    tflite2onnx.convert(str(source), str(out))
    model = onnx.load(out)
    scales = _scales(source)
    int8 = onnx.TensorProto.INT8
    for weight in model.graph.initializer:
        if weight.data_type == int8:
            weight.CopyFrom(_widen(weight, scales))
    stale = [info for info in model.graph.value_info if info.type.tensor_type.elem_type == int8]
    for info in stale:
        model.graph.value_info.remove(info)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)


def _samples(files: Path, data: Path, out: Path) -> Path:
    archive = require(data / "kws01.tar.gz", "the keyword stimuli of MLPerf Tiny's energy runner")
    features, labels = [], []
    with tarfile.open(archive) as tar:
        table = _read(tar, "kws01/y_labels.csv").decode()
        for name, _, label in csv.reader(io.StringIO(table)):
            raw = np.frombuffer(_read(tar, f"kws01/{name}"), np.int8)
            features.append(((raw - ZERO_POINT) * SCALE).reshape(1, 49, 10))
            labels.append(int(label))
    path = out / "samples.npz"
    np.savez(path, input_1=np.stack(features).astype(np.float32), label=np.array(labels))
    return path


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        raise DataMissingError(f"{name} is not a file in the archive")
    return stream.read()


REFERENCE = Reference(
    name="kws",
    task="keyword spotting",
    files=(),
    licence="Apache-2.0",
    metric="top1",
    build=_build,
    samples=_samples,
    marks="top-1 0.901 in float, 0.902 for the vendor's int8 model",
)
