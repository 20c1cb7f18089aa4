"""Shrink: a shortcut without parameters to smaller maps with more channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Shrink(nn.Module):
    """Subsampling by `stride`, or, if `mean`, average pooling of that size, and `extra` channels of zeros.

    (B, C, H, W) -> (B, C + extra, H / stride, W / stride), rounded up; no multiply-adds. A mean at the edge excludes
    pixels beyond it. Without `mean` it is option A of He et al. (2016, arXiv:1512.03385, section 3.3).
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
