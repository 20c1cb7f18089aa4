"""Whether modules are still what they were when something was made of them: their parameters, and who listens."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_, methodcaller

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

_version, _address = attrgetter("_version"), methodcaller("data_ptr")


class Parameters:
    """Those of some modules as they were: the same tensors, the same memory, and nothing written since.

    What is written through `.data` does not show. Asked before every pass, so it looks at all of them in few calls.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        found = [(module._parameters, name) for module in modules for name in module._parameters]
        self._places = [(held, name) for held, name in found if held[name] is not None]
        self._tensors = [tensor for tensor in self._now() if tensor is not None]
        self._addresses = list(map(_address, self._tensors))
        self._versions = list(map(_version, self._tensors))

    def _now(self) -> list[Tensor | None]:
        return [held.get(name) for held, name in self._places]

    def are_the_same(self) -> bool:
        """Whether nothing has changed."""
        return (
            all(map(is_, self._now(), self._tensors))
            and list(map(_address, self._tensors)) == self._addresses
            and list(map(_version, self._tensors)) == self._versions
        )


class Hooks:
    """Those of some modules, and those of all modules."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._lists = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._lists += [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]

    def are_none(self) -> bool:
        """Whether nobody has to be called, nor a gradient to go through the modules."""
        return not (torch.is_grad_enabled() or any(self._lists))
