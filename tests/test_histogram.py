from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesdk.compress.clipping import (
    choose_range,
    entropy,
    least_error,
    minmax,
    percentile,
    squared_error,
)
from edgesdk.compress.histogram import BINS, EDGES, Histogram, Tally, is_masked, merged

Values = NDArray[np.float32]

anything = st.lists(st.floats(width=32), max_size=60)
finite = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=80)
scales = st.sampled_from([1e-6, 1e-2, 1.0, 300.0])


def histogram_of(values: Any) -> Histogram:
    tally = Tally()
    tally.add(np.asarray(values, np.float32))
    return tally.histogram()


def noise(count: int, seed: int, scale: float = 1.0) -> Values:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def quantized(values: Values, low: float, high: float, bits: int, symmetric: bool) -> Values:
    steps = 2**bits - (2 if symmetric else 1)
    step = (high - low) / steps
    zero = np.round(-low / step)
    level = np.clip(np.round(values / step), -zero, steps - zero)
    return np.asarray(level * step, np.float32)


@given(st.lists(anything, max_size=6), st.randoms())
def test_parts_merge_to_the_whole_in_any_order(parts: list[list[float]], random: Any) -> None:
    whole = histogram_of([value for part in parts for value in part])
    random.shuffle(parts)
    pieces = [histogram_of(part) for part in parts]
    assert reduce(merged, pieces, histogram_of([])) == whole


@given(anything)
def test_every_value_is_counted_once_where_it_belongs(values: list[float]) -> None:
    found = histogram_of(values)
    regular = [value for value in values if math.isfinite(value)]
    assert found.count == len(regular)
    assert found.strange == len(values) - len(regular)
    assert found.nan == sum(math.isnan(value) for value in values)
    if not regular:
        return
    assert (found.lowest, found.highest) == (min(regular), max(regular))
    expected = dict.fromkeys(range(BINS), 0)
    for value in regular:
        expected[_bin(value)] += 1
    assert {b: n for b, n in expected.items() if n} == dict(
        zip(found.bins.tolist(), found.counts.tolist(), strict=True)
    )
    low, high = found.intervals()
    assert (low <= high).all()
    assert low.min() == found.lowest
    assert high.max() == found.highest


def _bin(value: float) -> int:
    """By comparison with the edges: the bin whose edge nearer to zero is included."""
    zero = BINS // 2
    if value > 0:
        return max(zero, int(np.searchsorted(EDGES, value, side="right")) - 1)
    return min(zero, int(np.searchsorted(EDGES, value, side="left")) - 1)


def test_edges_ascend_and_no_bin_is_wider_than_a_128th_of_its_values() -> None:
    assert len(EDGES) == BINS + 1
    assert (np.diff(EDGES) > 0).all()
    low, high = EDGES[BINS // 2 + 1 : -2], EDGES[BINS // 2 + 2 : -1]
    assert ((high - low) / low).max() <= 1 / 128


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_shape_order_and_float_type_can_be_counted(dtype: Any) -> None:
    values = noise(240, 1).astype(dtype)
    arranged = values.reshape(4, 60).T[::-1]
    assert histogram_of(arranged) == histogram_of(values)
    assert histogram_of(np.zeros((0, 3), dtype)) == histogram_of([])


def test_a_large_tensor_is_counted_like_its_pieces() -> None:
    values = noise(700_001, 2)
    pieces = [histogram_of(part) for part in np.array_split(values, 7)]
    assert histogram_of(values) == reduce(merged, pieces)


@given(finite, scales)
def test_every_way_gives_a_range_around_zero_within_the_values(
    values: list[float], scale: float
) -> None:
    found = histogram_of(np.asarray(values, np.float32) * np.float32(scale))
    low, high = minmax(found)
    for how in ("minmax", "percentile", "entropy", "mse"):
        chosen = choose_range(found, how, bits=8, symmetric=False)
        assert low <= chosen[0] <= 0.0 <= chosen[1] <= high


def test_no_values_give_no_range() -> None:
    for how in ("minmax", "percentile", "entropy", "mse"):
        chosen = choose_range(histogram_of([np.nan]), how, bits=8, symmetric=True)
        assert chosen == (0.0, 0.0)


def test_percentiles_are_those_of_the_values() -> None:
    values = noise(100_000, 3)
    low, high = percentile(histogram_of(values), 0.98)
    expected = np.quantile(values, [0.01, 0.99])
    np.testing.assert_allclose([low, high], expected, rtol=0.01)
    assert percentile(histogram_of(values), 1.0) == minmax(histogram_of(values))


def test_a_rare_outlier_is_clipped_by_all_but_minmax() -> None:
    values = np.append(noise(200_000, 4), np.float32(60.0))
    found = histogram_of(values)
    assert minmax(found)[1] == 60.0
    assert percentile(found)[1] < 7.0
    assert entropy(found, bits=8)[1] < 15.0
    assert least_error(found, bits=4, symmetric=False)[1] < 7.0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "scale"), [(4, 1.0), (8, 1.0), (8, 1e-5), (16, 50.0)])
def test_the_error_of_a_range_is_that_of_quantizing_the_values(
    bits: int, scale: float, symmetric: bool
) -> None:
    values = noise(100_000, 5, scale)
    found = histogram_of(values)
    for low, high in ((-1.5, 1.5), (-4.0, 4.0)):
        ends = low * scale, high * scale
        expected = np.mean((values - quantized(values, *ends, bits, symmetric)) ** 2.0)
        error = squared_error(found, *ends, bits=bits, symmetric=symmetric)
        assert error == pytest.approx(expected, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([4, 8]), scales)
def test_no_other_range_has_much_less_error(
    seed: int, symmetric: bool, bits: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, 4000) * rng.choice([0.1, 1.0], 4000) + rng.choice([0.0, 2.0])
    found = histogram_of(np.maximum(values, rng.choice([-0.3, -100.0])) * scale)
    chosen = least_error(found, bits=bits, symmetric=symmetric)
    error = squared_error(found, *chosen, bits=bits, symmetric=symmetric)
    low, high = minmax(found)
    for part in rng.uniform(0.02, 1.0, (60, 2)):
        other = low * part[0], high * part[1]
        if symmetric:
            other = -max(-low, high) * part[0], max(-low, high) * part[0]
        if other[0] < other[1]:
            least = squared_error(found, *other, bits=bits, symmetric=symmetric)
            assert error <= 1.1 * least


def test_fewer_bits_clip_more() -> None:
    found = histogram_of(noise(100_000, 6))
    widths = [least_error(found, bits=bits, symmetric=True)[1] for bits in (3, 4, 8, 16)]
    assert widths == sorted(widths)
    assert widths[0] < 2.5 < widths[-1]


def test_entropy_clips_nothing_where_there_are_few_values() -> None:
    found = histogram_of(noise(3000, 7))
    assert entropy(found, bits=8) == minmax(found)


def test_entropy_does_not_depend_on_how_many_zeros_there_are() -> None:
    values = np.maximum(noise(50_000, 7), 0)
    more = np.concatenate((values, np.zeros(1_000_000, np.float32)))
    assert entropy(histogram_of(values), bits=8) == entropy(histogram_of(more), bits=8)


@pytest.mark.parametrize("mask", [-1e4, -1e9, -3.4028235e38, -np.inf, 1e9])
def test_values_that_stand_for_not_there_are_found(mask: float) -> None:
    logits = noise(1000, 8, 5.0)
    assert is_masked(histogram_of([*logits, mask]))
    assert is_masked(histogram_of([*(logits + np.float32(mask)), *logits]))
    assert is_masked(histogram_of([0.0, mask]))


@pytest.mark.parametrize(
    "values",
    [
        noise(1000, 9, 5.0),
        noise(1000, 9, 1e6),
        np.arange(-32768, 32768),
        np.geomspace(1e-3, 1e6, 500),
        np.zeros(3),
        np.full(3, 5000.0),
        [],
        [np.nan],
        [*noise(1000, 9), 60.0],
    ],
)
def test_large_values_alone_are_no_mask(values: Any) -> None:
    assert not is_masked(histogram_of(values))
