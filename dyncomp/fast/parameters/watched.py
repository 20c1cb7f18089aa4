"""Detects whether modules changed since something was prepared for them, and whether hooks or gradients need them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter

import torch
from torch import Tensor, nn

from dyncomp.core.hooks import Listeners
from dyncomp.fast.parameters.submodules import Submodules
from dyncomp.fast.parameters.tracked import edits_of, is_tracked, times_handed_out, times_replaced, versioned

_version, _address = attrgetter("_version"), Tensor.data_ptr  # as functions: method calls take twice the time


class Snapshot:
    """The state of modules: their submodules, and the memory and version counters of their parameters and buffers.

    Writes through `.data` or numpy are detected for tracked tensors. The check runs before every pass, so it handles
    all tensors in few Python calls.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        each = list(modules)
        self._parts = Submodules(each)
        held = (vars(module)[name] for module in each for name in ("_parameters", "_buffers"))
        self._tensors: list[dict[str, Tensor | None]] = [some for some in held if some]
        # kept alive, so that no other tensor gets their ids
        self._then = list(chain.from_iterable(map(dict.values, self._tensors)))
        self._ids = list(map(id, self._then))
        some = [tensor for tensor in self._then if tensor is not None]
        self._aliases = [versioned(tensor) for tensor in some]
        # tensors made in inference mode have no version counter
        self._versions = None if any(map(torch.is_inference, some)) else list(map(_version, self._aliases))
        self._replaced, self._edits = times_replaced(), [edits_of(tensor) for tensor in some]
        self._untracked = [tensor for tensor in some if not is_tracked(tensor)]
        self._addresses = list(map(_address, self._untracked))
        self._listeners = Listeners(each)

    def is_the_same(self) -> bool:
        """Whether nothing has changed; always False with tensors made in inference mode, which cannot be checked."""
        if self._versions is None or not self._parts.are_the_same():
            return False
        tensors = chain.from_iterable(map(dict.values, self._tensors))
        if list(map(id, tensors)) != self._ids or list(map(_version, self._aliases)) != self._versions:
            return False
        if self._untracked and list(map(_address, self._untracked)) != self._addresses:
            return False
        # both counters are global: they change when any tracked tensor's memory is handed out or replaced
        if times_handed_out() == 0 and self._replaced == times_replaced():
            return True
        replaced, some = times_replaced(), [tensor for tensor in self._then if tensor is not None]
        if list(map(_address, some)) != list(map(_address, self._aliases)):
            return False
        self._replaced = replaced
        return [edits_of(tensor) for tensor in some] == self._edits

    def has_no_listeners(self) -> bool:
        """Whether gradients are off and no forward hook of the modules has to be called."""
        return not (torch.is_grad_enabled() or bool(self._listeners))
