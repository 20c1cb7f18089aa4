"""Replacement of a network's normalisation layers."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def with_norm(module: _Module, norm: Literal["batch", "group"]) -> _Module:
    """The module, with `norm="group"` each BatchNorm2d replaced by GroupNorm.

    GroupNorm (Wu & He 2018, arXiv:1803.08494) has no statistics over the batch, so the network can be trained image by
    image. The number of groups is the greatest common divisor of 32 and the number of channels, and half of it if a
    group would have one channel, whose output would be 0 on a map of one pixel.
    """
    if norm == "group":
        for name, child in list(module.named_modules()):
            if isinstance(child, nn.BatchNorm2d):
                channels = child.num_features
                groups = math.gcd(32, channels)
                module.set_submodule(name, nn.GroupNorm(groups if groups < channels else max(1, groups // 2), channels))
    return module
