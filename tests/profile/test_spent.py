"""What images cost by class, answer and difficulty, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, ttest_ind

from dyncomp.core import Trace
from dyncomp.profile.evaluation import Evaluation, evaluate
from dyncomp.profile.spent import by_answer, by_class, by_difficulty, spending
from tests.handmade import ALWAYS_MACS, BODY_MACS, bright_or_dark, gated_net

MACS = np.array([10, 20, 30, 40, 50, 60])
RIGHT = np.array([True, True, False, True, False, False])
LABELS = np.array([0, 0, 0, 2, 2, 2])


def drawn(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """MACs and a difficulty that go together loosely, both with ties."""
    random = np.random.default_rng(seed)
    difficulty = np.round(random.random(images), 1)
    return (1000 + 100 * (difficulty + random.normal(0, 1, images))).round(-1).astype(np.int64), difficulty


def test_by_class_by_hand() -> None:
    found = by_class(MACS, LABELS, RIGHT, ("a", "b", "c"))
    assert found == [
        {"class": "a", "images": 3, "macs": 20.0, "flops": 40.0, "top1": pytest.approx(200 / 3)},
        {"class": "c", "images": 3, "macs": 50.0, "flops": 100.0, "top1": pytest.approx(100 / 3)},
    ]


def test_right_and_wrong_by_hand() -> None:
    found = by_answer(MACS, RIGHT)
    assert found["macs_right"] == pytest.approx((10 + 20 + 40) / 3)
    assert found["macs_wrong"] == pytest.approx((30 + 50 + 60) / 3)
    assert found["macs_wrong_less_right"]["mean"] == pytest.approx(70 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_wrong_less_right_is_welchs(seed: int) -> None:
    macs, _ = drawn(80, seed)
    right = np.random.default_rng(seed).random(80) < 0.8
    expected = ttest_ind(macs[~right], macs[right], equal_var=False).confidence_interval(0.95)
    found = by_answer(macs, right)["macs_wrong_less_right"]
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("right", "side"), [([True] * 6, "macs_wrong"), ([False] * 6, "macs_right")])
def test_a_side_without_images_is_none(right: list[bool], side: str) -> None:
    found = by_answer(MACS, np.array(right))
    assert found[side] is None
    assert found["macs_wrong_less_right"] is None
    assert 35.0 in found.values()


def test_equal_costs_differ_by_nothing() -> None:
    found = by_answer(np.full(6, 7), RIGHT)
    assert found["macs_wrong_less_right"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_scipys(seed: int) -> None:
    macs, difficulty = drawn(200, seed)
    found = by_difficulty(macs, difficulty)
    expected = spearmanr(macs, difficulty)
    r = found["macs_difficulty_rank_correlation"]
    assert r == pytest.approx(expected.statistic)
    assert found["macs_difficulty_rank_correlation_p_value"] == pytest.approx(expected.pvalue)
    half = 1.959964 * math.sqrt((1 + r * r / 2) / 197)
    low, high = (found[f"macs_difficulty_rank_correlation_{end}"] for end in ("low", "high"))
    assert (math.atanh(low), math.atanh(high)) == pytest.approx((math.atanh(r) - half, math.atanh(r) + half))


def test_the_interval_covers_what_chance_would_give() -> None:
    """Of 300 pairs of unrelated rankings, about 5 % of the intervals may miss 0."""
    random = np.random.default_rng(5)
    found = [by_difficulty(random.permutation(60), random.random(60)) for _ in range(300)]
    bounds = [[one[f"macs_difficulty_rank_correlation_{end}"] for end in ("low", "high")] for one in found]
    missed = sum(low > 0 or high < 0 for low, high in bounds)
    assert 4 <= missed <= 28  # 15 expected; a binomial leaves these bounds once in a thousand


@pytest.mark.parametrize(
    ("macs", "difficulty"),
    [(np.full(9, 5), np.arange(9)), (np.arange(9), np.zeros(9)), (np.arange(3), np.arange(3))],
)
def test_nothing_to_rank_is_none(macs: np.ndarray, difficulty: np.ndarray) -> None:
    assert set(by_difficulty(macs, difficulty).values()) == {None}


def test_perfect_order_has_no_width() -> None:
    found = by_difficulty(np.arange(20), -np.arange(20.0))
    assert [found[f"macs_difficulty_rank_correlation{end}"] for end in ("", "_low", "_high")] == pytest.approx([-1] * 3)


def test_of_a_network_by_hand() -> None:
    """A body runs for bright images alone, and the third is bright but labelled dark."""
    split = bright_or_dark([True, False, True, False, False])
    object.__setattr__(split, "labels", torch.tensor([1, 0, 0, 0, 0]))
    found = spending(evaluate(gated_net(), split), ("dark", "bright"), np.array([0.9, 0.1, 0.8, 0.2, 0.3]))
    body = ALWAYS_MACS + BODY_MACS
    assert found["macs"] == pytest.approx((2 * body + 3 * ALWAYS_MACS) / 5)
    assert found["macs_max"] == body
    assert [(row["class"], row["images"], row["top1"]) for row in found["macs_by_class"]] == [
        ("dark", 4, 75.0),
        ("bright", 1, 100.0),
    ]
    assert found["macs_by_class"][0]["macs"] == pytest.approx((body + 3 * ALWAYS_MACS) / 4)
    assert found["macs_wrong"] == body
    assert found["macs_right"] == pytest.approx((body + 3 * ALWAYS_MACS) / 4)
    # 1 and 3 against the ranks 5 1 4 2 3 of difficulty: costs rank 4.5 2 4.5 2 2
    assert found["macs_difficulty_rank_correlation"] == pytest.approx(
        np.corrcoef([5, 1, 4, 2, 3], [4.5, 2, 4.5, 2, 2])[0, 1]
    )


def test_difficulty_that_nobody_knows_is_not_told() -> None:
    test = Evaluation(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([3, 5]), Trace({}, {}, 2))
    assert not [name for name in spending(test, ("a", "b"), None) if "difficulty" in name]
