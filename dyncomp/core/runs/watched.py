"""Whether modules are still what they were when something was made of them, and whether somebody listens to them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, compress
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from dyncomp.core.parts import Parts
from dyncomp.core.tracked import edits_of, numbers_of, times_handed_out

_version, _address = attrgetter("_version"), Tensor.data_ptr  # not as a method: that takes twice the time


class Watched:
    """Modules as they were: the same parts, and parameters and buffers in the same memory, with nothing written since.

    What is written through `.data` or numpy shows where they are tracked. Asked before every pass, so it looks at all
    of them in few calls.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = list(modules)
        self._parts = Parts(each)
        held = (vars(module)[name] for module in each for name in ("_parameters", "_buffers"))
        self._tensors: list[dict[str, Tensor | None]] = [some for some in held if some]
        tensors = list(chain.from_iterable(map(dict.values, self._tensors)))
        self._there = [tensor is not None for tensor in tensors]
        some = [tensor for tensor in tensors if tensor is not None]
        # detached: they keep the memory, so that no other numbers can come to lie there
        self._memory = [numbers_of(tensor) for tensor in some]
        self._addresses = list(map(_address, some))
        # inference mode makes tensors that tell no versions
        self._versions = None if any(map(torch.is_inference, some)) else list(map(_version, some))
        self._edits = [edits_of(tensor) for tensor in some]
        lists = [hooks for module in each for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks = [*lists, everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]

    def is_the_same(self) -> bool:
        """Whether nothing has changed; never where parameters cannot be watched, which inference mode has made."""
        if self._versions is None or not self._parts.are_the_same():
            return False
        tensors: list[Any] = list(chain.from_iterable(map(dict.values, self._tensors)))
        if not all(self._there):
            if [tensor is not None for tensor in tensors] != self._there:
                return False
            tensors = list(compress(tensors, self._there))
        try:
            if list(map(_address, tensors)) != self._addresses or list(map(_version, tensors)) != self._versions:
                return False
        except (AttributeError, RuntimeError, TypeError):  # nothing in the place of one, or one that tells no version
            return False
        # a number that stays 0 unless memory of some tracked parameter, somewhere, was handed out
        return times_handed_out() == 0 or self._numbers_are_the_same(tensors)

    def _numbers_are_the_same(self, tensors: list[Tensor]) -> bool:
        return [edits_of(tensor) for tensor in tensors] == self._edits

    def nobody_listens(self) -> bool:
        """Whether no hook has to be called, nor a gradient to go through the modules."""
        return not (torch.is_grad_enabled() or any(self._hooks))
