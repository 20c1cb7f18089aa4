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
    """A layer whose output nobody overwrites that a hook was given: what comes next reads a copy then.

    Where a normalisation stood behind the layer, an activation in place now does.
    """

    def __call__(self, *given: Any, **options: Any) -> Any:
        """As `nn.Module` does."""
        y = super().__call__(*given, **options)  # type: ignore[misc]  # that of the module which this is mixed into
        return y.clone() if is_heard(self) else y  # type: ignore[arg-type]


class Listeners:
    """The hooks of some modules, and those of all modules of the process, to see at one look whether there are any."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks = [*each, everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]

    def __bool__(self) -> bool:
        return any(self._hooks)
