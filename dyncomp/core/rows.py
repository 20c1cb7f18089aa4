"""Taking images out of a batch and putting them back, without changing the memory layout on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Features = TypeVar("Features", Tensor, tuple[Tensor, ...])
"""Features (B, C, H, W), or a tuple of them, one for each scale."""


def is_channels_last(x: Tensor) -> bool:
    """Whether features (B, C, H, W) lie channel by channel within a pixel, and not also in the usual order."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def rows_using(used: Tensor) -> Tensor:
    """Which images use a unit, (rows,); used (B,) is 0 or 1."""
    return (used > 0.5).nonzero().squeeze(1)


def empty_like_layout(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised features of another shape (B, C, H, W), in x's layout, type and place."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def take(x: Features, rows: Tensor) -> Features:
    """The images at `rows`, in x's own layout (`index_select` alone would return a channels-last batch as NCHW)."""
    if isinstance(x, tuple):
        return tuple(take(scale, rows) for scale in x)
    if is_channels_last(x):
        return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)  # (rows, C, H, W)
    return x.index_select(0, rows)


def put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A copy of x (B, ...) in which the images at `rows` are replaced by `values`, in x's own layout."""
    return x.clone().index_copy_(0, rows, values.to(x.dtype))  # index_copy by itself would return NCHW
