"""Networks with shapes and without numbers, for which neither memory nor random numbers are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = frozenset({Tensor.fill_, Tensor.zero_, Tensor.uniform_, Tensor.normal_, Tensor.erfinv_})


@contextmanager
def outlined() -> Iterator[None]:
    """Inside, new tensors are on torch's meta device, and initialising them takes no time and no random number.

    On the meta device each operator of an initialisation is worked out in Python, which takes most of the time of
    building a network there.
    """
    with torch.random.fork_rng([]), torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor of the meta device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        fills = func in _FILLS or getattr(func, "__module__", "") == nn.init.__name__
        tensor = next((each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)), None)
        if fills and tensor is not None and tensor.is_meta:
            return tensor
        return func(*args, **(kwargs or {}))
