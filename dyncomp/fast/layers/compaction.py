"""Compaction of channels: each image's used channels side by side, so that generated code needs no search for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyncomp.fast.memory import for_code


@dataclass(frozen=True)
class Compaction:
    """A permutation of C channels for each image: the used channels first, then the others, both in ascending order.

    Compacted features are stored in this order, and are 0 in the channels that are not used.
    """

    used: Tensor
    """(B, C) of 0 and 1, in the original order of channels"""
    order: Tensor
    """(B, C) int64, the original channel at each position"""
    counts: Tensor
    """(B,) number of used channels"""

    @staticmethod
    def of(used: Tensor) -> Compaction:
        """From decisions (B, C), on a CPU."""
        unused = (used <= 0.5).numpy()
        order = torch.from_numpy(np.argsort(unused.view(np.uint8), axis=1, kind="stable"))  # (B, C) int64
        return Compaction(used, for_code(order), for_code((used > 0.5).sum(dim=1)))

    def sorted(self, value: Tensor) -> Tensor:
        """Values of channels, (B, C) or (C,), in each image's order, (B, C); 0 for channels that it does not use."""
        return (value * self.used).to(value.dtype).gather(1, self.order)

    def unsorted(self, features: Tensor) -> Tensor:
        """Compacted features (B, C, ...) in the original order of channels."""
        index = self.order.view(*self.order.shape, *[1] * (features.dim() - 2)).expand_as(features)
        return torch.empty_like(features).scatter_(1, index, features)

    def check(self, images: int, channels: int) -> None:
        """Raise ValueError unless sizes fit: generated code reads and writes at these indices unchecked."""
        if self.order.shape != (images, channels) or self.counts.shape != (images,):
            raise ValueError(f"channels picked of {tuple(self.order.shape)}; they are {(images, channels)}")
