"""Shrink: a shortcut without weights to smaller maps of more channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Shrink(nn.Module):
    """Every `stride`-th pixel each way, or the `mean` of as many that begin there, and `extra` channels of zeros.

    (B, C, H, W) -> (B, C + extra, H / stride, W / stride), rounded up; no multiply-adds. What lies beyond the edge does
    not count in a mean. Without means it is He's option A (2016, arXiv:1512.03385, section 3.3).
    """

    def __init__(self, stride: int, extra: int, mean: bool = False) -> None:
        if extra < 0:
            raise ValueError(f"a shortcut that adds {extra} channels; give 0 or more")
        super().__init__()
        self.stride = stride
        self.extra = extra
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        step = self.stride
        smaller = F.avg_pool2d(x, step, ceil_mode=True) if self.mean else x[:, :, ::step, ::step]
        return F.pad(smaller, (0, 0, 0, 0, 0, self.extra))
