"""Whether modules are still what they were when something was made of them, and whether somebody listens to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import attrgetter, is_, methodcaller
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as everywhere

_version, _address = attrgetter("_version"), methodcaller("data_ptr")
_END = object()


class Watched:
    """Modules as they were: the same parts, parameters and buffers, and parameters in which nothing was written since.

    What is written through `.data` does not show. Asked before every pass, so it looks at all of them in few calls.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = list(modules)
        names = ("_modules", "_parameters", "_buffers")
        dicts = (vars(module)[name] for module in each for name in names)
        self._dicts: list[dict[str, Any]] = [held for held in dicts if held]
        self._parts = list(self._now())
        found = (parameter for module in each for parameter in module._parameters.values())
        # detached: they keep the memory, so that no other numbers can come to lie there
        self._parameters = [parameter for parameter in found if parameter is not None]
        self._memory = [parameter.detach() for parameter in self._parameters]
        self._addresses = list(map(_address, self._parameters))
        self._versions = [-1 if parameter.is_inference() else parameter._version for parameter in self._parameters]
        lists = [hooks for module in each for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks = [*lists, everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]

    def _now(self) -> Iterator[Any]:
        return chain(chain.from_iterable(map(dict.values, self._dicts)), (_END,))

    def is_the_same(self) -> bool:
        """Whether nothing has changed; never where parameters cannot be watched, which inference mode has made."""
        return (
            all(map(is_, self._now(), self._parts))
            and list(map(_address, self._parameters)) == self._addresses
            and -1 not in self._versions
            and list(map(_version, self._parameters)) == self._versions
        )

    def nobody_listens(self) -> bool:
        """Whether no hook has to be called, nor a gradient to go through the modules."""
        return not (torch.is_grad_enabled() or any(self._hooks))
