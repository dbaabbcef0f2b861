"""Structured pruning: what is found, what is left alone, and that a removal equals its mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_networks import BLOCKS, HEADS, SIDE, Network, build, plain, pooled_head, tokens

from edgesdk.errors import ModelError
from edgesdk.profile import load_profile
from edgesdk.structure.aligning import align
from edgesdk.structure.choose import Rules, choose, liked_multiple
from edgesdk.structure.costs import Costs
from edgesdk.structure.groups import find_groups
from edgesdk.structure.importance import (
    activations,
    activity,
    comparable,
    energy,
    magnitude,
    taylor,
)
from edgesdk.structure.mask import mask
from edgesdk.structure.remove import remove
from edgesdk.structure.units import Group, Structure
from edgesdk.testing.graphs import CASES
from edgesdk.testing.structure import prove_removal


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), max_size=5),
    head=st.sampled_from(sorted(HEADS)),
    seed=st.integers(0, 2**20),
    opset=st.sampled_from([17, 18, 21]),
    batch=st.sampled_from([1, 2, "batch"]),
)
def test_a_removal_equals_its_mask(
    blocks: list[str], head: str, seed: int, opset: int, batch: int | str
) -> None:
    network = build(blocks, head, seed, opset, batch)
    model = network.model()
    structure = find_groups(model)
    rng = np.random.default_rng(seed)
    selection = {
        group.name: rng.permutation(len(group.units))[: rng.integers(len(group.units))].tolist()
        for group in structure.groups
    }
    pruned = prove_removal(model, structure, selection, [network.feed()])
    promised = Costs(model, structure).without(structure.gone(selection))
    assert Costs(pruned, find_groups(pruned)).without() == promised


def halved(network: Network) -> tuple[Structure, onnx.ModelProto]:
    """The structure of a network, and what is left when every group has lost half of its units."""
    model = network.model()
    structure = find_groups(model)
    selection = {g.name: range(len(g.units) // 2) for g in structure.groups}
    return structure, prove_removal(model, structure, selection, [network.feed()])


def only(structure: Structure) -> Group:
    (group,) = structure.groups
    return group


def reasons(structure: Structure) -> list[str]:
    return [left.reason for left in structure.left]


def shape(model: onnx.ModelProto, name: str) -> list[int]:
    return next(list(t.dims) for t in model.graph.initializer if t.name == name)


# --- what is found


def test_a_residual_stream_is_one_group() -> None:
    network = Network(1)
    plain(network)
    width = network.channels
    for _ in range(3):
        inner = network.add("Relu", [network.conv(network.last, width, 6, 3)])
        network.last = network.add("Add", [network.conv(inner, 6, width), network.last])
    pooled_head(network)
    structure, pruned = halved(network)
    stream, *middles = structure.groups
    assert len(stream.units) == width
    assert [len(group.units) for group in middles] == [6, 6, 6]
    assert len(stream.readers) == 4
    kept = width - width // 2
    assert [shape(pruned, "w0")[0], shape(pruned, "w6")[1]] == [kept, kept]


def test_every_parameter_of_a_bottleneck_can_go_but_those_of_the_classes() -> None:
    network = build(["bottleneck", "downsampling", "bottleneck"], "pooled_head", 3)
    structure = find_groups(network.model())
    assert reasons(structure) == ["it is an output of the model"]
    assert structure.removable >= structure.parameters - 5
    assert "left alone" in structure.notes[1]


def test_a_gate_is_tied_to_what_it_gates() -> None:
    network = build(["excited"], "pooled_head", 4)
    structure, _ = halved(network)
    stream, narrow = structure.groups
    assert len(stream.units) == network.channels
    assert len(narrow.units) == max(2, network.channels // 2)


def test_a_channel_owns_a_row_for_each_pixel_behind_flatten() -> None:
    network = build([], "flat_head", 5)
    structure, _ = halved(network)
    first = structure.groups[0]
    gemm = next(part for part in first.units[1].parts if len(part.indices) == 16)
    assert gemm.indices == tuple(range(16, 32))
    assert gemm.read


def test_a_head_is_a_unit_of_q_k_v_and_output() -> None:
    network = Network(6)
    plain(network)
    HEADS["attention_head"](network)
    model = network.model()
    structure = find_groups(model)
    heads = next(group for group in structure.groups if group.width > 1)
    products = [reader.weight for reader in heads.readers]
    assert len(products) == 1
    wide = [part for part in heads.units[0].parts if len(part.indices) == heads.width]
    assert len(wide) == 7  # weights and biases of Q, K and V, and what reads them
    assert heads.what == f"block of {heads.width} channels"
    prove_removal(model, structure, {heads.name: [0]}, [network.feed()])


def test_heads_of_fused_projections_are_found_between_the_axes() -> None:
    network = Network(7)
    plain(network)
    HEADS["fused_attention_head"](network)
    structure, _ = halved(network)
    heads = structure.groups[1]
    projection = heads.units[0].parts[0]
    width = len(projection.indices) // 3
    assert np.diff(projection.indices).max() == width * (len(heads.units) - 1) + 1


@pytest.mark.parametrize("seed", range(6))
def test_a_hidden_unit_owns_all_its_gates(seed: int) -> None:
    network = Network(seed)
    plain(network)
    HEADS["recurrent_head"](network)
    cell = next(node for node in network.nodes if node.op_type in ("LSTM", "GRU", "RNN"))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell.op_type]
    structure, pruned = halved(network)
    hidden = next(group for group in structure.groups if group.hidden)
    assert hidden.what == "hidden unit"
    own = {
        part.axis: part.indices for part in hidden.units[0].parts if part.tensor == cell.input[2]
    }
    assert len(own[1]) == gates
    assert own[2] == (0,)
    after = next(node for node in pruned.graph.node if node.name == cell.name)
    size = next(a.i for a in after.attribute if a.name == "hidden_size")
    assert size == len(hidden.units) - len(hidden.units) // 2


def test_whole_groups_of_a_convolution_go_where_they_are_many() -> None:
    network = Network(8)
    network.last = network.conv("image", 3, 16)
    network.last = network.conv(network.last, 16, 16, 3, 8)
    network.channels = 16
    pooled_head(network)
    structure, pruned = halved(network)
    assert only(structure).width == 2
    assert len(only(structure).units) == 8
    conv = pruned.graph.node[1]
    assert next(a.i for a in conv.attribute if a.name == "group") == 4


def test_of_few_groups_of_a_convolution_each_loses_the_same_channels() -> None:
    network = Network(9)
    network.last = network.conv("image", 3, 16)
    network.last = network.conv(network.last, 16, 12, 3, 2)
    network.channels = 12
    pooled_head(network)
    structure, pruned = halved(network)
    assert [len(group.units) for group in structure.groups] == [8, 6]
    conv = pruned.graph.node[1]
    assert next(a.i for a in conv.attribute if a.name == "group") == 2


def test_weights_that_two_nodes_share_lose_the_same_channels() -> None:
    network = Network(10)
    network.last = network.conv("image", 3, 8)
    weight = network.normal(8, 8, 1, 1)
    for _ in range(2):
        network.last = network.add("Relu", [network.add("Conv", [network.last, weight])])
    network.channels = 8
    pooled_head(network)
    structure, pruned = halved(network)
    assert len(only(structure).units) == 8
    assert shape(pruned, weight) == [4, 4, 1, 1]


def test_weights_in_constant_nodes_are_weights() -> None:
    network = build(["bottleneck", "excited"], "flat_head", 11)
    model = network.model()
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    structure = find_groups(model)
    assert structure.parameters > 0
    selection = {group.name: [0] for group in structure.groups}
    prove_removal(model, structure, selection, [network.feed()])


def test_an_exporters_computed_reshape_is_rewritten() -> None:
    """The target is joined from lengths of the input and numbers, as for dynamic axes."""
    network = Network(12, batch="batch")
    plain(network)
    x = network.add("MatMul", [tokens(network), network.normal(network.channels, 24)])
    lengths = network.add("Shape", [x])
    parts = [
        network.add("Unsqueeze", [network.add("Gather", [lengths, network.store(np.int64(at))]),
                                  network.ints(0)])
        for at in (0, 1)
    ]  # fmt: skip
    split = network.add("Concat", [*parts, network.ints(6), network.ints(4)], axis=0)
    x = network.add("Transpose", [network.add("Reshape", [x, split])], perm=[0, 2, 1, 3])
    x = network.add("Transpose", [network.add("Softmax", [x], axis=-1)], perm=[0, 2, 1, 3])
    whole = network.add("Concat", [*parts, network.ints(24)], axis=0)
    x = network.add("Reshape", [x, whole])
    network.last = network.add("MatMul", [x, network.normal(24, 3)])
    structure, pruned = halved(network)
    assert [group.width for group in structure.groups] == [1, 4]
    assert [len(group.units) for group in structure.groups] == [network.channels, 6]
    assert len(pruned.graph.node) == len(network.nodes)


def old_opset(network: Network) -> None:
    """Axes, sizes and paddings as attributes."""
    width = network.channels
    network.last = network.add("Pad", [network.last, network.ints(0, 0, 0, 0, 0, 0, 0, 0)])
    part = network.add("Split", [network.last], 2, axis=1, split=[3, width - 3])
    network.last = network.add("Concat", [f"{part}_1", part], axis=1)
    x = network.add("GlobalAveragePool", [network.last])
    network.last = network.add("Squeeze", [x], axes=[2, 3])
    network.last = network.add("Gemm", [network.last, network.normal(width, 4)])


def test_opset_11_is_understood() -> None:
    network = Network(13, opset=11)
    network.last = network.add("Relu", [network.conv("image", 3, 9)])
    network.channels = 9
    old_opset(network)
    structure, pruned = halved(network)
    assert sum(len(group.units) for group in structure.groups) == 9
    split = next(node for node in pruned.graph.node if node.op_type == "Split")
    sizes = next(list(a.ints) for a in split.attribute if a.name == "split")
    assert sum(sizes) == shape(pruned, "w0")[0]


def test_whole_groups_of_a_normalisation_go() -> None:
    network = Network(25, opset=21)
    x = network.add("Relu", [network.conv("image", 3, 12)])
    parts = [x, network.normal(12), network.normal(12)]
    x = network.add("GroupNormalization", parts, num_groups=4)
    network.last = network.add("Conv", [x, network.normal(2, 12, 1, 1)])
    model = network.model(shape=[1, 2, SIDE, SIDE])
    structure = find_groups(model)
    assert [(len(group.units), group.width) for group in structure.groups] == [(4, 3)]
    pruned = prove_removal(model, structure, {only(structure).name: [1]}, [network.feed()])
    assert helper.get_node_attr_value(pruned.graph.node[2], "num_groups") == 3


def test_branches_are_traced_with_the_rest() -> None:
    """Both read a tensor from outside and hold weights of their own; their results are tied."""
    network = Network(24)
    x = network.conv("image", 3, 6)
    bodies = []
    for word, width in (("then", 5), ("else", 7)):
        inner = Network(len(word) + width)
        inner.last = inner.conv(inner.add("Relu", [inner.conv("outside", 6, width)]), width, 8)
        prefix = {name: f"{word}/{name}" for node in inner.nodes for name in node.output}
        prefix |= {tensor.name: f"{word}/{tensor.name}" for tensor in inner.weights} | {
            "outside": x
        }
        for node in inner.nodes:
            names = [prefix[name] for name in node.input], [prefix[name] for name in node.output]
            del node.input[:], node.output[:]
            node.input.extend(names[0])
            node.output.extend(names[1])
            node.name = f"{word}/{node.name}"
        for tensor in inner.weights:
            tensor.name = prefix[tensor.name]
        info = helper.make_tensor_value_info(
            prefix[inner.last], TensorProto.FLOAT, [1, 8, SIDE, SIDE]
        )
        bodies.append(helper.make_graph(inner.nodes, word, [], [info], inner.weights))
    total = network.add("ReduceSum", ["image"], keepdims=0)
    flag = network.add("Greater", [total, network.store(np.float32(0))])
    network.last = network.add("If", [flag], then_branch=bodies[0], else_branch=bodies[1])
    network.channels = 8
    pooled_head(network)
    model = network.model()
    structure = find_groups(model)
    assert [len(group.units) for group in structure.groups] == [6, 7, 8, 5]
    selection = {group.name: [1, 2] for group in structure.groups}
    feed = network.feed()
    feeds = [{"image": np.abs(feed["image"])}, {"image": -np.abs(feed["image"])}]
    prove_removal(model, structure, selection, feeds)


# --- what is left alone


def layer_norm(n: Network) -> None:
    x = n.add("MatMul", [tokens(n), n.normal(n.channels, 8)])
    x = n.add("LayerNormalization", [x, n.normal(8), n.normal(8)], axis=-1)
    n.last = n.add("MatMul", [x, n.normal(8, 2)])


def softmax(n: Network) -> None:
    n.last = n.add("Softmax", [n.conv(n.last, n.channels, 8)], axis=1)
    n.last = n.conv(n.last, 8, 2)


def mean(n: Network) -> None:
    n.last = n.add("ReduceMean", [n.conv(n.last, n.channels, 8)], axes=[1])


def maximum(n: Network) -> None:
    x = n.add("ArgMax", [n.conv(n.last, n.channels, 8)], axis=1)
    n.last = n.add("Cast", [x], to=TensorProto.FLOAT)


def correlation(n: Network) -> None:
    x = n.add("MatMul", [tokens(n), n.normal(n.channels, 8)])
    n.last = n.add("MatMul", [x, n.add("Transpose", [x], perm=[0, 2, 1])])


def stranger(n: Network) -> None:
    n.last = n.conv(n.add("LRN", [n.conv(n.last, n.channels, 8)], size=3), 8, 2)


def branch(n: Network) -> None:
    x = n.conv(n.last, n.channels, 8)
    info = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)
    bodies = [
        helper.make_graph([helper.make_node(op, [x], ["chosen"])], op, [], [info])
        for op in ("Relu", "Tanh")
    ]
    flag = n.store(np.array(True))
    n.last = n.add("If", [flag], then_branch=bodies[0], else_branch=bodies[1])


def sum_with_input(n: Network) -> None:
    x = n.add("Add", [n.conv(n.last, n.channels, 3), "image"])
    n.last = n.conv(x, 3, 2)


def length(n: Network) -> None:
    x = n.conv(n.last, n.channels, 8)
    size = n.add("Gather", [n.add("Shape", [x]), n.store(np.int64(1))])
    x = n.add("Div", [x, n.add("Cast", [size], to=TensorProto.FLOAT)])
    n.last = n.conv(x, 8, 2)


def padding(n: Network) -> None:
    x = n.add("Pad", [n.conv(n.last, n.channels, 8), n.ints(0, 1, 0, 0, 0, 0, 0, 0)])
    n.last = n.conv(x, 9, 2)


def computed_weights(n: Network) -> None:
    x = n.conv(n.last, n.channels, 8)
    scaled = n.add("Mul", [n.normal(2, 8, 1, 1), n.add("ReduceMax", ["image"], keepdims=0)])
    n.last = n.add("Conv", [x, scaled])


def steps(n: Network) -> None:
    x = n.conv(n.last, n.channels, 8)
    x = n.add("Slice", [x, n.ints(0), n.ints(8), n.ints(1), n.ints(2)])
    n.last = n.conv(x, 4, 2)


@pytest.mark.parametrize(
    ("end", "reason", "node"),
    [
        (layer_norm, "mean and variance", "layernormalization"),
        (softmax, "Softmax is over it", "softmax"),
        (mean, "ReduceMean is over it", "reducemean"),
        (maximum, "ArgMax is over it", "argmax"),
        (correlation, "without stored weights", "matmul"),
        (stranger, "through LRN", "lrn"),
        (branch, "through If", "if"),
        (sum_with_input, "an input of the model", ""),
        (length, "its length is computed with", "div"),
        (padding, "it is padded", "pad"),
        (computed_weights, "without stored weights", "conv"),
        (steps, "sliced with steps", "slice"),
    ],
)
def test_what_cannot_be_proved_safe_is_left_alone(
    end: Callable[[Network], None], reason: str, node: str
) -> None:
    network = Network(14)
    plain(network)
    end(network)
    model = network.model()
    structure = find_groups(model)
    found = [left for left in structure.left if reason in left.reason]
    assert found, structure.left
    assert found[0].node.startswith(node)
    assert found[0].name
    assert reason in str(found[0])
    selection = {group.name: [0] for group in structure.groups}
    assert selection or end is branch
    prove_removal(model, structure, selection, [network.feed()])


def test_a_quantized_graph_is_left_alone() -> None:
    network = Network(15)
    plain(network)
    scale, zero = network.store(np.float32(0.05)), network.store(np.int8(0))
    x = network.add("QuantizeLinear", [network.last, scale, zero])
    network.last = network.add("DequantizeLinear", [x, scale, zero])
    pooled_head(network)
    structure = find_groups(network.model())
    assert not structure.groups
    assert "QuantizeLinear" in reasons(structure)[0]


@pytest.mark.parametrize("name", sorted(CASES))
def test_graphs_of_every_kind_are_survived(name: str) -> None:
    case = CASES[name]()
    structure = find_groups(case.model)
    assert bool(structure.groups) == (name == "convolution")
    selection = {group.name: [0] for group in structure.groups}
    prove_removal(case.model, structure, selection, case.feeds)


# --- the definition of removal


def test_a_mask_silences_where_it_is_read_and_leaves_the_rest() -> None:
    """Sigmoid(0) is a half: zeros where a unit is made would not be its removal."""
    network = Network(16)
    network.last = network.add("Sigmoid", [network.conv("image", 3, 4)])
    network.channels = 4
    pooled_head(network)
    model = network.model()
    structure = find_groups(model)
    silenced = mask(model, structure, {only(structure).name: [2]})
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, silenced)
    )
    assert (after["w2"][2] == 0).all()
    assert (np.delete(after["w2"], 2, 0) == np.delete(before["w2"], 2, 0)).all()
    assert all((after[name] == before[name]).all() for name in before if name != "w2")


def test_a_selection_must_fit() -> None:
    model = build([], "pooled_head", 17).model()
    structure = find_groups(model)
    name, units = only(structure).name, len(only(structure).units)
    for selection, words in (
        ({"nothing": [0]}, name),
        ({name: [units]}, f"legal: 0 to {units - 1}"),
        ({name: range(units)}, "keep at least one"),
    ):
        with pytest.raises(ModelError, match=words):
            remove(model, structure, selection)
    assert remove(model, structure, {}) == model


def test_what_is_left_of_an_axis_is_told() -> None:
    network = build([], "flat_head", 27)
    structure = find_groups(network.model())
    group = structure.groups[0]
    (reader,) = group.readers
    kept = structure.kept(reader.activation, reader.axis, {group.name: [1]})
    assert kept.tolist() == [*range(16), *range(32, 16 * len(group.units))]
    assert structure.kept("image", 1, {group.name: [1]}).tolist() == [0, 1, 2]
    with pytest.raises(ModelError, match="not known"):
        structure.kept("nothing", 0, {})


def test_the_same_removal_gives_the_same_file() -> None:
    model = build(["bottleneck", "halves", "joined"], "attention_head", 18).model()
    made = []
    for _ in range(2):
        structure = find_groups(model)
        pruned = remove(model, structure, {group.name: [1] for group in structure.groups})
        made.append(pruned.SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_a_pruned_graph_runs_in_openvino() -> None:
    openvino = pytest.importorskip("openvino")
    network = build(["bottleneck", "excited", "shrunk"], "attention_head", 19)
    structure, pruned = halved(network)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(pruned.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    selection = {g.name: range(len(g.units) // 2) for g in structure.groups}
    from onnx.reference import ReferenceEvaluator

    silenced = mask(network.model(), structure, selection)
    feed = network.feed()
    (wanted,) = ReferenceEvaluator(silenced).run(None, feed)
    assert isinstance(wanted, np.ndarray)
    np.testing.assert_allclose(compiled(feed)[0], wanted, rtol=1e-3, atol=1e-4)


# --- importance


@pytest.fixture(name="small")
def fixture_small() -> tuple[onnx.ModelProto, Structure]:
    """Two channels, made by weights of 1 and 3, read by weights of 2 and 1."""
    network = Network(20)
    made = network.store(np.array([[1, 1, 1], [3, 3, 3]], np.float32).reshape(2, 3, 1, 1))
    network.last = network.add("Relu", [network.add("Conv", ["image", made])])
    x = network.add("Flatten", [network.add("GlobalAveragePool", [network.last])])
    network.last = network.add("Gemm", [x, network.store(np.array([[2], [1]], np.float32))])
    model = network.model()
    return model, find_groups(model)


def scores(found: dict[str, Any]) -> list[float]:
    (values,) = found.values()
    return [round(float(value), 4) for value in values]


def test_magnitude_counts_all_weights_of_a_unit(small: tuple[onnx.ModelProto, Structure]) -> None:
    model, structure = small
    assert scores(magnitude(model, structure, order=1)) == [3, 9]
    assert scores(magnitude(model, structure, order=2)) == [round(3**0.5, 4), round(27**0.5, 4)]
    with pytest.raises(ModelError, match="legal: 1, 2"):
        magnitude(model, structure, order=3)


def test_activations_score_by_what_is_read(small: tuple[onnx.ModelProto, Structure]) -> None:
    model, structure = small
    ((name, axis),) = activations(structure).items()
    assert axis == -1
    moments = {name: np.array([4.0, 9.0])}
    assert scores(activity(structure, moments)) == [4, 9]
    assert scores(energy(model, structure, moments, relative=False)) == [4, 3]
    assert scores(energy(model, structure, moments)) == [0.64, 0.36]
    assert scores(energy(model, structure)) == [0.8, 0.2]
    for wrong in ({}, {name: np.ones(3)}):
        with pytest.raises(ModelError, match="needed"):
            energy(model, structure, wrong)


def test_taylor_is_the_loss_of_masking(small: tuple[onnx.ModelProto, Structure]) -> None:
    _, structure = small
    weight = only(structure).readers[0].weight
    rows = [{weight: np.array([[0.5], [value]], np.float32)} for value in (-2, 4)]
    assert scores(taylor(structure, rows)) == [0.25, 10]
    with pytest.raises(ModelError, match="needed"):
        taylor(structure, [{}])
    with pytest.raises(ModelError, match="no rows"):
        taylor(structure, [])


def test_groups_become_comparable() -> None:
    model = build(["bottleneck"], "pooled_head", 21).model()
    structure = find_groups(model)
    raw = magnitude(model, structure)
    equal = comparable(structure, raw)
    assert all(values.sum() == pytest.approx(1) for values in equal.values())
    saved = comparable(structure, raw, between="parameters")
    first = structure.groups[0]
    assert saved[first.name][0] == raw[first.name][0] / first.units[0].parameters
    with pytest.raises(ModelError, match="needed"):
        comparable(structure, {})


def test_what_many_layers_read_weighs_more() -> None:
    model = build(["bottleneck", "bottleneck", "bottleneck"], "pooled_head", 26).model()
    structure = find_groups(model)
    ranked = energy(model, structure)
    readers = {group.name: len(group.readers) for group in structure.groups}
    assert {name: round(float(v.sum())) for name, v in ranked.items()} == readers
    assert max(readers.values()) == 4


# --- choice


@pytest.fixture(name="wide", scope="module")
def fixture_wide() -> tuple[onnx.ModelProto, Structure, dict[str, Any], Network]:
    network = build(["bottleneck", "downsampling", "bottleneck", "joined"], "flat_head", 22)
    model = network.model()
    structure = find_groups(model)
    return model, structure, comparable(structure, magnitude(model, structure)), network


@pytest.mark.parametrize("of", ["parameters", "macs"])
@pytest.mark.parametrize("scope", ["global", "group"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_choice_reaches_its_share_exactly_as_counted(
    wide: tuple[onnx.ModelProto, Structure, dict[str, Any], Network],
    of: Any,
    scope: Any,
    share: float,
) -> None:
    model, structure, ranked, network = wide
    found = choose(model, structure, ranked, share=share, of=of, scope=scope)
    assert found.reached
    assert not found.notes
    before, after = (getattr(cost, of) for cost in (found.before, found.after))
    assert after <= (1 - share) * before
    pruned = prove_removal(model, structure, found.selection, [network.feed()])
    assert Costs(pruned, find_groups(pruned)).without() == found.after
    assert bool(found.selection) == (share > 0)


def test_rules_are_kept(
    wide: tuple[onnx.ModelProto, Structure, dict[str, Any], Network],
) -> None:
    model, structure, ranked, _ = wide
    spared = structure.groups[0].name
    rules = Rules(floor=2, keep=0.25, multiple=4, spared=frozenset([spared]))
    found = choose(model, structure, ranked, share=0.9, rules=rules)
    assert not found.reached
    assert "only" in found.notes[0]
    for group in structure.groups:
        total = len(group.units)
        kept = total - len(found.selection.get(group.name, ()))
        assert kept >= max(2, 0.25 * total)
        multiple = max(1, min(4, total * group.width // 8))
        assert kept == total or kept * group.width % multiple == 0
    assert spared not in found.selection


def test_the_least_important_goes_first(
    wide: tuple[onnx.ModelProto, Structure, dict[str, Any], Network],
) -> None:
    model, structure, ranked, _ = wide
    found = choose(model, structure, ranked, share=0.4)
    for name, gone in found.selection.items():
        kept = set(range(len(ranked[name]))) - set(gone)
        assert max(ranked[name][list(gone)]) <= min(ranked[name][list(kept)])


def test_a_choice_refuses_what_it_cannot_do(
    wide: tuple[onnx.ModelProto, Structure, dict[str, Any], Network],
) -> None:
    model, structure, ranked, _ = wide
    with pytest.raises(ModelError, match="legal: from 0"):
        choose(model, structure, ranked, share=1.0)
    with pytest.raises(ModelError, match="finite"):
        choose(model, structure, {}, share=0.5)
    for wrong in ({"floor": 0}, {"multiple": 0}, {"keep": 2.0}):
        with pytest.raises(ModelError, match="legal"):
            replace(Rules(), **wrong)
    open_model = build([], "pooled_head", 23, batch="batch").model()
    found = find_groups(open_model)
    values = magnitude(open_model, found)
    with pytest.raises(ModelError, match="fixed input shapes"):
        choose(open_model, found, values, share=0.5, of="macs")


@pytest.mark.parametrize(
    ("profile", "multiple"),
    [("x86-amx", 32), ("x86-bf16", 16), ("x86-vnni", 8), ("raspberry-pi-5", 4), ("jetson", 16)],
)
def test_channels_fit_the_device(profile: str, multiple: int) -> None:
    found, why = liked_multiple(load_profile(profile))
    assert found == multiple
    assert why


# --- reshapes


@pytest.mark.parametrize(
    ("source", "target", "before", "after"),
    [
        ((1, 8, 2, 2), (1, 32), [[], [0], [1], [2]], [[], [0, 1, 2]]),
        (("n", "t", 24), (None, None, 6, 4), [[], [], [0, 1]], [[], [], [0], [1]]),
        (("n", 64, 7, 7), ("n", 32, 98), [[0], [1, 2], [3], [4]], [[0], [1], [2, 3, 4]]),
        ((6, 4), (4, 6), [[], []], [[], []]),
        (("n", 8, "h", "w"), ("n", 8, None), [[0], [1], [], []], [[0], [1], []]),
    ],
)
def test_axes_are_aligned_by_their_factors(
    source: Any, target: Any, before: list[list[int]], after: list[list[int]]
) -> None:
    numbers = [[[number for number, _ in axis] for axis in side] for side in align(source, target)]
    assert numbers == [before, after]
