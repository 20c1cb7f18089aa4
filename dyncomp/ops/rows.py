"""Gather and scatter of images, which keep the memory layout of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dyncomp.core.inplace import in_use

Features = TypeVar("Features", Tensor, tuple[Tensor, ...])
"""Features (B, C, H, W), or a tuple of them, one for each scale."""


def is_channels_last(x: Tensor) -> bool:
    """Whether features (B, C, H, W) are channels-last in memory, and not contiguous as well."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def rows_using(used: Tensor) -> Tensor:
    """The indices of images that use a unit, (rows,); used (B,) is 0 or 1."""
    return (used > 0.5).nonzero().squeeze(1)


def empty_like_layout(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised features of another shape (B, C, H, W), with memory layout, dtype and device of x."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


Rows = Tensor | bool
"""Images of a batch: True for all, False for none (and for an empty batch), else their indices."""


def images_in(x: Features) -> int:
    """The number of images of features."""
    return (x[0] if isinstance(x, tuple) else x).shape[0]


def rows_of(used: Tensor, images: int) -> Rows:
    """The images that use the one unit of a decision (B, 1)."""
    return rows_where(used.select(1, 0) > 0.5, images)


def rows_of_each(used: Tensor, images: int) -> list[Rows]:
    """For each unit of a decision (B, U) the images that use it, by a single transfer from the device."""
    _check_one_for_each(used, images)
    if images == 1:
        return [value > 0.5 for value in used.tolist()[0]]
    chosen = (used > 0.5).t()  # (U, B)
    counts = chosen.sum(1).tolist()
    rows = torch.split(chosen.nonzero().select(1, 1), counts)
    return [some if 0 < len(some) < images else len(some) > 0 for some in rows]


def rows_where(chosen: Tensor, images: int) -> Rows:
    """The images for which `chosen` (B,) bool is true, by a single transfer from the device."""
    _check_one_for_each(chosen, images)
    if images == 1:
        return bool(chosen.item())
    rows = chosen.nonzero().view(-1)  # (images chosen,)
    return rows if 0 < len(rows) < images else len(rows) > 0


def _check_one_for_each(decided: Tensor, images: int) -> None:
    """Raise ValueError unless there is a decision for each image: generated code does not check row indices."""
    if decided.shape[0] != images:
        raise ValueError(f"decisions for {decided.shape[0]} images; give one for each of {images}")


def take(x: Features, rows: Tensor) -> Features:
    """Gather the images at `rows`, in the layout of x (`index_select` alone would return channels-last x as NCHW)."""
    if isinstance(x, tuple):
        return tuple(take(scale, rows) for scale in x)
    if is_channels_last(x):
        return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)  # (rows, C, H, W)
    return x.index_select(0, rows)


def put(x: Tensor, rows: Tensor, values: Tensor, over: bool = False) -> Tensor:
    """Scatter `values` to the images at `rows` of x (B, ...), in the layout of x: into a copy or, if `over`, into x."""
    x = x if over else x.clone()  # index_copy alone would return NCHW
    values = values.to(x.dtype)
    if is_channels_last(x):  # contiguous rows, which are faster
        into, values = x.permute(0, 2, 3, 1), values.permute(0, 2, 3, 1)
        if in_use() and _in_wide_steps(into, values):
            into, values = into.view(_WIDEST), values.view(_WIDEST)
        into.index_copy_(0, rows, values)
        return x
    return x.index_copy_(0, rows, values)


_WIDEST = torch.complex128
"""the widest dtype: `index_copy_` moves one element at a time, of any dtype"""


def _in_wide_steps(*tensors: Tensor) -> bool:
    """Whether tensors (B, H, W, C) are on the CPU and can be viewed as the widest dtype."""
    step = _WIDEST.itemsize
    return all(
        t.device.type == "cpu"
        and t.is_contiguous()
        and t.shape[-1] * t.element_size() % step == 0
        and t.data_ptr() % step == 0
        and t.storage_offset() * t.element_size() % step == 0
        for t in tensors
    )
