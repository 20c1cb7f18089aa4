"""Whether modules are still what they were when something was made of them, and whether somebody listens to them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter

import torch
from torch import Tensor, nn

from dyncomp.core.hooks import Listeners
from dyncomp.fast.parameters.submodules import Submodules
from dyncomp.fast.parameters.tracked import edits_of, is_tracked, times_handed_out, times_replaced, versioned

_version, _address = attrgetter("_version"), Tensor.data_ptr  # not as a method: that takes twice the time


class Snapshot:
    """Modules as they were: the same parts, and parameters and buffers in the same memory, with nothing written since.

    What is written through `.data` or numpy shows where they are tracked. Asked before every pass, so it looks at all
    of them in few calls.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = list(modules)
        self._parts = Submodules(each)
        held = (vars(module)[name] for module in each for name in ("_parameters", "_buffers"))
        self._tensors: list[dict[str, Tensor | None]] = [some for some in held if some]
        # kept, so that no others can come to have their ids
        self._then = list(chain.from_iterable(map(dict.values, self._tensors)))
        self._ids = list(map(id, self._then))
        some = [tensor for tensor in self._then if tensor is not None]
        self._aliases = [versioned(tensor) for tensor in some]
        # inference mode makes tensors that tell no versions
        self._versions = None if any(map(torch.is_inference, some)) else list(map(_version, self._aliases))
        self._replaced, self._edits = times_replaced(), [edits_of(tensor) for tensor in some]
        self._untracked = [tensor for tensor in some if not is_tracked(tensor)]
        self._addresses = list(map(_address, self._untracked))
        self._listeners = Listeners(each)

    def is_the_same(self) -> bool:
        """Whether nothing has changed; never where parameters cannot be watched, which inference mode has made."""
        if self._versions is None or not self._parts.are_the_same():
            return False
        tensors = chain.from_iterable(map(dict.values, self._tensors))
        if list(map(id, tensors)) != self._ids or list(map(_version, self._aliases)) != self._versions:
            return False
        if self._untracked and list(map(_address, self._untracked)) != self._addresses:
            return False
        # numbers that stay what they are unless memory of some tracked tensor, somewhere, was handed out or exchanged
        return (times_handed_out() == 0 and self._replaced == times_replaced()) or self._is_so_at_a_closer_look()

    def _is_so_at_a_closer_look(self) -> bool:
        replaced, some = times_replaced(), [tensor for tensor in self._then if tensor is not None]
        if list(map(_address, some)) != list(map(_address, self._aliases)):
            return False
        self._replaced = replaced
        return [edits_of(tensor) for tensor in some] == self._edits

    def nobody_listens(self) -> bool:
        """Whether no hook has to be called, nor a gradient to go through the modules."""
        return not (torch.is_grad_enabled() or bool(self._listeners))
