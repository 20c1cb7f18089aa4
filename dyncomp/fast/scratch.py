"""Scratch buffers that are reused, so that they stay in cache and their pages are faulted in only once."""

from __future__ import annotations

import itertools
import threading

import torch
from torch import Tensor

from dyncomp.fast.memory import empty

OWN_KERNELS = "own kernels"
"""purpose of the memory in which each thread of generated code mixes or cuts the kernels of an image"""

_replacements = itertools.count()


class _Held(threading.local):
    """The buffers of one thread: threads that run networks concurrently do not share buffers."""

    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.replaced = next(_replacements)


_held = _Held()


def scratch(purpose: str, like: Tensor, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised buffer (count,); later calls of this thread with the same `purpose` may return the same memory.

    The dtype is that of `like` unless `dtype` is given; the device is that of `like`.
    """
    dtype = dtype or like.dtype
    key = (purpose, dtype, like.device)
    flat = _held.flat.get(key)
    if flat is None or flat.numel() < count:
        with torch.inference_mode(False):  # an inference tensor could be written in inference mode only
            flat = _held.flat[key] = empty((count,), like, dtype)
            _held.replaced = next(_replacements)
    return flat[:count]


def replaced() -> int:
    """A number that no other thread gets; while it is unchanged, buffers handed out in this thread stay allocated."""
    return _held.replaced
