"""Mutual information of images and decisions, a term of losses against the collapse of gates."""

from __future__ import annotations

import math

from torch import Tensor


def categorical_information(chances: Tensor) -> Tensor:
    """Mutual information in nats of image and choice, for probabilities (B, U) of U choices; a scalar.

    The entropy of the mean probabilities, high if all choices are used, minus the mean entropy of each image's
    probabilities, low if each choice is certain. It is 0 for a gate that decides alike for all images or at random, and
    at most log(U). Differentiable, also at probability 0.
    """
    return _entropy(chances.mean(dim=0)) - _entropy(chances).mean()


def binary_information(chances: Tensor, used: Tensor, enough: float = math.log(2)) -> Tensor:
    """Mutual information in nats of image and decision, mean over T units that are on or off; a scalar.

    The entropy of each unit's rate of use (from `used`, (B, T): decisions or probabilities), minus the mean entropy of
    its probabilities (B, T). It is 0 for a gate that decides alike for all images or at random. A unit counts up to
    `enough` nats, since a block learns less if half of the images skip it.
    """
    # the margin gives rates of 0 and 1 a finite gradient, which can reopen a dead gate
    rates = _coin_entropy(used.float().mean(dim=0), 0.5 / len(used))
    information = rates - _coin_entropy(chances.float(), 1e-4).mean(dim=0)  # (T,)
    return information.clamp_max(enough).mean()


def _coin_entropy(chances: Tensor, margin: float) -> Tensor:
    inside = chances * (1 - 2 * margin) + margin
    return -(inside * inside.log() + (1 - inside) * (1 - inside).log())


def _entropy(chances: Tensor) -> Tensor:
    inside = chances.clamp_min(1e-6)  # keeps gradients finite; probability 0 adds almost nothing
    return -(inside * inside.log()).sum(dim=-1)
