"""Rounds: what is paired with what, and what is left when the images' own differences are taken out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyncomp.samples import Rounds

SAMPLES = {"s": [4.0, 6.0, 9.0, 11.0], "a": [1.0, 4.0, 6.0, 4.0], "late": [2.0, 3.0, 5.0]}


def test_totals_and_ratios_are_of_whole_rounds() -> None:
    rounds = Rounds(SAMPLES, per_round=2)
    assert [rounds.count(name) for name in ("s", "a", "late", "unknown")] == [2, 2, 1, 0]
    assert rounds.totals("a") == [5.0, 10.0]
    assert rounds.ratios("a", "s") == [2.0, 2.0]
    assert rounds.ratios("late", "s") == [2.0]  # the half round is left out
    assert rounds.split("late") == [[2.0, 3.0]]
    assert rounds.median("a").middle == 4.0
    assert rounds.speedup("a", "s").middle == 2.0


def test_against_itself_everything_is_known_and_against_nothing_nothing() -> None:
    rounds = Rounds(SAMPLES)
    assert rounds.speedup("s", "s") == (1.0, 1.0, 1.0)
    assert all(math.isnan(value) for value in rounds.speedup("s", None))
    assert all(math.isnan(value) for value in rounds.speedup("s", "unknown"))


def test_a_drift_that_all_share_leaves_the_ratio_alone() -> None:
    drift = np.linspace(1, 5, 60)
    rounds = Rounds({"s": list(6 * drift), "a": list(4 * drift)})
    assert rounds.speedup("a", "s") == pytest.approx((1.5, 1.5, 1.5))
    assert rounds.median("a").width > 0.3


def test_images_that_cost_more_are_no_noise() -> None:
    costs = [1.0, 3.0, 10.0, 2.0]
    rounds = Rounds({"a": costs * 9}, per_round=1, distinct=4)
    assert rounds.relative("a") == [1.0] * 36
    unknown = Rounds({"a": costs * 9})
    assert unknown.relative("a") == [cost / 2.5 for cost in costs * 9]
    assert Rounds({"a": costs}, 1, 4).relative("a") == unknown.relative("a")[:4]  # none has come again


def test_what_is_left_is_as_wide_as_the_noise() -> None:
    draw = np.random.default_rng(0)
    costs = np.tile([1.0, 3.0, 10.0, 2.0, 7.0, 1.5, 4.0, 6.0], 200)  # 200 times, so in pairs or triples of their own
    noise = draw.normal(1, 0.02, len(costs))
    for again in (2, 3, 5):
        spreads = []
        for part in range(200 // again):
            span = slice(part * 8 * again, (part + 1) * 8 * again)
            relative = Rounds({"a": list(costs[span] * noise[span])}, 1, 8).relative("a")
            spreads.append(np.std(relative))
        assert np.sqrt(np.mean(np.square(spreads))) == pytest.approx(0.02, rel=0.2)


def test_no_rounds_leave_nothing() -> None:
    assert Rounds({}).relative("a") == []


def test_interruptions_leave_the_ratio_alone_and_are_seen_elsewhere() -> None:
    draw = np.random.default_rng(0)
    costs = np.tile([[1.0, 3.0, 2.0, 8.0], [4.0, 1.0, 1.0, 2.0]], (30, 1))  # (rounds, passes)
    own, static = costs.copy(), np.full_like(costs, 2.0)
    hit = draw.random(costs.shape) < 0.25
    own[hit] *= 6
    rounds = Rounds({"s": list(static.ravel()), "a": list(own.ravel())}, per_round=4, distinct=2)
    means = [8 / 14, 8 / 8]  # of the two kinds of rounds
    assert all(any(mean / 1.5 <= ratio <= mean for mean in means) for ratio in rounds.ratios("a", "s"))
    plain = Rounds(rounds.samples_ms, per_round=4)  # nobody knows which batches came again
    assert plain.speedup("a", "s").width > 3 * rounds.speedup("a", "s").width
    assert rounds.totals("a") == plain.totals("a")
    assert rounds.median("a") == plain.median("a")


def test_what_a_batch_costs_by_right_is_not_cut() -> None:
    own = [1.0, 9.0, 1.0, 7.0, 1.0, 9.5, 6.0, 7.2, 1.0, 9.0, 1.0]  # the second batch is dear
    rounds = Rounds({"s": [1.0] * 11, "a": own}, per_round=1, distinct=4)
    cut = [1.0, 9.0, 1.0, 7.0, 1.0, 9.5, 1.5, 7.2, 1.0, 9.0, 1.0]
    assert rounds.ratios("a", "s") == [1 / cost for cost in cut]


def test_a_machine_that_is_slow_most_of_the_time_leaves_the_ratio_and_its_interval_alone() -> None:
    draw = np.random.default_rng(0)
    slow = np.where(draw.random(200) < 0.7, 1.4, 1.0)
    noisy = [draw.lognormal(0.0, 0.03, 200) for _ in range(2)]
    rounds = Rounds({"s": list(5 * slow * noisy[0]), "a": list(4 * slow * noisy[1])}, per_round=1, distinct=8)
    plain = Rounds(rounds.samples_ms)
    assert rounds.speedup("a", "s").middle == pytest.approx(1.25, rel=0.01)
    assert rounds.speedup("a", "s").width == pytest.approx(plain.speedup("a", "s").width, rel=0.3)
