"""Allocation of the memory that generated code reads and writes.

All of it is allocated here, so that a test can substitute memory between guard pages, which fault on access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Allocate = Callable[[Sequence[int], torch.dtype, torch.device, torch.memory_format], Tensor]
"""Returns uninitialised memory of a shape, dtype, device and memory format."""

_allocate: Allocate | None = None
"""None: torch's allocator"""


def empty(
    shape: Sequence[int],
    like: Tensor,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Uninitialised memory of that shape on the device of `like`, with the dtype of `like` unless `dtype` is given."""
    if _allocate is None:
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)
    return _allocate(shape, dtype or like.dtype, like.device, memory_format)


def for_code(made: Tensor) -> Tensor:
    """The tensor, for generated code to read or write: `made` itself, or a copy where another allocator is set.

    `made` comes from torch's operators; a copy is in that allocator's memory and keeps the layout, channels-last or
    contiguous.
    """
    if _allocate is None:
        return made
    plain = made.is_contiguous() or made.dim() != 4
    copy = empty(made.shape, made, memory_format=torch.contiguous_format if plain else torch.channels_last)
    return copy.copy_(made)


@contextmanager
def allocated_by(allocate: Allocate) -> Iterator[None]:
    """Context in which memory is allocated by `allocate`, in all threads; for tests."""
    global _allocate
    before, _allocate = _allocate, allocate
    try:
        yield
    finally:
        _allocate = before
