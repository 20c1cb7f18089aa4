"""Verdicts on series made by hand: valid ones, and one for each reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from dyncomp.samples import Load, Rounds, is_invalid, judged_speedup, side_of, verdict
from dyncomp.samples.intervals import BETWEEN
from dyncomp.samples.verdicts import VALID

IDLE = Load(2, 0.9, 0.05, 0.5)


def steady(count: int = 60, noise: float = 0.01, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(10.0, 10.0 * noise, count)


def judged(values: NDArray[np.float64], load: Load | None = IDLE) -> str:
    return verdict(Rounds({"a": list(values)}), "a", load)


def pair(count: int, noise: float, slower: float, seed: int, shared: float = 0.3) -> Rounds:
    """A network and static, each with a noise of its own, both slowed alike from round to round by `shared`.

    From one timing to the next their ratio differs by `BETWEEN`.
    """
    draw = np.random.default_rng(seed)
    machine = draw.lognormal(0.0, shared, count)
    static, own = (10.0 * machine * draw.lognormal(0.0, noise, count) for _ in range(2))
    own *= draw.lognormal(0.0, BETWEEN)
    return Rounds({"s": list(static), "a": list(own * (1 + slower))})


@pytest.mark.parametrize("load", [None, IDLE, Load(2, None, None, None), Load(64, 2.0, 6.0, 8.0)])
def test_steady_times_on_an_idle_machine_are_valid(load: Load | None) -> None:
    assert judged(steady(), load) == VALID
    assert not is_invalid(judged(steady(), load))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (steady(19), "too few samples (19 rounds, at least 20 are wanted)"),
        (steady(400, noise=0.1), "noisy (interquartile range 13 % of the median)"),
        (steady() * np.linspace(1, 1.3, 60), "drifting (the last third 20% slower)"),
        (steady() * np.linspace(1.3, 1, 60), "drifting (the last third 16% faster)"),
    ],
    ids=["few", "noisy", "slower", "faster"],
)
def test_each_reason_is_named(values: NDArray[np.float64], reason: str) -> None:
    text = judged(values)
    assert text.startswith("INVALID: ")
    assert is_invalid(text)
    kind = reason.partition("(")[0]
    assert kind in text
    spread = np.subtract(*np.percentile(values / np.median(values), [75, 25])) if len(values) > 100 else None
    assert (f"{100 * spread:.0f} %" in text) if spread else True
    assert reason in text or kind in ("noisy ", "drifting ")


def test_drift_below_the_noise_is_none() -> None:
    noisy = steady(30, noise=0.05)
    assert "drifting" not in judged(noisy * np.linspace(1, 1.06, 30))
    assert "drifting" not in judged(steady() * np.linspace(1, 1.04, 60))


def test_what_images_cost_is_neither_noise_nor_drift() -> None:
    costs = np.tile(np.arange(1.0, 9.0), 8)
    rounds = Rounds({"a": list(costs * steady(64))}, 1, 8)
    assert verdict(rounds, "a", IDLE) == VALID
    assert "noisy" in verdict(Rounds({"a": list(costs * steady(64))}), "a", IDLE)


def test_other_load_is_told_in_processors() -> None:
    assert judged(steady(), Load(2, 0.9, 0.8, 1.7)) == (
        "INVALID: other load (0.8 of 2 processors busy with other work)"
    )
    assert judged(steady(), Load(2, 0.9, 0.19, 1.1)) == VALID


def test_what_slows_both_alike_is_no_matter_of_the_ratio() -> None:
    rounds = pair(60, 0.02, 0.0, seed=0)
    assert "noisy" in verdict(rounds, "a", IDLE)
    assert judged_speedup(rounds, "a", "s")[1] == judged_speedup(rounds, "s", "s")[1] == VALID


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (pair(19, 0.01, 0.0, 0), "INVALID: too few rounds (19, at least 20 are wanted)"),
        (pair(30, 0.3, 0.0, 0), "INVALID: known too roughly (the rounds' interval is "),
        (Rounds({"a": list(steady() * np.linspace(1, 1.3, 60)), "s": list(steady(seed=1))}), "% smaller)"),
        (Rounds({"a": list(steady()), "s": list(steady(seed=1) * np.linspace(1, 1.3, 60))}), "% greater)"),
        (Rounds({"a": list(steady())}), "INVALID: too few rounds (0, at least 20 are wanted)"),
    ],
    ids=["few", "rough", "falling", "rising", "no reference"],
)
def test_each_reason_of_a_ratio_is_named(rounds: Rounds, said: str) -> None:
    assert said in str(judged_speedup(rounds, "a", "s")[1])


@pytest.mark.parametrize("noise", [0.02, 0.04, 0.06])
def test_what_is_valid_declares_what_there_is(noise: float) -> None:
    """Of ratios that are VALID: a network and itself differ in at most 5 %, and 10 % are found in at least 95 %.

    Both within what chance allows in 300 comparisons. At a noise of 10 % one in twenty is VALID, by an interval that
    chance made narrow, and of these some are wrong.
    """

    def sides(slower: float) -> list[str]:
        judged = [judged_speedup(pair(60, noise, slower, seed), "a", "s") for seed in range(300)]
        return [side_of(one.low, one.high) for one, verdict in judged if verdict == VALID]

    found, alike = sides(0.10), sides(0.0)
    chance = 2 * math.sqrt(0.95 * 0.05 / len(found))
    assert found.count("slower") >= (0.95 - chance) * len(found)
    assert len(alike) - alike.count("same") <= (0.05 + chance) * len(alike)
    assert len(found) == 300 or noise > 0.02


@pytest.mark.parametrize("text", [VALID, None, float("nan"), ""])
def test_only_a_verdict_says_invalid(text: object) -> None:
    assert not is_invalid(text)


def test_false_alarms_are_rare() -> None:
    assert all(judged(steady(60, noise=0.03, seed=seed)) == VALID for seed in range(60))
