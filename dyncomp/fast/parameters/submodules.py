"""Whether modules still have the parts that they had."""

from __future__ import annotations

from collections.abc import Iterable
from operator import eq

from torch import nn


class Submodules:
    """The parts of some modules, to see at one look whether one was replaced, added or taken away."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # a module that is no container has none and gets none
        self._held = [module._modules for module in modules if module._modules or isinstance(module, nn.Sequential)]
        self._then = [dict(held) for held in self._held]

    def are_the_same(self) -> bool:
        """Whether all have the parts that they had."""
        return all(map(eq, self._held, self._then))
