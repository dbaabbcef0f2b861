"""Models that many tests share: real ones that `make test` fetches, small ones made from a seed."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper

from edgesdk.errors import BackendUnavailable, StepFailed
from edgesdk.files import read_json, write_json
from edgesdk.toolbox import environment

# Others use the machine: how long an example takes says nothing.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

FETCHED = Path(__file__).resolve().parent.parent / ".models"
OPSET = 17
IR_VERSION = 8


def _fetched(name: str) -> Path:
    path = FETCHED / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; run: python tools/fetch_models.py")
    return path


@pytest.fixture(scope="session")
def rec_model() -> Path:
    """PP-OCRv4 recogniser: x float32[N, 3, 48, W] -> probabilities [N, W/8, 6625]."""
    return _fetched("ch_PP-OCRv4_rec_infer.onnx")


@pytest.fixture(scope="session")
def det_model() -> Path:
    """PP-OCRv4 detector: x float32[N, 3, H, W] -> map [N, 1, H, W]; H and W are multiples of 32."""
    return _fetched("ch_PP-OCRv4_det_infer.onnx")


@pytest.fixture(scope="session")
def cls_model() -> Path:
    """PP-OCR line direction: x float32[N, 3, 48, 192] -> probabilities [N, 2]."""
    return _fetched("ch_ppocr_mobile_v2.0_cls_infer.onnx")


@pytest.fixture(scope="session")
def vad_model() -> Path:
    """silero-vad: input float32[N, 576], state float32[2, N, 128], sr int64 -> output, stateN.

    Recurrent, with `If` and `LSTM` nodes whose weights live inside the branches.
    """
    return _fetched("silero_vad.onnx")


@pytest.fixture(scope="session")
def one_conversion_each(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let one process of the converter answer all tests, and convert the same graph only once.

    Conversions in child processes of a test stay as they are.
    """
    from edgesdk_backends.litert import converting, program

    try:  # the first use on a machine makes it, which takes the network
        python = environment(converting.CONVERTER)
    except BackendUnavailable as exc:
        pytest.fail(f"these tests convert with onnx2tf, whose environment is not there: {exc}")
    convert = converting.to_tflite
    known: dict[str, Path | StepFailed] = {}

    def remembered(model: Path, _: Path) -> Path:
        key = hashlib.sha256(onnx.load(model).SerializeToString(deterministic=True)).hexdigest()
        if key not in known:
            try:
                known[key] = convert(model, tmp_path_factory.mktemp("converted"))
            except StepFailed as exc:
                known[key] = exc
        made = known[key]
        if isinstance(made, StepFailed):
            raise StepFailed(str(made))
        return made

    server = Path(__file__).with_name("resident_converter.py")
    with (
        subprocess.Popen(
            [str(python), "-P", "-s", str(server), program.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        pytest.MonkeyPatch.context() as patch,
    ):

        def answered(
            _tools: Any, _program: Path, request: dict[str, Any], folder: Path, **_: Any
        ) -> dict[str, Any]:
            write_json(folder / "request.json", request)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{folder / 'request.json'}\n")
            process.stdin.flush()
            assert process.stdout.readline(), "the converter crashed"
            answer: dict[str, Any] = read_json(folder / "response.json")
            if "error" in answer:
                raise StepFailed(f"onnx2tf: {answer['error']}")
            return answer

        patch.setattr(converting, "run_tool", answered)
        patch.setattr(converting, "to_tflite", remembered)
        yield


@pytest.fixture(scope="session")
def small_cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions, one of them depthwise: image float32[N, 3, 32, 32] -> logits float32[N, 10]."""
    weights = Weights(seed=1)
    nodes = [
        weights.node("Conv", ["image"], "a", (16, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], name="relu_1"),
        weights.node("Conv", ["b"], "c", (16, 1, 3, 3), pads=[1, 1, 1, 1], group=16),
        helper.make_node("Relu", ["c"], ["d"], name="relu_2"),
        weights.node("Conv", ["d"], "e", (32, 16, 1, 1)),
        helper.make_node("Relu", ["e"], ["f"], name="relu_3"),
        weights.node("Conv", ["f"], "g", (32, 32, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["g"], ["h"], name="relu_4"),
        helper.make_node("GlobalAveragePool", ["h"], ["i"], name="pool"),
        helper.make_node("Flatten", ["i"], ["j"], name="flatten"),
        weights.node("Gemm", ["j"], "logits", (10, 32), transB=1),
    ]
    return _write(
        tmp_path_factory.mktemp("small_cnn"),
        nodes,
        weights,
        inputs=[("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        outputs=[("logits", TensorProto.FLOAT, ["N", 10])],
    )


@pytest.fixture(scope="session")
def small_mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dense layers: x float32[N, 64] -> y float32[N, 8]."""
    weights = Weights(seed=2)
    nodes = [
        weights.node("Gemm", ["x"], "a", (128, 64), transB=1),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        weights.node("Gemm", ["b"], "y", (8, 128), transB=1),
    ]
    return _write(
        tmp_path_factory.mktemp("small_mlp"),
        nodes,
        weights,
        inputs=[("x", TensorProto.FLOAT, ["N", 64])],
        outputs=[("y", TensorProto.FLOAT, ["N", 8])],
    )


@pytest.fixture(scope="session")
def small_attention(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One attention block, one dense: ids int64[N, T] of 0 to 99 -> states float32[N, T, 32]."""
    width = 32
    weights = Weights(seed=3)
    table = weights.add((100, width), scale=1.0)
    scale = weights.constant(np.float32(width**-0.5))
    nodes = [helper.make_node("Gather", [table, "ids"], ["x"], name="embedding")]
    for letter in "qkv":
        nodes.append(weights.matmul("x", letter, (width, width)))
    nodes += [
        helper.make_node("Transpose", ["k"], ["kt"], name="transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["qk"], name="scores"),
        helper.make_node("Mul", ["qk", scale], ["scaled"], name="scale"),
        helper.make_node("Softmax", ["scaled"], ["attention"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["attention", "v"], ["mixed"], name="mix"),
        weights.matmul("mixed", "projected", (width, width)),
        helper.make_node("Add", ["x", "projected"], ["residual"], name="residual"),
        weights.layer_norm("residual", "normed", width),
        weights.matmul("normed", "wide", (width, 4 * width)),
        helper.make_node("Relu", ["wide"], ["active"], name="relu"),
        weights.matmul("active", "narrow", (4 * width, width)),
        helper.make_node("Add", ["normed", "narrow"], ["states"], name="residual_2"),
    ]
    return _write(
        tmp_path_factory.mktemp("small_attention"),
        nodes,
        weights,
        inputs=[("ids", TensorProto.INT64, ["N", "T"])],
        outputs=[("states", TensorProto.FLOAT, ["N", "T", width])],
    )


@pytest.fixture(scope="session")
def small_lstm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-way LSTM and a dense layer: x float32[T, N, 8] (time first) -> y float32[T, N, 4]."""
    hidden = 16
    weights = Weights(seed=4)
    shapes = (2, 4 * hidden, 8), (2, 4 * hidden, hidden)
    inputs = [weights.add(shape, scale=0.5) for shape in shapes]
    axes = weights.constant(np.array([0, 0, -1], np.int64))
    nodes = [
        helper.make_node(
            "LSTM",
            ["x", *inputs],
            ["h"],
            name="lstm",
            hidden_size=hidden,
            direction="bidirectional",
        ),
        helper.make_node("Transpose", ["h"], ["h_time_first"], name="transpose", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["h_time_first", axes], ["flat"], name="flatten"),
        weights.matmul("flat", "y", (2 * hidden, 4)),
    ]
    return _write(
        tmp_path_factory.mktemp("small_lstm"),
        nodes,
        weights,
        inputs=[("x", TensorProto.FLOAT, ["T", "N", 8])],
        outputs=[("y", TensorProto.FLOAT, ["T", "N", 4])],
    )


class Weights:
    """Initializers of one graph, drawn from a seed so that every run tests the same numbers."""

    def __init__(self, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray | np.generic) -> str:
        """Add a given array; returns its name."""
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, shape: Sequence[int], scale: float | None = None) -> str:
        """Add normal values, scaled by default so that activations keep their size."""
        fan_in = int(np.prod(shape[1:]))
        spread = scale if scale is not None else (2 / fan_in) ** 0.5
        return self.constant(self._rng.normal(0, spread, shape).astype(np.float32))

    def node(
        self, op: str, inputs: list[str], output: str, shape: Sequence[int], **attributes: Any
    ) -> onnx.NodeProto:
        """A Conv or Gemm with weight and bias, first axis of the weight = output channels."""
        bias = self._rng.normal(0, 0.1, shape[0]).astype(np.float32)
        names = [*inputs, self.add(shape), self.constant(bias)]
        return helper.make_node(op, names, [output], name=f"{op.lower()}_{output}", **attributes)

    def matmul(self, source: str, output: str, shape: tuple[int, int]) -> onnx.NodeProto:
        """A MatMul by a weight of [inputs, outputs]."""
        weight = self.add(shape, scale=(1 / shape[0]) ** 0.5)
        return helper.make_node("MatMul", [source, weight], [output], name=f"matmul_{output}")

    def layer_norm(self, source: str, output: str, width: int) -> onnx.NodeProto:
        """LayerNormalization over the last axis."""
        names = [source, self.constant(np.ones(width, np.float32))]
        names.append(self.constant(np.zeros(width, np.float32)))
        return helper.make_node(
            "LayerNormalization", names, [output], name=f"norm_{output}", axis=-1
        )


def _write(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: Weights,
    *,
    inputs: Sequence[tuple[str, int, list[str | int]]],
    outputs: Sequence[tuple[str, int, list[str | int]]],
) -> Path:
    graph = helper.make_graph(
        nodes,
        folder.name,
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
        weights.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path
