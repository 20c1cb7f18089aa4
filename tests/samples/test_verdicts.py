"""Verdicts on series made by hand: valid ones, and one for each reason."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dyncomp.samples import Load, Rounds, is_invalid, verdict
from dyncomp.samples.verdicts import VALID

IDLE = Load(2, 0.9, 0.05, 0.5)


def steady(count: int = 60, noise: float = 0.01, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(10.0, 10.0 * noise, count)


def judged(values: NDArray[np.float64], load: Load | None = IDLE, static: NDArray[np.float64] | None = None) -> str:
    rounds = Rounds({"a": list(values), "s": list(steady(seed=1) if static is None else static)})
    return verdict(rounds, "a", load, "s")


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


def test_the_reference_counts_too_and_every_reason_is_given() -> None:
    text = judged(steady(), Load(2, 0.9, 0.8, 1.7), static=steady(noise=0.2))
    assert text.startswith("INVALID: static is noisy (")
    assert "; other load (" in text
    few = judged(steady(5), static=steady(5))
    assert few == "INVALID: too few samples (5 rounds, at least 20 are wanted)"  # told once


@pytest.mark.parametrize("text", [VALID, None, float("nan"), ""])
def test_only_a_verdict_says_invalid(text: object) -> None:
    assert not is_invalid(text)


def test_false_alarms_are_rare() -> None:
    texts = [judged(steady(60, noise=0.03, seed=seed), static=steady(60, seed=1000 + seed)) for seed in range(60)]
    assert texts.count(VALID) == 60
