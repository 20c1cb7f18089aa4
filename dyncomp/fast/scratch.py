"""Memory that is used again and again, so that it stays in cache and its pages are faulted in once."""

from __future__ import annotations

import itertools
import threading

import torch
from torch import Tensor

from dyncomp.fast.memory import empty

_replacements = itertools.count()


class _Held(threading.local):
    """What a thread holds: threads that run networks side by side do not share it."""

    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.replaced = next(_replacements)


_held = _Held()


def scratch(purpose: str, like: Tensor, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory for `count` numbers, (count,); the next call may hand out the same.

    Of the type of `like`, unless `dtype` says another, and where that is.
    """
    dtype = dtype or like.dtype
    key = (purpose, dtype, like.device)
    flat = _held.flat.get(key)
    if flat is None or flat.numel() < count:
        with torch.inference_mode(False):  # made inside inference mode it could be written nowhere else
            flat = _held.flat[key] = empty((count,), like, dtype)
            _held.replaced = next(_replacements)
    return flat[:count]


def replaced() -> int:
    """A number, never that of another thread: while it stays the same, what was handed out in this thread is there."""
    return _held.replaced
