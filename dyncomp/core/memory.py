"""Memory that generated code writes: made in one place, which a test exchanges for memory between pages that fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Allocate = Callable[[Sequence[int], torch.dtype, torch.device, torch.memory_format], Tensor]
"""Uninitialised memory of a shape, type, place and layout."""


def _by_torch(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)


_allocate: Allocate = _by_torch


def empty(
    shape: Sequence[int],
    like: Tensor,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Uninitialised memory of that shape, where `like` is and of its type, unless `dtype` says another."""
    return _allocate(shape, dtype or like.dtype, like.device, memory_format)


@contextmanager
def allocated_by(allocate: Allocate) -> Iterator[None]:
    """Inside, in all threads, `empty` takes its memory from `allocate`; for tests."""
    global _allocate
    before, _allocate = _allocate, allocate
    try:
        yield
    finally:
        _allocate = before
