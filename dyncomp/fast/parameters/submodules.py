"""Detects whether modules still have the submodules that they had."""

from __future__ import annotations

from collections.abc import Iterable
from operator import eq

from torch import nn


class Submodules:
    """The submodules of some modules, to detect in one call whether any was replaced, added or removed."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # a module that is no container has no submodules and gets none
        self._held = [module._modules for module in modules if module._modules or isinstance(module, nn.Sequential)]
        self._then = [dict(held) for held in self._held]

    def are_the_same(self) -> bool:
        """Whether all modules still have the submodules that they had."""
        return all(map(eq, self._held, self._then))
