"""Detection of hooks on the modules of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules import module as everywhere


def is_heard(module: nn.Module) -> bool:
    """Whether a forward hook receives the module's output, and may store it."""
    return bool(module._forward_hooks or everywhere._global_forward_hooks)


class Heard:
    """A layer that returns a copy of its output if a forward hook received the output and may have stored it.

    Once the normalisation between them is folded, the next layer may be an activation that works in place.
    """

    def __call__(self, *given: Any, **options: Any) -> Any:
        """See `nn.Module`."""
        y = super().__call__(*given, **options)  # type: ignore[misc]  # of the module class beside this one
        return y.clone() if is_heard(self) else y  # type: ignore[arg-type]


class Listeners:
    """True if any of the given modules has a forward hook or forward pre-hook, or if a global one is registered."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks = [*each, everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]

    def __bool__(self) -> bool:
        return any(self._hooks)
