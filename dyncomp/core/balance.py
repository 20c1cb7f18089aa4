"""What keeps gates from deciding alike for all images."""

from __future__ import annotations

from torch import Tensor


def categorical_information(chances: Tensor) -> Tensor:
    """Mutual information in nats of image and choice, for a choice of one of U by chances (B, U); a scalar.

    The entropy of the mean chances, which is high where all choices are used, less the mean entropy of each image's
    own, which is low where each image is sure: 0 for a gate that decides alike for all images and for one that tosses
    dice, log(U) at most. Differentiable, also where a chance is 0.
    """
    return _entropy(chances.mean(dim=0)) - _entropy(chances).mean()


def _entropy(chances: Tensor) -> Tensor:
    inside = chances.clamp_min(1e-6)  # a chance of 0 adds nothing, and its gradient stays finite
    return -(inside * inside.log()).sum(dim=-1)
