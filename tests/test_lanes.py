"""The same work on many things, several at a time."""

from __future__ import annotations

import threading

import pytest

from edgesdk.lanes import side_by_side


def test_results_come_in_order_whoever_is_first() -> None:
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(10.0)
        if number == 1:
            second_done.set()
        return number * number

    assert list(side_by_side(work, range(5), 2)) == [0, 1, 4, 9, 16]


def test_no_more_run_at_once_than_there_are_lanes() -> None:
    together = threading.Barrier(3)

    def work(_: int) -> int:
        return together.wait(10.0)

    assert sorted(side_by_side(work, range(6), 3)) == [0, 0, 1, 1, 2, 2]


def test_an_error_is_raised_in_its_place_and_nothing_more_is_begun() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ValueError("no good")
        return number

    results = side_by_side(work, range(100), 1)
    assert next(results) == 0
    with pytest.raises(ValueError, match="no good"):
        next(results)
    assert list(results) == []
