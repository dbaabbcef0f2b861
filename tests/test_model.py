"""Facts of real and made models, against figures worked out by hand or by numpy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgesdk.errors import ModelError
from edgesdk.files import sha256_file
from edgesdk.model import Model, check_readable, node_facts, read_model, unknown_ops
from edgesdk.onnxfile.macs import count_macs
from edgesdk.onnxfile.nodes import NodeFacts
from edgesdk.onnxfile.shapes import infer
from edgesdk.signature import TensorInfo


def save(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str] | None],
    weights: Sequence[TensorProto] = (),
    opset: int = 17,
    imports: dict[str, int] | None = None,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        list(weights),
    )
    opsets = [helper.make_opsetid(d, v) for d, v in ({"": opset} | (imports or {})).items()]
    path = folder / "made.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    return path


def zeros(name: str, *dims: int) -> TensorProto:
    count = 1
    for dim in dims:
        count *= dim
    return helper.make_tensor(name, TensorProto.FLOAT, dims, bytes(4 * count), raw=True)


def by_op(nodes: Sequence[NodeFacts], op: str) -> NodeFacts:
    return next(node for node in nodes if node.op == op)


def total(nodes: Sequence[NodeFacts]) -> int:
    assert all(node.macs is not None for node in nodes)
    return sum(node.macs or 0 for node in nodes)


# --- real models


def test_the_recogniser_has_its_known_facts(rec_model: Path) -> None:
    model = read_model(rec_model)
    assert model.parameters == 2_690_407  # weights are Constant nodes, not initializers
    assert model.opset == 12
    assert model.sha256 == sha256_file(rec_model)
    assert model.file_bytes == rec_model.stat().st_size
    assert model.inputs == (
        TensorInfo(
            name="x",
            dtype="float32",
            shape=("p2o.DynamicDimension.0", 3, None, "p2o.DynamicDimension.1"),
        ),
    )
    assert model.outputs[0].shape[2] == 6625
    assert "character" in model.metadata
    assert unknown_ops(model) == ()


def test_every_node_of_the_recogniser_is_counted_once_its_width_is_fixed(rec_model: Path) -> None:
    model = read_model(rec_model)
    assert model.unknown_macs_nodes > 0
    nodes = node_facts(model, {"x": (1, 3, 48, 320)})
    assert all(node.macs is not None and node.activation_bytes is not None for node in nodes)
    first = by_op(nodes, "Conv")  # 16 of 3x3x3, stride 2, padded: 24 x 160 positions
    assert first.macs == 16 * 24 * 160 * 3 * 3 * 3
    assert first.activation_bytes == 4 * (3 * 48 * 320 + 16 * 24 * 160)
    last = [node for node in nodes if node.op == "MatMul"][-1]  # 40 steps, 120 -> 6625
    assert last.macs == 40 * 120 * 6625
    assert last.weight_bytes == 4 * 120 * 6625


def test_doubling_the_area_doubles_the_detectors_convolutions(det_model: Path) -> None:
    model = read_model(det_model)
    assert model.parameters == 1_171_841
    small = node_facts(model, {"x": (1, 3, 320, 320)})
    large = node_facts(model, {"x": (1, 3, 320, 640)})
    # All but the convolutions of squeeze-and-excite blocks, which see one pixel whatever the size.
    pairs = [(one.macs or 0, two.macs or 0) for one, two in zip(small, large, strict=True)]
    assert all(two in (one, 2 * one) for one, two in pairs)
    doubled = sum(one for one, two in pairs if two == 2 * one)
    assert doubled > 0.99 * sum(one for one, _ in pairs)


def test_weights_in_branches_are_counted(vad_model: Path) -> None:
    model = read_model(vad_model)
    assert model.parameters == 545_597
    assert model.has_control_flow
    assert model.has_rnn
    assert max(node.depth for node in model.nodes) >= 3
    assert not by_op(model.nodes, "If").macs


def test_a_length_that_the_graph_computes_is_worked_out(vad_model: Path) -> None:
    shapes = {"input": (1, 576), "state": (2, 1, 128), "sr": ()}
    nodes = node_facts(read_model(vad_model), shapes)
    # The 16 kHz branch is the then-branch: all of it is known. LSTM cell: 4 gates, 128 in, 128 out.
    sixteen = [node for node in nodes if "then_branch" in node.name]
    assert total(sixteen) > 0
    assert {node.macs for node in sixteen if node.op == "LSTM"} == {0, 4 * 128 * (128 + 128)}


# --- made models


def test_a_small_network_counts_as_by_hand(small_cnn: Path) -> None:
    nodes = node_facts(read_model(small_cnn), {"image": (2, 3, 32, 32)})
    by_hand = 2 * (
        16 * 16 * 16 * 3 * 9  # full, stride 2
        + 16 * 16 * 16 * 9  # depthwise
        + 32 * 16 * 16 * 16  # pointwise
        + 32 * 8 * 8 * 32 * 9  # full, stride 2
        + 32 * 10
    )
    assert total(nodes) == by_hand


def test_symbolic_axes_leave_costs_unknown_and_static_ones_do_not(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    weights = [zeros("w", 6, 5)]
    open_ended = save(
        tmp_path, nodes, inputs={"x": ["N", 6]}, outputs={"y": ["N", 5]}, weights=weights
    )
    model = read_model(open_ended)
    assert (model.macs, model.unknown_macs_nodes) == (0, 1)
    assert node_facts(model, {})[0].macs is None
    assert node_facts(model, {"x": (4, 6)})[0] == NodeFacts(
        name="m",
        op="MatMul",
        domain="",
        macs=4 * 6 * 5,
        activation_bytes=4 * (4 * 6 + 4 * 5),
        weight_bytes=4 * 6 * 5,
        depth=0,
        inputs=("x", "w"),
        outputs=("y",),
    )
    static = save(tmp_path, nodes, inputs={"x": [4, 6]}, outputs={"y": [4, 5]}, weights=weights)
    assert (read_model(static).macs, read_model(static).unknown_macs_nodes) == (120, 0)


def test_a_weight_that_is_also_listed_as_input_is_no_input(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        inputs={"x": [4, 6], "w": [6, 5]},
        outputs={"y": [4, 5]},
        weights=[zeros("w", 6, 5)],
    )
    assert [info.name for info in read_model(path).inputs] == ["x"]


def test_an_output_without_a_shape_gets_its_axes_by_inference(tmp_path: Path) -> None:
    node = helper.make_node("Flatten", ["x"], ["y"])
    path = save(tmp_path, [node], inputs={"x": ["N", 3, 4]}, outputs={"y": None})
    assert len(read_model(path).outputs[0].shape) == 2


def test_a_branch_that_the_shapes_rule_out_costs_nothing(tmp_path: Path) -> None:
    def branch(name: str, columns: int) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"], name=name)
        return helper.make_graph([node], name, [], [out], [zeros(f"{name}_w", 6, columns)])

    nodes = [
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Greater", ["size", "limit"], ["large"]),
        helper.make_node(
            "If", ["large"], ["y"], then_branch=branch("big", 7), else_branch=branch("little", 5)
        ),
        helper.make_node("MatMul", ["y", "v"], ["z"], name="after"),
    ]
    limit = helper.make_tensor("limit", TensorProto.INT64, (), [1])
    path = save(
        tmp_path,
        nodes,
        inputs={"x": ["N", 6]},
        outputs={"z": ["N", 2]},
        weights=[limit, zeros("v", 7, 2)],
    )
    facts = {node.name: node.macs for node in node_facts(read_model(path), {"x": (3, 6)})}
    assert facts["big"] == 3 * 6 * 7
    assert facts["little"] == 0
    assert facts["after"] == 3 * 7 * 2


def test_costs_refuse_shapes_that_the_inputs_do_not_take(small_mlp: Path) -> None:
    model = read_model(small_mlp)
    with pytest.raises(ModelError, match="no input 'nope'; its inputs: x"):
        node_facts(model, {"nope": (1, 64)})
    with pytest.raises(ModelError, match=r"shape \[1, 63\], expected x: float32\[N, 64\]"):
        node_facts(model, {"x": (1, 63)})
    with pytest.raises(ModelError, match="legal: 0 and above"):
        node_facts(model, {"x": (-1, 64)})


def test_inference_that_does_not_end_is_an_error(
    small_mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesdk.onnxfile.shapes._TIMEOUT_S", 0.001)
    with pytest.raises(ModelError, match="did not end within"):
        infer(onnx.load(small_mlp))


def test_inference_that_fails_says_why(tmp_path: Path) -> None:
    # An If without branches: legal protobuf, senseless graph.
    path = save(
        tmp_path,
        [helper.make_node("If", ["c"], ["y"]), helper.make_node("Identity", ["x"], ["z"])],
        inputs={"x": []},
        outputs={"z": []},
        weights=[zeros("c")],
    )
    model = read_model(path)
    with pytest.raises(ModelError, match="cannot infer the shapes"):
        node_facts(model, {})


def test_a_file_that_changed_since_it_was_read_is_refused(small_mlp: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(small_mlp.read_bytes())
    model = read_model(copy)
    proto = onnx.load(copy)
    proto.graph.node[1].op_type = "Tanh"
    copy.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="has changed since it was read"):
        node_facts(model, {})


def test_facts_are_plain_json(small_cnn: Path) -> None:
    model = read_model(small_cnn)
    data = json.loads(json.dumps(model.to_json()))
    assert data["inputs"][0] == {"name": "image", "dtype": "float32", "shape": ["N", 3, 32, 32]}
    assert data["op_histogram"]["Conv"] == 4
    assert data["parameters"] == model.parameters


# --- what runtimes read


def test_a_newer_opset_or_ir_than_the_runtime_reads_is_named(small_mlp: Path) -> None:
    model = read_model(small_mlp)
    assert check_readable(model, model.opset, model.ir_version, "engine 1.0") is None
    reason = check_readable(model, model.opset - 1, model.ir_version, "engine 1.0")
    assert reason is not None
    assert f"engine 1.0 reads opset {model.opset - 1} at most" in reason
    reason = check_readable(model, model.opset, model.ir_version - 1, "engine 1.0")
    assert reason is not None
    assert "IR version" in reason


def test_operators_that_onnx_does_not_define_are_listed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reluu", ["a"], ["b"]),
        helper.make_node("Gelu", ["b"], ["c"]),  # defined since opset 20
        helper.make_node("Twist", ["c"], ["y"], domain="com.acme"),
    ]
    imports = {"com.acme": 3}
    path = save(tmp_path, nodes, inputs={"x": [2]}, outputs={"y": [2]}, imports=imports)
    model = read_model(path)
    assert unknown_ops(model) == ("Gelu", "Reluu", "com.acme::Twist")
    assert model.custom_domains == ("com.acme",)
    assert model.domains == {"": 17, "com.acme": 3}
    assert by_op(model.nodes, "Twist").macs is None
    newer = save(tmp_path, nodes, inputs={"x": [2]}, outputs={"y": [2]}, opset=20, imports=imports)
    assert unknown_ops(read_model(newer)) == ("Reluu", "com.acme::Twist")


def test_a_function_that_the_file_brings_is_known(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [helper.make_node("Twist", ["x"], ["y"], domain="com.acme")],
        inputs={"x": [2]},
        outputs={"y": [2]},
        imports={"com.acme": 1},
    )
    proto = onnx.load(path)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("com.acme", "Twist", ["a"], ["b"], body, opsets))
    path.write_bytes(proto.SerializeToString())
    model = read_model(path)
    assert unknown_ops(model) == ()
    assert model.custom_domains == ()


# --- formulas


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "macs"),
    [
        ("Conv", [(1, 8, 5, 5), (4, 2, 3, 3)], [(1, 4, 3, 3)], {}, 4 * 9 * 2 * 9),
        ("QLinearConv", [(1, 3, 4, 4), (), (), (2, 3, 1, 1)], [(1, 2, 4, 4)], {}, 2 * 16 * 3),
        ("ConvTranspose", [(1, 8, 4, 4), (8, 3, 2, 2)], [(1, 3, 8, 8)], {}, 8 * 16 * 3 * 4),
        ("Gemm", [(7, 3), (7, 5)], [(3, 5)], {"transA": 1}, 3 * 5 * 7),
        ("MatMul", [(2, 3, 4), (4, 5)], [(2, 3, 5)], {}, 2 * 3 * 5 * 4),
        ("MatMul", [(4,), (4,)], [()], {}, 4),
        ("MatMulInteger", [(3, 4), (4, 5)], [(3, 5)], {}, 60),
        ("LSTM", [(10, 2, 8), (1, 64, 8), (1, 64, 16)], [], {}, 20 * 4 * 16 * (8 + 16)),
        ("GRU", [(10, 2, 8), (2, 48, 8), (2, 48, 16)], [], {}, 20 * 2 * 3 * 16 * (8 + 16)),
        ("Attention", [(1, 4, 6, 8), (1, 4, 9, 8)], [(1, 4, 6, 8)], {}, 2 * 4 * 6 * 9 * 8),
        ("Einsum", [(2, 3), (3, 4)], [(2, 4)], {"equation": "ij,jk->ik"}, 24),
        ("Relu", [(2, 3)], [(2, 3)], {}, 0),
        ("Conv", [None, (4, 2, 3, 3)], [None], {}, None),
        ("STFT", [(1, 512)], [(1, 4, 65, 2)], {}, None),
    ],
)
def test_each_formula_matches_the_operators_definition(
    op: str,
    inputs: list[tuple[int, ...] | None],
    outputs: list[tuple[int, ...] | None],
    attributes: dict[str, int | str],
    macs: int | None,
) -> None:
    assert count_macs(op, "", inputs, outputs, attributes) == macs


lengths = st.integers(0, 9)


@given(batch=lengths, rows=lengths, inner=lengths, columns=lengths)
@settings(deadline=None)
def test_a_product_counts_the_same_as_matmul_and_as_einsum(
    batch: int, rows: int, inner: int, columns: int
) -> None:
    shapes = [(batch, rows, inner), (batch, inner, columns)]
    out = [(batch, rows, columns)]
    product = count_macs("MatMul", "", shapes, out, {})
    assert product == count_macs("Einsum", "", shapes, out, {"equation": "bij,bjk->bik"})
    assert product == batch * rows * inner * columns


# --- size


def write_large(folder: Path, megabytes: int) -> Path:
    """A model of one product whose weights are a sparse file beside it."""
    columns = megabytes * 1_000_000 // 4 // 1000
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[1000, columns], data_location="EXTERNAL"
    )
    for key, value in {"location": "w.bin", "length": str(4000 * columns)}.items():
        tensor.external_data.add(key=key, value=value)
    path = save(
        folder,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        inputs={"x": ["N", 1000]},
        outputs={"y": ["N", columns]},
        weights=[tensor],
    )
    with (folder / "w.bin").open("wb") as stream:
        stream.truncate(4000 * columns)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's VmHWM")
def test_weights_in_external_data_never_come_into_memory(tmp_path: Path) -> None:
    path = write_large(tmp_path, 1000)
    script = (
        "import sys; from pathlib import Path; from edgesdk.model import read_model\n"
        "model = read_model(Path(sys.argv[1]))\n"
        "print(model.weight_bytes, Path('/proc/self/status').read_text()"
        ".split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    weight_bytes, peak_kib = map(int, done.stdout.split())
    assert weight_bytes == 1_000_000_000
    assert peak_kib < 150_000


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    path = write_large(tmp_path, 1)
    before: Model = read_model(path)
    assert before.external_files == ("w.bin",)
    assert before.file_bytes == path.stat().st_size + 1_000_000
    with (tmp_path / "w.bin").open("r+b") as stream:
        stream.write(b"\1")
    assert read_model(path).sha256 != before.sha256
