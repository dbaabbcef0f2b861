"""Which nodes to keep in float: allocation is pure, so its claims are properties."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.onnxfile.nodes import NodeFacts
from edgesdk.plan.allocate import ladder, order_by_worth
from edgesdk.plan.gain import TracedTimes, gains_ms, trace_times, with_neighbours

EIGHTHS = st.integers(-8, 40).map(lambda number: number / 8)
"""Sums of these are exact."""
NODES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(EIGHTHS.filter(lambda value: value >= 0), EIGHTHS),
    min_size=1,
    max_size=8,
)


def test_what_int8_makes_no_faster_is_kept_first_then_damage_by_millisecond() -> None:
    damage = {"slow in int8": 0.0, "cheap": 0.5, "dear": 0.6, "harmless": 0.0}
    gain = {"slow in int8": -1.0, "cheap": 0.1, "dear": 2.0, "harmless": 1.0}
    assert order_by_worth(damage, gain) == ("slow in int8", "cheap", "dear", "harmless")


@given(nodes=NODES)
def test_sets_are_nested_beginnings_of_the_order_and_never_all_of_it(
    nodes: dict[str, tuple[float, float]],
) -> None:
    damage = {name: item[0] for name, item in nodes.items()}
    gain = {name: item[1] for name, item in nodes.items()}
    order = order_by_worth(damage, gain)
    sets = ladder(damage, gain)
    free = {name for name in nodes if gain[name] <= 0}
    for smaller, larger in itertools.pairwise(sets):
        assert len(smaller) < len(larger)
    for kept in sets:
        assert kept == order[: len(kept)]
        assert 0 < len(kept) < len(nodes)
        assert free <= set(kept)
    if 0 < len(free) < len(nodes):
        assert set(sets[0]) == free


@given(nodes=NODES)
def test_no_other_set_of_equal_time_holds_more_damage(
    nodes: dict[str, tuple[float, float]],
) -> None:
    damage = {name: item[0] for name, item in nodes.items()}
    gain = {name: item[1] for name, item in nodes.items()}
    for kept in ladder(damage, gain):
        extra = sum(gain[name] for name in kept)
        held = sum(damage[name] for name in kept)
        for mask in range(1 << len(nodes)):
            other = [name for number, name in enumerate(damage) if mask >> number & 1]
            if sum(gain[name] for name in other) <= extra:
                assert sum(damage[name] for name in other) <= held


def test_a_hundred_nodes_give_a_dozen_sets() -> None:
    damage = {f"n{number:03}": 1.0 / (number + 1) for number in range(100)}
    sets = ladder(damage, dict.fromkeys(damage, 1.0))
    assert [len(kept) for kept in sets][:4] == [1, 2, 3, 4]
    assert len(sets) < 13


def test_times_are_traced_by_origin_by_name_and_by_tensor() -> None:
    nodes = {"conv": ["conv.out"], "mm": ["mm.out"], "fused": ["relu.out"]}
    placement = [NodePlacement(node="X", op="Convolution", unit="cpu", origin=("q", "conv"))]
    times = [
        NodeTime(node="X", op="Convolution", ms=3.0),
        NodeTime(node="mm_quant", op="DynamicQuantizeMatMul", ms=2.0),
        NodeTime(node="relu.out_nchwc", op="Conv", ms=1.0),
        NodeTime(node="ReorderOutput_token_1", op="ReorderOutput", ms=0.5),
        NodeTime(node="softmax", op="Softmax", ms=0.25),
    ]
    found = trace_times(nodes, placement, times)
    assert found.ms == {"conv": 3.0, "mm": 2.0, "fused": 1.0}
    assert (found.overhead_ms, found.other_ms) == (0.5, 0.25)


def _traced(**times: tuple[str, float]) -> TracedTimes:
    nodes = {name: [f"{name}.out"] for name in times}
    found = [NodeTime(node=name, op=op, ms=ms) for name, (op, ms) in times.items()]
    return trace_times(nodes, [], found)


def test_quantizers_are_paid_for_by_what_they_surround() -> None:
    before = _traced(a=("Conv", 3.0), b=("Conv", 1.0))
    after = trace_times(
        {"a": ["a.out"], "b": ["b.out"]},
        [],
        [
            NodeTime(node="a", op="Conv", ms=1.0),
            NodeTime(node="b", op="Conv", ms=0.5),
            NodeTime(node="q", op="QuantizeLinear", ms=0.4),
        ],
    )
    saved = gains_ms(before, after, ["a", "b", "fused"])
    assert saved == pytest.approx({"a": 1.7, "b": 0.4, "fused": 0.004})


def test_a_node_is_slower_with_its_kind_or_for_a_hundredth_of_the_run() -> None:
    before = _traced(
        a=("Conv", 5.0), b=("Conv", 1.0), c=("Conv", 1.0), d=("FC", 2.0), e=("FC", 1.0)
    )
    after = _traced(
        a=("Conv", 1.0), b=("Conv", 1.05), c=("Conv", 2.0), d=("FC", 3.0), e=("FC", 0.9)
    )
    saved = gains_ms(before, after, ["a", "b", "c", "d", "e"])
    assert saved == pytest.approx({"a": 4.0, "b": 0.01, "c": -1.0, "d": -1.0, "e": 0.1})


def _node(name: str, op: str, takes: str, makes: str) -> NodeFacts:
    return NodeFacts(
        name=name,
        op=op,
        domain="",
        macs=None,
        activation_bytes=None,
        weight_bytes=0,
        depth=0,
        inputs=(takes, "stored"),
        outputs=(makes,),
    )


def test_what_lies_between_slower_products_gains_nothing() -> None:
    nodes = [
        _node("one", "MatMul", "x", "a"),
        _node("between", "Reshape", "a", "b"),
        _node("two", "MatMul", "b", "c"),
        _node("mixed", "Add", "c", "d"),
        _node("three", "Conv", "d", "y"),
    ]
    gain = {"one": -1.0, "between": 0.1, "two": -0.5, "mixed": 0.1, "three": 2.0}
    assert with_neighbours(gain, nodes) == {**gain, "between": 0.0}
