"""Which nodes to keep in float: allocation is pure, so its claims are properties."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.plan.allocate import order_by_worth, propose
from edgesdk.plan.gain import gains_ms, trace_times

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


def test_a_node_that_carries_the_error_at_no_cost_is_the_whole_proposal() -> None:
    damage = {"bad": 9.0, "good": 0.5, "fine": 0.4}
    gain = {"bad": 0.1, "good": 1.0, "fine": 1.0}
    first = propose(damage, gain)[0]
    assert first.kept == ("bad",)
    assert first.damage_left == pytest.approx(0.9 / 9.9)
    assert first.extra == pytest.approx(0.1)


@given(nodes=NODES)
def test_proposals_are_nested_and_leave_ever_less_damage(
    nodes: dict[str, tuple[float, float]],
) -> None:
    damage = {name: item[0] for name, item in nodes.items()}
    gain = {name: item[1] for name, item in nodes.items()}
    found = propose(damage, gain)
    for smaller, larger in itertools.pairwise(found):
        assert larger.kept[: len(smaller.kept)] == smaller.kept
        assert larger.damage_left <= smaller.damage_left + 1e-12
    assert all(0 < len(item.kept) < len(nodes) for item in found)


@given(nodes=NODES)
def test_no_other_set_of_equal_time_leaves_less_damage(
    nodes: dict[str, tuple[float, float]],
) -> None:
    damage = {name: item[0] for name, item in nodes.items()}
    gain = {name: item[1] for name, item in nodes.items()}
    for item in propose(damage, gain):
        kept = sum(damage[name] for name in item.kept)
        for mask in range(1 << len(nodes)):
            other = [name for number, name in enumerate(damage) if mask >> number & 1]
            if sum(gain[name] for name in other) <= item.extra:
                assert sum(damage[name] for name in other) <= kept


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


def test_quantizers_are_paid_for_by_what_they_surround() -> None:
    nodes = {"a": ["a.out"], "b": ["b.out"], "c": ["c.out"]}
    float_times = [NodeTime(node=name, op="Conv", ms=ms) for name, ms in (("a", 3.0), ("b", 1.0))]
    int8_times = [
        NodeTime(node="a", op="Conv", ms=1.0),
        NodeTime(node="b", op="Conv", ms=1.0),
        NodeTime(node="q", op="QuantizeLinear", ms=0.4),
    ]
    before, after = (trace_times(nodes, [], times) for times in (float_times, int8_times))
    saved = gains_ms(before, after, list(nodes))
    assert saved == pytest.approx({"a": 1.7, "b": -0.1, "c": 0.0})
