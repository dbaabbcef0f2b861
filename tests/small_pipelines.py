"""Small real graphs that pipelines are made of, and the pipelines; all weights come from seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from edgesdk.backend import OpenOptions, require_backend
from edgesdk.executor.app import checked_step
from edgesdk.executor.run import Executor
from edgesdk.pipeline import Pipeline
from edgesdk.usercode import load_object

if TYPE_CHECKING:
    from edgesdk.executor.run import Run

Array = NDArray[Any]
Value = tuple[str, int, Sequence[int | str]]
WIDTH, VOCABULARY = 8, 11


class Graph:
    """Collects nodes and weights, and writes the model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape).astype(np.float32))

    def add(self, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        outs = outputs or (name,)
        self.nodes.append(helper.make_node(op, inputs, outs, name=name, **attributes))
        return outs[0]

    def write(self, path: Path, inputs: Sequence[Value], outputs: Sequence[Value]) -> Path:
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def image_tower(path: Path) -> Path:
    """image float32[batch, 3, 8, 8] -> embedding float32[batch, 8]."""
    g = Graph(1)
    conv = g.add("Conv", ["image", g.weight(WIDTH, 3, 3, 3)])
    pooled = g.add("GlobalAveragePool", [g.add("Relu", [conv])])
    g.add("Flatten", [pooled], "embedding")
    return g.write(
        path,
        [("image", T.FLOAT, ["batch", 3, 8, 8])],
        [("embedding", T.FLOAT, ["batch", WIDTH])],
    )


def text_tower(path: Path) -> Path:
    """ids int64[batch, length] -> embedding float32[batch, 8]."""
    g = Graph(2)
    words = g.add("Gather", [g.weight(VOCABULARY, WIDTH), "ids"])
    g.add("ReduceMean", [words], "embedding", axes=[1], keepdims=0)
    return g.write(
        path,
        [("ids", T.INT64, ["batch", "length"])],
        [("embedding", T.FLOAT, ["batch", WIDTH])],
    )


def similarity(path: Path) -> Path:
    """image_embedding and text_embedding float32[., 8] -> scores float32[images, texts]."""
    g = Graph(3)
    normed = []
    for word in ("image", "text"):
        squares = g.add("ReduceL2", [f"{word}_embedding"], axes=[1], keepdims=1)
        normed.append(g.add("Div", [f"{word}_embedding", squares]))
    g.add("MatMul", [normed[0], g.add("Transpose", [normed[1]], perm=[1, 0])], "scores")
    return g.write(
        path,
        [("image_embedding", T.FLOAT, ["m", WIDTH]), ("text_embedding", T.FLOAT, ["n", WIDTH])],
        [("scores", T.FLOAT, ["m", "n"])],
    )


def fusion(path: Path) -> Path:
    """image, text float32[batch, 8], has_image, has_text float32[batch, 1] -> logits float32[batch, 3]."""
    g = Graph(4)
    parts = [g.add("Mul", [word, f"has_{word}"]) for word in ("image", "text")]
    g.add("MatMul", [g.add("Concat", parts, axis=1), g.weight(2 * WIDTH, 3)], "logits")
    inputs: list[Value] = [(word, T.FLOAT, ["batch", WIDTH]) for word in ("image", "text")]
    inputs += [(f"has_{word}", T.FLOAT, ["batch", 1]) for word in ("image", "text")]
    return g.write(path, inputs, [("logits", T.FLOAT, ["batch", 3])])


def voice(path: Path) -> Path:
    """frame float32[batch, 4], state float32[2, batch, 8] -> speech float32[batch, 1], state_out."""
    g = Graph(5)
    weights = [g.weight(1, 4 * WIDTH, 4), g.weight(1, 4 * WIDTH, WIDTH)]
    x = g.add("Unsqueeze", ["frame", g.constant(np.array([0]))])
    g.add("Split", ["state"], "h", "c", axis=0)
    g.add("LSTM", [x, *weights, "", "", "h", "c"], "", "h_out", "c_out", hidden_size=WIDTH)
    g.add("Concat", ["h_out", "c_out"], "state_out", axis=0)
    last = g.add("Squeeze", ["h_out", g.constant(np.array([0]))])
    g.add("Sigmoid", [g.add("MatMul", [last, g.weight(WIDTH, 1)])], "speech")
    state: Value = ("state", T.FLOAT, [2, "batch", WIDTH])
    return g.write(
        path,
        [("frame", T.FLOAT, ["batch", 4]), state],
        [("speech", T.FLOAT, ["batch", 1]), ("state_out", T.FLOAT, [2, "batch", WIDTH])],
    )


def decoder(path: Path, *, cache: bool = True, memory: bool = False) -> Path:
    """One causal attention layer; with or without a key/value cache, with or without cross-attention.

    input_ids int64[batch, length], mask int64[batch, total], past_key and past_value float32[batch, past, 8],
    memory float32[batch, 8] -> logits float32[batch, length, 11], present_key, present_value.
    """
    g = Graph(6)
    x = g.add("Gather", [g.weight(VOCABULARY, WIDTH), "input_ids"])
    if memory:
        x = g.add("Add", [x, g.add("Unsqueeze", ["memory", g.constant(np.array([1]))])])
    query, key, value = (g.add("MatMul", [x, g.weight(WIDTH, WIDTH)]) for _ in range(3))
    if cache:
        key = g.add("Concat", ["past_key", key], "present_key", axis=1)
        value = g.add("Concat", ["past_value", value], "present_value", axis=1)
    scores = g.add("MatMul", [query, g.add("Transpose", [key], perm=[0, 2, 1])])
    one, axis0, axis1 = (g.constant(v) for v in (np.int64(1), np.array([0]), np.array([1])))
    length = g.add("Squeeze", [g.add("Shape", ["input_ids"], start=1, end=2), axis0])
    total = g.add("Squeeze", [g.add("Shape", [key], start=1, end=2), axis0])
    columns = g.add("Range", [g.constant(np.int64(0)), total, one])
    rows = g.add("Range", [g.add("Sub", [total, length]), total, one])
    seen = g.add("LessOrEqual", [columns, g.add("Unsqueeze", [rows, axis1])])
    if cache:
        masked = g.add("Unsqueeze", [g.add("Cast", ["mask"], to=T.BOOL), axis1])
        seen = g.add("And", [seen, masked])
    weights = g.add("Softmax", [g.add("Where", [seen, scores, g.constant(np.float32(-1e9))])])
    mixed = g.add("Add", [x, g.add("MatMul", [weights, value])])
    g.add("MatMul", [mixed, g.weight(WIDTH, VOCABULARY)], "logits")
    inputs: list[Value] = [("input_ids", T.INT64, ["batch", "length"])]
    outputs: list[Value] = [("logits", T.FLOAT, ["batch", "length", VOCABULARY])]
    if memory:
        inputs.append(("memory", T.FLOAT, ["batch", WIDTH]))
    if cache:
        inputs.append(("mask", T.INT64, ["batch", "total"]))
        inputs += [(f"past_{it}", T.FLOAT, ["batch", "past", WIDTH]) for it in ("key", "value")]
        outputs += [(f"present_{it}", T.FLOAT, ["batch", "all", WIDTH]) for it in ("key", "value")]
    return g.write(path, inputs, outputs)


def detector(path: Path) -> Path:
    """page float32[1, 1, height, width] -> map float32[1, 1, height, width]."""
    g = Graph(7)
    mean = g.constant(np.full((1, 1, 1, 3), 1 / 3, np.float32))
    g.add("Conv", ["page", mean], "map", pads=[0, 1, 0, 1])
    shape: list[int | str] = [1, 1, "height", "width"]
    return g.write(path, [("page", T.FLOAT, shape)], [("map", T.FLOAT, shape)])


def recogniser(path: Path) -> Path:
    """line float32[1, 1, 1, width] -> letters float32[1, width, 5]."""
    g = Graph(8)
    row = g.add("Reshape", ["line", g.constant(np.array([1, -1, 1]))])
    g.add("Softmax", [g.add("MatMul", [row, g.weight(1, 5)])], "letters", axis=-1)
    return g.write(
        path, [("line", T.FLOAT, [1, 1, 1, "width"])], [("letters", T.FLOAT, [1, "width", 5])]
    )


TWO_TOWERS = """
inputs = { image = "image", ids = "text" }
outputs = ["scores"]
[components.image]
model = "image_tower.onnx"
[components.text]
model = "text_tower.onnx"
[components.head]
model = "similarity.onnx"
inputs = { image_embedding = "image.embedding", text_embedding = "text.embedding" }
"""

FUSED = """
[inputs]
image = { modality = "image", missing = "skip" }
ids = { modality = "text", missing = "skip" }
turn = { modality = "number", shape = ["batch"] , dtype = "int64"}
[components.image]
model = "image_tower.onnx"
[components.text]
model = "text_tower.onnx"
[components.fusion]
model = "fusion.onnx"
[components.fusion.inputs]
image = { from = "image.embedding", missing = { value = 0.0, shape = ["batch", 8] } }
text = { from = "text.embedding", missing = { value = 0.0, shape = ["batch", 8] } }
has_image = { present = "image", shape = ["batch", 1] }
has_text = { present = "text.embedding", shape = ["batch", 1] }
[components.count]
function = "count.py:count"
takes = { turn = "int64[batch]" }
gives = { turned = "int64[batch]" }
[outputs]
logits = "fusion.logits"
turned = "count.turned"
seen = { from = "image.embedding", optional = true }
"""

LISTEN = """
inputs = { frames = "audio" }
outputs = { speech = "listen.speech", state = "listen.state" }
[components.voice]
model = "voice.onnx"
inputs.frame = { each = "frames" }
inputs.state = { start = { value = 0.0, shape = [2, 1, 8] }, next = "voice.state_out" }
[loops.listen]
components = ["voice"]
gives.speech = { from = "voice.speech", join = 0 }
gives.state = "voice.state_out"
"""

CHAT = """
inputs = { prompt = "text", mask = "text" }
outputs = { tokens = "generate.tokens" }
[components.decoder]
model = "decoder.onnx"
[components.decoder.inputs]
input_ids = { start = "prompt", next = "generate.token" }
mask = { start = "mask", append = { value = 1, shape = ["batch", 1] }, axis = 1 }
past_key = { start = { value = 0.0, shape = ["batch", 0, 8] }, next = "decoder.present_key" }
past_value = { start = { value = 0.0, shape = ["batch", 0, 8] }, next = "decoder.present_value" }
[loops.generate]
components = ["decoder"]
token = "decoder.logits"
steps = 7
end = END
gives.tokens = { from = "token", join = 1 }
"""

PLAIN_CHAT = """
inputs = { prompt = "text" }
outputs = { tokens = "generate.tokens" }
[components.plain]
model = "plain.onnx"
inputs.input_ids = { start = "prompt", append = "generate.token", axis = 1 }
[loops.generate]
components = ["plain"]
token = "plain.logits"
steps = 7
gives.tokens = { from = "token", join = 1 }
"""

CAPTION = """
inputs = { image = "image" }
outputs = { tokens = "caption.tokens" }
[components.encoder]
model = "image_tower.onnx"
[components.first]
model = "first.onnx"
inputs = { input_ids = { value = 1, shape = ["batch", 1] }, memory = "encoder.embedding", mask = \
{ value = 1, shape = ["batch", 1] }, past_key = { value = 0, shape = ["batch", 0, 8] }, past_value = \
{ value = 0, shape = ["batch", 0, 8] } }
[components.decoder]
model = "first.onnx"
[components.decoder.inputs]
input_ids = { start = "caption.token", next = "caption.token" }
memory = "encoder.embedding"
mask = { start = { value = 1, shape = ["batch", 2] }, append = { value = 1, shape = ["batch", 1] }, axis = 1 }
past_key = { start = "first.present_key", next = "decoder.present_key" }
past_value = { start = "first.present_value", next = "decoder.present_value" }
[loops.caption]
components = ["decoder"]
token = "decoder.logits"
token_start = "first.logits"
steps = 5
gives.tokens = { from = "token", join = 1 }
"""

READ = """
inputs = { page = "image" }
outputs = { letters = "read.letters" }
[components.detector]
model = "detector.onnx"
[components.crop]
function = "crop.py:crop"
takes = { page = "float32[1, 1, h, w]", map = "float32[1, 1, h, w]" }
gives = { lines = "float32[n, 1, 1, w]" }
[components.recogniser]
model = "recogniser.onnx"
inputs.line = { each = "crop.lines" }
[loops.read]
components = ["recogniser"]
gives.letters = { from = "recogniser.letters", join = 0 }
"""


CROP = '''
import numpy as np


def crop(feed):
    """One line for each row of the page in which the detector sees something."""
    rows = np.flatnonzero(feed["map"][0, 0].max(axis=1) > 0.5)
    return {"lines": feed["page"][0, 0][rows][:, None, None, :]}
'''


def runs_of(pipeline: Pipeline) -> dict[str, Run]:
    """The float components on onnxruntime, and the app's own steps."""
    engine = require_backend("onnxruntime")
    runs: dict[str, Run] = {}
    for component in pipeline.components:
        runs[component.name] = engine.open(component.model.path, OpenOptions()).run
    for name, reference in pipeline.functions.items():
        runs[name] = checked_step(pipeline.wiring.stage(name), load_object(reference))
    return runs


def executor_of(pipeline: Pipeline, **options: Any) -> Executor:
    return Executor(pipeline.wiring, runs_of(pipeline), **options)


def write_folder(folder: Path, text: str, *makers: Any, **named: Mapping[str, Any]) -> Path:
    """A `pipeline.toml` with its models beside it, each called as its maker."""
    for maker in makers:
        maker(folder / f"{maker.__name__}.onnx")
    for name, options in named.items():
        decoder(folder / f"{name}.onnx", **options)
    (folder / "pipeline.toml").write_text(text, encoding="utf-8")
    return folder / "pipeline.toml"
