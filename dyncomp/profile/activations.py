"""How much memory a pass's own tensors take, counted as they come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dyncomp.core.dispatch import DispatchMode


def activation_bytes(run: Callable[[], object]) -> int:
    """The largest sum of bytes, at any moment of `run()`, of the tensors that its operators have made and that live.

    Weights, images and whatever lay there before are not counted, nor is what a kernel allocates and frees inside (that
    is part of the process's peak memory). Tensors that share memory count once.
    """
    with torch.no_grad(), _LiveTensors() as live:
        run()
    return int(live.peak)


class _LiveTensors(DispatchMode):
    """Follows the storages that operators give, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for given in tree_leaves((args, kwargs or {})):
            if isinstance(given, Tensor) and self._key(given) not in self._known:
                self._follow(given, 0)  # it was there before
        output = func(*args, **(kwargs or {}))
        for made in tree_leaves(output):
            if isinstance(made, Tensor) and self._key(made) not in self._known:
                self._follow(made, made.untyped_storage().nbytes())
        return output

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return int(tensor.untyped_storage()._cdata)

    def _follow(self, tensor: Tensor, size: int) -> None:
        key = self._key(tensor)
        self._known[key] = size
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(tensor.untyped_storage(), self._freed, key).atexit = False

    def _freed(self, key: int) -> None:
        self.bytes -= self._known.pop(key)
