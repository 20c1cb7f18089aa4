"""The information of image and decision, against the formula spelled out."""

from __future__ import annotations

import math

import pytest
import torch

from dyncomp.ops.balance import binary_information, categorical_information


def test_two_sure_halves_are_one_bit() -> None:
    chances = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert float(binary_information(chances, chances)) == pytest.approx(math.log(2), abs=2e-3)
    assert float(categorical_information(chances)) == pytest.approx(math.log(2), abs=2e-5)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_same_for_every_image_is_nothing(chance: float) -> None:
    chances = torch.full((64, 3), chance, dtype=torch.float64)
    assert abs(float(binary_information(chances, chances))) < 0.05  # the margin that keeps a gradient at 0 and 1


def test_a_gate_that_is_unsure_counts_less_than_its_rate() -> None:
    chances = torch.tensor([[0.9], [0.1]], dtype=torch.float64)
    coin = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert float(binary_information(chances, chances)) == pytest.approx(math.log(2) - coin, abs=2e-3)


def test_more_than_enough_earns_nothing() -> None:
    chances = torch.tensor([[0.95, 0.6], [0.05, 0.4]], dtype=torch.float64, requires_grad=True)
    value = binary_information(chances, chances, enough=0.3)
    plain = binary_information(chances, chances)
    assert float(value.detach()) < float(plain.detach())
    (gradient,) = torch.autograd.grad(value, chances)
    assert not gradient[:, 0].any()
    assert bool(gradient[:, 1].any())


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_a_dead_gate_gets_a_gradient(chance: float) -> None:
    used = torch.full((8, 1), chance, requires_grad=True)
    chances = used.sigmoid()
    (gradient,) = torch.autograd.grad(binary_information(chances, used), used)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())
