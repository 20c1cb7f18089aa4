"""Memory that generated code reads and writes: made in one place, which a test exchanges for memory between pages that
fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Allocate = Callable[[Sequence[int], torch.dtype, torch.device, torch.memory_format], Tensor]
"""Uninitialised memory of a shape, type, place and layout."""

_allocate: Allocate | None = None
"""None: torch's own"""


def empty(
    shape: Sequence[int],
    like: Tensor,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Uninitialised memory of that shape, where `like` is and of its type, unless `dtype` says another."""
    if _allocate is None:
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)
    return _allocate(shape, dtype or like.dtype, like.device, memory_format)


def kept(made: Tensor) -> Tensor:
    """The tensor, for code to read or write: itself, unless memory is taken from elsewhere; then a copy that is there.

    Of what torch's operators made, in the layout that it has, channels-last or plain.
    """
    if _allocate is None:
        return made
    plain = made.is_contiguous() or made.dim() != 4
    copy = empty(made.shape, made, memory_format=torch.contiguous_format if plain else torch.channels_last)
    return copy.copy_(made)


@contextmanager
def allocated_by(allocate: Allocate) -> Iterator[None]:
    """Inside, in all threads, memory is taken from `allocate`; for tests."""
    global _allocate
    before, _allocate = _allocate, allocate
    try:
        yield
    finally:
        _allocate = before
