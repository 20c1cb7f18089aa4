"""Intervals of accuracies against simulation: how often the truth is inside."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dyncomp.report.statistics import Spread, contrast, paired_difference

TRIES = 400
IMAGES, SEEDS, NETWORKS = 300, 2, 8
ALLOWED = 3 * (0.05 * 0.95 / TRIES) ** 0.5
"""three standard deviations of a share of 95 % of so many tries"""


def right(difficulty: np.ndarray, skill: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(..., N) right answers: the chance of each image is a logistic curve of skill less difficulty."""
    chance = 1 / (1 + np.exp(difficulty - skill[..., None]))
    return draw.random(chance.shape) < chance


def frame(answers: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"label": np.ones(answers.size, dtype=int), "prediction": answers.astype(int)})


def coverage(own: float, other: float, seed_noise: float, better: float = 2.5) -> float:
    """The share of experiments whose interval holds the difference over all images and all seeds."""
    draw = np.random.default_rng(0)
    many = right(draw.normal(0, 2, 400_000), better + np.array([own, other]), draw).mean(axis=1)
    if seed_noise:
        skills = better + np.array([own, other])[:, None] + draw.normal(0, seed_noise, (2, 4000))
        many = right(draw.normal(0, 2, (2, 4000, 200)).reshape(2, 4000, 200), skills, draw).mean(axis=(1, 2))
    truth = 100 * float(many[0] - many[1])
    inside = 0
    for _ in range(TRIES):
        difficulty = draw.normal(0, 2, IMAGES)
        skills = better + np.array([own, other, *[0.0] * (NETWORKS - 2)])[:, None]
        answers = right(difficulty, skills + draw.normal(0, seed_noise, (NETWORKS, SEEDS)), draw)  # (K, S, N)
        spread = Spread.of((100 * answers.mean(axis=2)).tolist())
        seeds = [[(1.0, frame(answers[0, s])), (-1.0, frame(answers[1, s]))] for s in range(SEEDS)]
        found = contrast(seeds, spread)
        assert found is not None
        inside += abs(found.points - truth) <= found.margin
    return inside / TRIES


@pytest.mark.parametrize(("own", "other"), [(0.0, 0.0), (0.5, 0.0)])
@pytest.mark.parametrize("seed_noise", [0.0, 0.15, 0.4])
def test_the_interval_of_several_seeds_holds_the_truth(own: float, other: float, seed_noise: float) -> None:
    """At least as often as is said: what seeds and images share is in both margins, so it is a little wider."""
    assert coverage(own, other, seed_noise) >= 0.95 - ALLOWED


def test_the_interval_of_one_seed_holds_the_truth_of_its_networks() -> None:
    draw, inside = np.random.default_rng(1), 0
    truth = 100 * float(np.subtract(*right(draw.normal(0, 2, 400_000), np.array([2.5, 2.9]), draw).mean(axis=1)))
    for _ in range(TRIES):
        own, other = right(draw.normal(0, 2, IMAGES), np.array([2.5, 2.9]), draw)
        found = paired_difference(frame(other), frame(own))
        assert found is not None
        inside += abs(found.points - truth) <= found.margin
    assert inside / TRIES == pytest.approx(0.95, abs=ALLOWED)
