"""Compaction: for each image the channels that it uses, side by side, so that code finds them without a search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyncomp.fast.memory import kept


@dataclass(frozen=True)
class Compaction:
    """An order of C channels for each image: those that it uses first, both these and the others ascending.

    Features of it lie in this order, and are 0 in the channels that are not used.
    """

    used: Tensor
    """(B, C) of 0 and 1, in the channels' own order"""
    order: Tensor
    """(B, C) which channel lies where"""
    counts: Tensor
    """(B,) how many are used"""

    @staticmethod
    def of(used: Tensor) -> Compaction:
        """By decisions (B, C), on a processor."""
        unused = (used <= 0.5).numpy()
        order = torch.from_numpy(np.argsort(unused.view(np.uint8), axis=1, kind="stable"))  # (B, C) int64
        return Compaction(used, kept(order), kept((used > 0.5).sum(dim=1)))

    def sorted(self, value: Tensor) -> Tensor:
        """Numbers of channels, (B, C) or (C,), in each image's order; 0 for those that it does not use, (B, C)."""
        return (value * self.used).to(value.dtype).gather(1, self.order)

    def unsorted(self, features: Tensor) -> Tensor:
        """Features (B, C, ...) in each image's order, in the channels' own."""
        index = self.order.view(*self.order.shape, *[1] * (features.dim() - 2)).expand_as(features)
        return torch.empty_like(features).scatter_(1, index, features)

    def check(self, images: int, channels: int) -> None:
        """Raise ValueError unless it is of so many images and channels: code reads and writes where it says."""
        if self.order.shape != (images, channels) or self.counts.shape != (images,):
            raise ValueError(f"channels picked of {tuple(self.order.shape)}; they are {(images, channels)}")

    def addresses(self) -> tuple[int, int]:
        """Of the order and the counts, for code of our own."""
        return self.order.data_ptr(), self.counts.data_ptr()
