"""What keeps gates from deciding alike for all images."""

from __future__ import annotations

import math

from torch import Tensor


def categorical_information(chances: Tensor) -> Tensor:
    """Mutual information in nats of image and choice, for a choice of one of U by chances (B, U); a scalar.

    The entropy of the mean chances, which is high where all choices are used, less the mean entropy of each image's
    own, which is low where each image is sure: 0 for a gate that decides alike for all images and for one that tosses
    dice, log(U) at most. Differentiable, also where a chance is 0.
    """
    return _entropy(chances.mean(dim=0)) - _entropy(chances).mean()


def binary_information(chances: Tensor, used: Tensor, enough: float = math.log(2)) -> Tensor:
    """Mutual information in nats of image and decision, mean over T units that are on or off; a scalar.

    The entropy of each unit's rate of use (`used`, (B, T): the decisions, or the chances once more), less the mean
    entropy of its chances (B, T): 0 for a gate that decides alike for all images, and for one that tosses a coin.
    A unit counts up to `enough` nats: what a block learns to compute suffers when half of the images avoid it.
    """
    # rates of 0 and 1 keep a finite gradient, which is what opens a dead gate
    rates = _coin_entropy(used.float().mean(dim=0), 0.5 / len(used))
    information = rates - _coin_entropy(chances.float(), 1e-4).mean(dim=0)  # (T,)
    return information.clamp_max(enough).mean()


def _coin_entropy(chances: Tensor, margin: float) -> Tensor:
    inside = chances * (1 - 2 * margin) + margin
    return -(inside * inside.log() + (1 - inside) * (1 - inside).log())


def _entropy(chances: Tensor) -> Tensor:
    inside = chances.clamp_min(1e-6)  # a chance of 0 adds nothing, and its gradient stays finite
    return -(inside * inside.log()).sum(dim=-1)
