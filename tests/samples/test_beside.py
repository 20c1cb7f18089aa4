"""Ratios to a reference that has had a turn beside each network."""

from __future__ import annotations

import math
import random

import pytest

from dyncomp.samples import Rounds
from dyncomp.samples.verdicts import VALID, judged_speedup


def changing(seed: int, apart: int, count: int = 120) -> Rounds:
    """A machine whose pace wanders by a third within a tenth of a second; the network takes half as long.

    A turn takes 10 ms, and `apart` turns lie between the network's and that of the reference in the round's order.
    """
    draw, wander = random.Random(seed), 0.0
    samples: list[float] = []
    beside: list[float] = []
    at_start: list[float] = []
    for _ in range(count):
        for place in range(26):
            wander = 0.95 * wander + draw.gauss(0, 0.1)
            pace = math.exp(wander)
            if place == 0:
                at_start.append(pace)
            if place == apart - 1:
                beside.append(pace)
            if place == apart:
                samples.append(0.5 * pace)
    return Rounds({"static": at_start, "it": samples}, 1, 0, "static", {"it": beside})


@pytest.mark.parametrize("seed", range(5))
def test_a_turn_beside_it_tells_the_ratio_where_a_turn_apart_does_not(seed: int) -> None:
    rounds = changing(seed, apart=20)
    speedup, verdict = judged_speedup(rounds, "it", "static")
    assert verdict == VALID
    assert speedup.middle == pytest.approx(2.0, rel=0.03)
    apart = Rounds(rounds.samples_ms, 1, 0)
    assert apart.speedup("it", "static").width > 2 * rounds.speedup("it", "static").width


def test_another_reference_is_compared_round_by_round() -> None:
    rounds = Rounds(
        {"static": [1.0, 1.0], "compiled": [0.5, 0.5], "it": [0.25, 0.25]}, 1, 0, "static", {"it": [2.0, 2.0]}
    )
    assert rounds.ratios("it", "compiled") == [2.0, 2.0]
    assert rounds.ratios("it", "static") == [8.0, 8.0]
    assert rounds.ratios("compiled", "static") == [2.0, 2.0]
