"""What decisions say of images, against scikit-learn's own measures, planted dependence and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score, mutual_info_score

from dyncomp.samples import agreement, class_information, effective_number
from dyncomp.samples.routes import PERMUTATIONS

IMAGES, CLASSES = 400, 5


def drawn(seed: int, follows: float, units: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Decisions (N, U) that are on more often for the first classes, by `follows`, and labels (N,)."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(CLASSES, size=IMAGES)
    rate = 0.5 + follows * np.where(labels < 2, 0.5, -0.3)
    return draw.random((IMAGES, units)) < rate[:, None], labels


def test_bits_are_the_mutual_information_less_what_chance_gives() -> None:
    decisions, labels = drawn(0, 0.6)
    found = class_information(decisions, labels)
    bias = (CLASSES - 1) / (2 * IMAGES * math.log(2))  # Miller 1955, to first order
    for unit, bits in enumerate(found.bits):
        counted = mutual_info_score(decisions[:, unit], labels) / math.log(2)
        assert bits == pytest.approx(counted - bias, abs=0.002)
    assert found.p_value == 1 / (1 + PERMUTATIONS)


def test_without_dependence_bits_are_zero_on_average_and_few_p_values_small() -> None:
    found = [class_information(*drawn(seed, 0.0), seed=seed) for seed in range(120)]
    bits = np.array([one.bits for one in found])
    assert abs(bits.mean()) < 4 * bits.std() / math.sqrt(bits.size)
    small = sum(one.p_value < 0.1 for one in found)
    assert binom.ppf(1e-4, len(found), 0.1) <= small <= binom.ppf(1 - 1e-4, len(found), 0.1)


def test_units_that_hang_together_are_one_piece_of_evidence() -> None:
    """Fifty copies of a unit that follows nothing are as unconvincing as one."""
    found = []
    for seed in range(60):
        decisions, labels = drawn(seed, 0.0, units=1)
        found.append(class_information(np.repeat(decisions, 50, axis=1), labels, seed=seed).p_value)
    assert sum(p < 0.1 for p in found) <= binom.ppf(1 - 1e-4, len(found), 0.1)


def test_a_constant_unit_tells_nothing_and_others_go_on() -> None:
    decisions, labels = drawn(1, 0.6)
    found = class_information(np.c_[np.ones(IMAGES, bool), decisions, np.zeros(IMAGES, bool)], labels)
    assert (found.bits[0], found.bits[-1]) == (0.0, 0.0)
    assert found.bits[1:-1] == class_information(decisions, labels).bits


@pytest.mark.parametrize(
    ("decisions", "labels"),
    [
        (np.ones((8, 2), bool), np.arange(8) % 2),
        (np.eye(8, dtype=bool), np.zeros(8, int)),
        (np.ones((8, 0), bool), [0] * 8),
    ],
    ids=["constant", "one class", "no unit"],
)
def test_what_cannot_depend_has_no_small_p_value(decisions: np.ndarray, labels: np.ndarray) -> None:
    found = class_information(decisions, labels)
    assert found.p_value == 1.0 and found.bits == (0.0,) * decisions.shape[1]


@pytest.mark.parametrize(("counts", "number"), [([5, 5, 5, 5], 4.0), ([7], 1.0), ([9, 1], 2**0.4689955935892812)])
def test_effective_number_by_formula(counts: list[int], number: float) -> None:
    assert effective_number(counts) == pytest.approx(number)


def test_agreement_is_cohens_kappa() -> None:
    draw = np.random.default_rng(0)
    one = draw.random((300, 1)) < 0.4
    other = one ^ (draw.random((300, 1)) < 0.2)
    assert agreement(one, other) == pytest.approx(cohen_kappa_score(one[:, 0], other[:, 0]))
    assert agreement(one, one) == pytest.approx(1.0)
    assert agreement(one, ~one) == pytest.approx(cohen_kappa_score(one[:, 0], ~one[:, 0]))


def test_agreement_of_many_units_does_not_count_what_never_varies() -> None:
    draw = np.random.default_rng(0)
    one, other = (draw.random((300, 2)) < 0.5 for _ in range(2))
    stuck = np.ones((300, 40), dtype=bool)
    assert agreement(np.c_[one, stuck], np.c_[other, stuck]) == pytest.approx(agreement(one, other))
    assert agreement(stuck, stuck) is None
