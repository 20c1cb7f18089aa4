"""Whether anybody listens to the modules of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules import module as everywhere


def is_heard(module: nn.Module) -> bool:
    """Whether a hook is given what the module makes, and may keep it."""
    return bool(module._forward_hooks or everywhere._global_forward_hooks)


class Heard:
    """A layer that gives the next layer a copy of its output where a hook was given the output and may keep it.

    The next layer may be an activation that works in place, once the normalisation between the two is folded.
    """

    def __call__(self, *given: Any, **options: Any) -> Any:
        """As `nn.Module` does."""
        y = super().__call__(*given, **options)  # type: ignore[misc]  # of the module class beside this one
        return y.clone() if is_heard(self) else y  # type: ignore[arg-type]


class Listeners:
    """Whether any of some modules, or all modules of the process, have a forward hook; true where one has."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks = [*each, everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]

    def __bool__(self) -> bool:
        return any(self._hooks)
