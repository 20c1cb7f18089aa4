"""Whether anybody listens to the modules of a network."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules import module as everywhere


class Listeners:
    """The hooks of some modules, and those of all modules of the process, to see at one look whether there are any."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]

    def __bool__(self) -> bool:
        anywhere = everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks
        return bool(anywhere) or any(self._hooks)
