"""Ratios to a reference that has had a turn beside each network."""

from __future__ import annotations

import random

import pytest

from dyncomp.samples import Rounds
from dyncomp.samples.verdicts import VALID, judged_speedup


def changing(seed: int, apart: int, count: int = 120) -> Rounds:
    """A machine that halves its pace for half a second every now and then; the network takes half of the reference.

    A turn takes 10 ms, and `apart` turns lie between the network's and that of the reference in the round's order.
    """
    draw = random.Random(seed)
    slow, samples, beside, at_start = False, [], [], []
    for _ in range(count):
        for place in range(26):
            if draw.random() < 0.02:
                slow = not slow
            pace = (2.0 if slow else 1.0) * draw.gauss(1, 0.01)
            if place == 0:
                at_start.append(1.0 * pace)
            if place == apart - 1:
                beside.append(1.0 * pace)
            if place == apart:
                samples.append(0.5 * pace)
    return Rounds({"static": at_start, "it": samples}, 1, 0, "static", {"it": beside})


@pytest.mark.parametrize("seed", range(5))
def test_a_turn_beside_it_tells_the_ratio_where_a_turn_apart_does_not(seed: int) -> None:
    rounds = changing(seed, apart=20)
    speedup, verdict = judged_speedup(rounds, "it", "static")
    assert verdict == VALID
    assert speedup.middle == pytest.approx(2.0, rel=0.01)
    apart = Rounds(rounds.samples_ms, 1, 0)
    assert apart.speedup("it", "static").width > 5 * rounds.speedup("it", "static").width


def test_another_reference_is_compared_round_by_round() -> None:
    rounds = Rounds(
        {"static": [1.0, 1.0], "compiled": [0.5, 0.5], "it": [0.25, 0.25]}, 1, 0, "static", {"it": [2.0, 2.0]}
    )
    assert rounds.ratios("it", "compiled") == [2.0, 2.0]
    assert rounds.ratios("it", "static") == [8.0, 8.0]
    assert rounds.ratios("compiled", "static") == [2.0, 2.0]
