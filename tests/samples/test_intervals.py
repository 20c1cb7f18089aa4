"""Intervals against order statistics and Student's t, and how often they hold the truth when rounds are alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from dyncomp.samples import Interval, between_timings, median_interval, side_of
from dyncomp.samples.intervals import BETWEEN, _medians, _widening, block_length

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def independent(draw: np.random.Generator, count: int) -> NDArray[np.float64]:
    return draw.normal(size=count)


def alike(strength: float) -> Draw:
    """An autoregression of first order, its marginal distribution that of `independent`."""

    def drawn(draw: np.random.Generator, count: int) -> NDArray[np.float64]:
        noise = draw.normal(size=count + 100) * math.sqrt(1 - strength**2)
        values = np.zeros(count + 100)
        for place in range(1, len(values)):
            values[place] = strength * values[place - 1] + noise[place]
        return values[100:]

    return drawn


def interrupted(draw: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Ratios on a busy machine: either of both networks is often interrupted, and then takes far longer."""
    return 4.0 * (draw.random(count) < 0.4) - 4.0 * (draw.random(count) < 0.4) + draw.normal(size=count)


@pytest.mark.parametrize(
    ("drawn", "least"),
    [(independent, 0.93), (alike(0.3), 0.90), (alike(0.6), 0.87), (interrupted, 0.93)],
    ids=["independent", "alike", "very alike", "interrupted"],
)
@pytest.mark.parametrize("count", [30, 120])
def test_intervals_hold_the_truth_as_often_as_they_say(drawn: Draw, least: float, count: int) -> None:
    """95 % is promised; what is asked for leaves room for 300 trials, and for autocorrelation that nobody can see."""
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        low, _, high = median_interval(list(100 + drawn(draw, count)), resamples=300)
        held += low <= 100 <= high
    assert least <= held / 300


def test_blocks_matter() -> None:
    """Drawn one by one, rounds that are alike would seem to know twice as much as they do."""
    draw = np.random.default_rng(8)
    held = 0
    for _ in range(200):
        values = alike(0.6)(draw, 120)
        low, high = np.percentile(_medians(values[:, None], 1, 300), [2.5, 97.5])
        held += low <= 0 <= high
    assert held / 200 < 0.8


def test_against_the_binomial_interval_of_order_statistics() -> None:
    """For n = 201 independent values: the 87th and the 115th in order, 1.96 * sqrt(201) / 2 = 13.9 from the middle."""
    values = np.random.default_rng(1).normal(1.5, 0.1, 201)
    low, middle, high = median_interval(list(values))
    ordered = np.sort(values)
    assert middle == ordered[100]
    expected = ordered[114] - ordered[86]
    assert high - low == pytest.approx(expected, rel=0.35)
    assert low < middle < high


def test_medians_of_single_rounds_against_scipy() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    found = np.percentile(_medians(values[:, None], 1, 4000), [2.5, 97.5])
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert found == pytest.approx([theirs.low, theirs.high], rel=0.05)


def test_medians_by_blocks_of_a_hand_made_series() -> None:
    """Blocks of all rounds, in a circle: every resample holds the same values, so every median is the same."""
    values = np.arange(7.0)[:, None]
    assert set(_medians(values, 7, 50)) == {3.0}
    assert len(set(_medians(values, 1, 50))) > 3


def test_rounds_of_several_batches_are_drawn_whole() -> None:
    rounds = [[1.0, 3.0, 2.0]] * 30
    assert median_interval(rounds) == Interval(2.0, 2.0, 2.0)
    wide = median_interval([[1.0] * 3, [3.0] * 3] * 15)
    assert (wide.low, wide.high) == pytest.approx((1.0, 3.0), abs=1.0)


def test_long_series_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(50, 2))
    whole = _medians(values, 3, 100)
    monkeypatch.setattr("dyncomp.samples.intervals.MOST_VALUES", 700)
    assert (_medians(values, 3, 100) == whole).all()


def test_widening_is_students() -> None:
    assert _widening(6) == pytest.approx(2.570582 / 1.959964 * math.sqrt(6 / 5), rel=1e-5)
    assert _widening(1000) == pytest.approx(1.0, abs=3e-3)


def test_block_length_follows_the_autocorrelation() -> None:
    draw = np.random.default_rng(5)
    assert block_length(independent(draw, 1000)) == 15  # 1.5 times the cube root
    assert 20 <= block_length(alike(0.95)(draw, 1000)) <= 166
    assert block_length(np.ones(20)) == 3
    assert block_length(np.arange(3.0)) == 1
    spikes = independent(draw, 1000) + 1000 * (np.arange(1000) % 97 == 0)
    assert block_length(spikes) == 15


@pytest.mark.parametrize(("values", "middle"), [([], math.nan), ([2.0], 2.0)])
def test_interval_of_too_few_rounds_is_unknown(values: list[float], middle: float) -> None:
    low, found, high = median_interval(values)
    assert math.isnan(low)
    assert math.isnan(high)
    assert found == pytest.approx(middle, nan_ok=True)
    assert math.isnan(median_interval(values).width)


def test_the_same_values_have_the_same_interval() -> None:
    values = list(np.random.default_rng(6).normal(size=40))
    assert median_interval(values) == median_interval(values)


def test_what_timings_differ_by_is_held_too() -> None:
    low, middle, high = between_timings(Interval(1.9, 2.0, 2.2))
    assert middle == 2.0
    assert 1 - low / middle == pytest.approx(np.sqrt(0.05**2 + (1.959964 * BETWEEN) ** 2))
    assert high / middle - 1 == pytest.approx(np.sqrt(0.1**2 + (1.959964 * BETWEEN) ** 2))
    exact = between_timings(Interval(3.0, 3.0, 3.0))
    assert exact.width == pytest.approx(2 * 1.959964 * BETWEEN)
    assert all(math.isnan(value) for value in between_timings(Interval(math.nan, math.nan, math.nan)))


def test_width_is_a_share_of_the_middle() -> None:
    assert Interval(9.0, 10.0, 12.0).width == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.001, 1.2, "faster"),
        (0.8, 0.999, "slower"),
        (0.99, 1.01, "same"),
        (1.0, 1.2, "same"),
        (0.8, 1.0, "same"),
        (math.nan, math.nan, "same"),
    ],
)
def test_different_only_where_the_whole_interval_is(low: float, high: float, said: str) -> None:
    assert side_of(low, high) == said
