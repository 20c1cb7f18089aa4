"""Gather and scatter of images, in the memory layout of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dyncomp.core.inplace import in_use

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


Rows = Tensor | bool
"""Images of a batch: True for all, False for none (or where there is no image), else their indices."""


def images_in(x: Features) -> int:
    """The number of images of features."""
    return (x[0] if isinstance(x, tuple) else x).shape[0]


def rows_of(used: Tensor, images: int) -> Rows:
    """The images that use the one unit of a decision (B, 1)."""
    return rows_where(used.select(1, 0) > 0.5, images)


def rows_of_each(used: Tensor, images: int) -> list[Rows]:
    """For each unit of a decision (B, U) the images that use it, with one transfer from the device."""
    _check_one_for_each(used, images)
    if images == 1:
        return [value > 0.5 for value in used.tolist()[0]]
    chosen = (used > 0.5).t()  # (U, B)
    counts = chosen.sum(1).tolist()
    rows = torch.split(chosen.nonzero().select(1, 1), counts)
    return [some if 0 < len(some) < images else len(some) > 0 for some in rows]


def rows_where(chosen: Tensor, images: int) -> Rows:
    """The images where `chosen` (B,) bool is true, with one transfer from the device."""
    _check_one_for_each(chosen, images)
    if images == 1:
        return bool(chosen.item())
    rows = chosen.nonzero().view(-1)  # (images chosen,)
    return rows if 0 < len(rows) < images else len(rows) > 0


def _check_one_for_each(decided: Tensor, images: int) -> None:
    """Raise ValueError unless there is a decision for each image: code reads and writes where decisions say."""
    if decided.shape[0] != images:
        raise ValueError(f"decisions for {decided.shape[0]} images; give one for each of {images}")


def take(x: Features, rows: Tensor) -> Features:
    """The images at `rows`, in x's own layout (`index_select` alone would return a channels-last batch as NCHW)."""
    if isinstance(x, tuple):
        return tuple(take(scale, rows) for scale in x)
    if is_channels_last(x):
        return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)  # (rows, C, H, W)
    return x.index_select(0, rows)


def put(x: Tensor, rows: Tensor, values: Tensor, over: bool = False) -> Tensor:
    """x (B, ...) with `values` for the images at `rows`, in x's own layout: a copy, or, with `over`, x itself."""
    x = x if over else x.clone()  # index_copy by itself would return NCHW
    values = values.to(x.dtype)
    if is_channels_last(x):  # as rows of plain memory, which is faster
        into, values = x.permute(0, 2, 3, 1), values.permute(0, 2, 3, 1)
        if in_use() and _in_wide_steps(into, values):
            into, values = into.view(_WIDEST), values.view(_WIDEST)
        into.index_copy_(0, rows, values)
        return x
    return x.index_copy_(0, rows, values)


_WIDEST = torch.complex128
"""The largest type: `index_copy_` moves one number at a time, whatever it is."""


def _in_wide_steps(*tensors: Tensor) -> bool:
    """Whether (B, H, W, C) tensors of processor memory can be read as numbers of the largest type."""
    step = _WIDEST.itemsize
    return all(
        t.device.type == "cpu"
        and t.is_contiguous()
        and t.shape[-1] * t.element_size() % step == 0
        and t.data_ptr() % step == 0
        and t.storage_offset() * t.element_size() % step == 0
        for t in tensors
    )
