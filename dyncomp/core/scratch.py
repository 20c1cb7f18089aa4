"""Memory that is used again and again, so that it stays in cache and its pages are faulted in once."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class _Held(threading.local):
    """What a thread holds: threads that run networks side by side do not share it."""

    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.replaced = 0


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
            flat = _held.flat[key] = torch.empty(count, dtype=dtype, device=like.device)
        _held.replaced += 1
    return flat[:count]


def replaced() -> int:
    """How often, in this thread, memory took the place of other: while it stays, what was handed out is still there."""
    return _held.replaced
