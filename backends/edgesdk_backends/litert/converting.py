"""The converter, in an environment that edgesdk makes for it: its pins conflict with everyone's."""

from __future__ import annotations

import re
from pathlib import Path

from edgesdk.errors import ModelError, StepFailed
from edgesdk.toolbox import Toolset, run_tool
from edgesdk_backends.litert import program

CONVERTER = Toolset(
    name="onnx2tf",
    pins=(
        "onnx2tf==2.6.9",
        # As it pins them itself, without those that this path never imports (TensorFlow, onnxruntime,
        # OpenCV, HDF5, pytest, simplifiers). It declares Python 3.12; this path runs on 3.11 too.
        "ai-edge-litert==2.1.2",
        "flatbuffers==25.12.19",
        "ml-dtypes==0.5.4",
        "numpy==2.2.6",
        "onnx==1.20.1",
        "protobuf==7.35.1",
        "psutil==5.9.5",
        "sne4onnx==2.0.1",
        "sng4onnx==2.0.1",
        "tqdm==4.67.1",
        "backports.strenum==1.2.8",
        "typing_extensions==4.16.0",
    ),
)
TIMEOUT_S = 900.0

_REFUSED = re.compile(r"op=(\S+) node=(.*?) reason_code=(\S+) message=(.*)", re.DOTALL)


def _described(model: Path, folder: Path) -> Path:
    """A copy that says the shape of every tensor, as far as it can be told, in nodes that convert well.

    Without them the converter takes some layers' shapes wrong, and a text encoder came out as NaN.
    """
    from edgesdk.compress import onnx_io
    from edgesdk.onnxfile.open import open_onnx
    from edgesdk.onnxfile.shapes import infer
    from edgesdk_backends.litert.rewriting import pool_means

    proto = onnx_io.read_whole(model)
    try:
        told = infer(open_onnx(model).proto).graph.value_info
    except ModelError:
        told = proto.graph.value_info  # the converter then makes do with its own inference
    known = list(told)
    made = {name for node in proto.graph.node for name in node.output}
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(value for value in known if value.name in made)
    pool_means(
        proto.graph,
        {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*proto.graph.input, *proto.graph.value_info)
            if value.type.tensor_type.HasField("shape")
        },
    )
    return onnx_io.write(proto, folder / "described.onnx")


def to_tflite(model: Path, folder: Path) -> Path:
    """A float TFLite file of an ONNX model, written below `folder` among other things.

    Raises:
        StepFailed: it has an operator, a type or a shape that cannot be converted; names the node
            where the converter does.
        BackendUnavailable: the converter's environment cannot be made.
    """
    described = _described(model, folder)
    request = {"model": str(described.resolve()), "out": str(folder.resolve())}
    try:
        answer = run_tool(CONVERTER, Path(program.__file__), request, folder, timeout_s=TIMEOUT_S)
    except StepFailed as exc:
        told = _REFUSED.search(str(exc))
        if told is None:
            raise
        op, node, code, why = told.groups()
        raise StepFailed(
            f"onnx2tf cannot convert {op} {node!r}: {why} ({code})", kind=exc.kind, log=exc.log
        ) from exc
    return Path(answer["path"])
