"""Shares of units: from times, else from multiply-accumulates, else from nodes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.backend import NodePlacement, NodeTime
from edgesdk.evidence import Evidence
from edgesdk.onnxfile.work import Tensor, Work
from edgesdk.placement import (
    Basis,
    UnitShares,
    least_times,
    only_moves,
    percent,
    shortened,
    unit_shares,
    with_place,
)

UNITS = st.sampled_from(["npu", "gpu", "cpu"])
OPS = st.sampled_from(["Conv", "MatMul", "Softmax", "Reshape", "QuantizeLinear"])
MS = st.floats(min_value=1e-4, max_value=1e4)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[NodePlacement], list[NodeTime], list[Work]]:
    """An executed graph: where each node ran, how long, and what it has to do."""
    count = draw(st.integers(1, 12))
    placement, times, work = [], [], []
    for number in range(count):
        name, op = f"n{number}", draw(OPS)
        macs = draw(st.integers(1, 10**9)) if op in ("Conv", "MatMul") else 0
        placement.append(NodePlacement(node=name, op=op, unit=draw(UNITS), origin=(name,)))
        times.append(NodeTime(node=name, op=op, ms=draw(MS)))
        work.append(
            Work(name=name, op=op, inputs=(), outputs=(Tensor(name=f"t{number}"),), macs=macs)
        )
    return placement, times, work


def shares(
    placement: list[NodePlacement],
    times: list[NodeTime] | None = None,
    work: list[Work] | None = None,
    wanted: str = "npu",
) -> UnitShares:
    found = unit_shares(
        placement, times or (), work or (), wanted=wanted, evidence=Evidence.MEASURED
    )
    assert found is not None
    return found


@given(runs(), st.booleans(), st.booleans(), UNITS)
def test_shares_add_up_whatever_is_known(
    run: tuple[list[NodePlacement], list[NodeTime], list[Work]],
    timed: bool,
    counted: bool,
    wanted: str,
) -> None:
    placement, times, work = run
    found = shares(placement, times if timed else None, work if counted else None, wanted)
    assert math.fsum(found.units.values()) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 + 1e-9 for share in found.units.values())
    assert list(found.units.values()) == sorted(found.units.values(), reverse=True)
    assert math.fsum(one.share for one in found.elsewhere) == pytest.approx(found.fallback)
    assert found.fallback == pytest.approx(1.0 - found.units.get(wanted, 0.0))
    assert {one.node for one in found.elsewhere} == {
        item.node for item in placement if item.unit != wanted
    }
    assert UnitShares.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(runs(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(
    run: tuple[list[NodePlacement], list[NodeTime], list[Work]], random: Random
) -> None:
    placement, times, work = run
    mixed = placement.copy(), times.copy(), work.copy()
    for part in mixed:
        random.shuffle(part)
    for known in (set(), {"times"}, {"work"}):
        before, after = (
            shares(nodes, ms if "times" in known else None, macs if "work" in known else None)
            for nodes, ms, macs in (run, mixed)
        )
        assert after.by == before.by
        assert after.units == pytest.approx(before.units)


@given(runs())
def test_times_are_taken_before_counts_and_counts_before_nodes(
    run: tuple[list[NodePlacement], list[NodeTime], list[Work]],
) -> None:
    placement, times, work = run
    assert shares(placement, times, work).by == Basis.TIME
    multiplies = any(item.macs for item in work)
    assert shares(placement, None, work).by == (Basis.MACS if multiplies else Basis.NODES)
    assert shares(placement).by == Basis.NODES


@given(runs(), UNITS)
def test_what_moves_data_counts_only_in_times(
    run: tuple[list[NodePlacement], list[NodeTime], list[Work]], unit: str
) -> None:
    placement, times, work = run
    mover = NodePlacement(node="moved", op="TRANSPOSE", unit=unit)
    if not all(only_moves(item.op) for item in placement):
        assert shares([*placement, mover]).units.get("npu", 0.0) == pytest.approx(
            shares(placement).units.get("npu", 0.0)
        )
    if any(item.macs for item in work):
        with_it = shares([*placement, mover], None, work)
        assert with_it.by == Basis.MACS
        assert with_it.fallback == pytest.approx(shares(placement, None, work).fallback)
    late = NodeTime(node="moved", op="TRANSPOSE", ms=sum(time.ms for time in times))
    assert shares([*placement, mover], [*times, late]).units[unit] >= 0.5 - 1e-9


def test_times_that_leave_out_a_unit_are_not_believed() -> None:
    """An engine that times its own nodes only would otherwise have no fallback at all."""
    placement = [
        NodePlacement(node="conv", op="Conv", unit="npu"),
        NodePlacement(node="softmax", op="Softmax", unit="cpu", why="no kernel for axis 1"),
    ]
    found = shares(placement, [NodeTime(node="conv", op="Conv", ms=1.0, unit="npu")])
    assert found.by == Basis.NODES
    assert str(found) == "npu 50 %, cpu 50 % of the nodes that compute"
    (one,) = found.elsewhere
    assert (one.node, one.share, one.why) == ("softmax", 0.5, "no kernel for axis 1")


def test_an_untraced_multiplication_forbids_counting() -> None:
    work = [
        Work(name=name, op="Conv", inputs=(), outputs=(Tensor(name=f"{name}_out"),), macs=macs)
        for name, macs in (("a", 300), ("b", 100))
    ]
    fused = NodePlacement(node="x", op="Convolution", unit="npu", origin=("a_out",))
    other = NodePlacement(node="y", op="Convolution", unit="cpu", origin=("b",))
    assert str(shares([fused, other], None, work)) == (
        "npu 75 %, cpu 25 % of the multiply-accumulates"
    )
    lost = replace(other, origin=())
    assert shares([fused, lost], None, work).by == Basis.NODES
    unknown = [work[0], replace(work[1], macs=None)]
    assert shares([fused, other], None, unknown).by == Basis.NODES


def test_a_node_that_was_split_shares_its_work() -> None:
    work = [Work(name="a", op="Conv", inputs=(), outputs=(), macs=300)]
    halves = [
        NodePlacement(node=f"a_{unit}", op="Conv", unit=unit, origin=("a",))
        for unit in ("npu", "cpu")
    ]
    moved = NodePlacement(node="a_copy", op="Reorder", unit="cpu", origin=("a",))
    assert shares([*halves, moved], None, work).units == {"npu": 0.5, "cpu": 0.5}


@given(runs(), st.booleans(), st.booleans())
def test_a_headline_names_the_unit_only_where_nine_tenths_of_the_time_are_there(
    run: tuple[list[NodePlacement], list[NodeTime], list[Work]], timed: bool, counted: bool
) -> None:
    placement, times, work = run
    found = shares(placement, times if timed else None, work if counted else None)
    told = with_place("2 x the speed", found, "npu")
    claims = timed and found.fallback <= 0.1
    assert ("it runs on the npu" in told) == claims
    assert (str(found) in told) == bool(found.elsewhere or not claims)
    assert with_place("2 x the speed", None, "npu").endswith("is not known")


@given(st.lists(st.tuples(st.sampled_from("ab"), MS), max_size=8), st.integers(0, 7), MS)
def test_looks_that_were_disturbed_change_nothing(
    nodes: list[tuple[str, float]], where: int, more: float
) -> None:
    times = [NodeTime(node=name, op="Conv", ms=ms) for name, ms in nodes]
    assert sorted(least_times([times]), key=repr) == sorted(times, key=repr)
    disturbed = [
        replace(time, ms=time.ms + more) if at == where else time for at, time in enumerate(times)
    ]
    found = least_times([disturbed, times, disturbed])
    assert sorted(found, key=repr) == sorted(times, key=repr)


def test_a_headline_of_a_cpu_that_was_wanted_stays_as_it_is() -> None:
    here = shares([NodePlacement(node="a", op="Conv", unit="cpu")], wanted="cpu")
    assert with_place("2 x the speed", here, "cpu") == "2 x the speed"
    assert with_place("2 x the speed", None, "cpu") == "2 x the speed"


def test_a_unit_without_a_share_is_told_only_where_it_was_wanted() -> None:
    conv = NodePlacement(node="a", op="Conv", unit="npu")
    moved = NodePlacement(node="b", op="Reshape", unit="cpu")
    assert str(shares([conv, moved])) == "npu 100 % of the nodes that compute"
    assert str(shares([conv, moved], wanted="gpu")) == (
        "npu 100 %, gpu 0 % of the nodes that compute"
    )


def test_nothing_is_said_where_the_runtime_tells_nothing() -> None:
    times = [NodeTime(node="a", op="Conv", ms=1.0)]
    assert unit_shares((), times, wanted="npu", evidence=Evidence.MEASURED) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.0004, "<0.1 %"),
        (0.004, "0.4 %"),
        (0.34, "34 %"),
        (0.997, "99.7 %"),
        (0.99999, ">99.9 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_reads_as_documented(share: float, text: str) -> None:
    assert percent(share) == text


@given(st.text(max_size=200), st.integers(8, 80))
def test_a_shortened_name_keeps_its_ends(name: str, width: int) -> None:
    short = shortened(name, width)
    assert len(short) <= width
    assert short == name or (name.startswith(short[:3]) and name.endswith(short[-3:]))


@pytest.mark.parametrize(
    "op", ["Reshape", "EXPAND_DIMS", "com.microsoft::QuantizeLinear", "com.microsoft.Cast"]
)
def test_movers_are_known_in_the_words_of_engines(op: str) -> None:
    assert only_moves(op)


@pytest.mark.parametrize("op", ["Conv", "CONV_2D", "Softmax", "Add", "FullyConnected", "MVN"])
def test_what_computes_is_no_mover(op: str) -> None:
    assert not only_moves(op)
