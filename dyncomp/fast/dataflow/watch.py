"""Observes every tensor that an operator reads while a network runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils._pytree import tree_leaves

from dyncomp.core.dispatch import DispatchMode


class ReadWatch(DispatchMode):
    """While active, calls `read` with the arguments of every operator before the operator runs."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.read(tree_leaves((args, kwargs)))
        return func(*args, **kwargs)

    def read(self, values: Sequence[Any]) -> None:
        """Called with values that are read, tensors among them."""
        raise NotImplementedError
