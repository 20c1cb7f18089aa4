"""Finds inputs whose memory may be reused, by observing a run of the network instead of analysing code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dyncomp.fast.dataflow.watch import ReadWatch


def sole_inputs(modules: Sequence[nn.Module], run: Callable[[], Any], given: Sequence[Tensor]) -> set[nn.Module]:
    """The modules whose input is not read any more once the module is done, as observed while `run` runs.

    A reader is any operator on the same memory, through any view. `run` has to return every tensor that it keeps.
    Tensors in `given` belong to the caller, so a module that reads one is not in the result; nor is a module that does
    not run. Each module takes one tensor.
    """
    watch = _Watch(given)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.register_forward_pre_hook(watch.enter))
            stack.enter_context(module.register_forward_hook(watch.leave))
        stack.enter_context(watch)
        with torch.no_grad():
            kept = run()
    watch.read(tree_leaves(kept))
    return watch.entered - watch.shared


class _Watch(ReadWatch):
    """While active, records which modules' inputs are read after the modules are done."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entered: set[nn.Module] = set()
        self.shared: set[nn.Module] = set()
        self._held: list[Tensor] = []  # keeps inputs alive, so that no memory is reused
        self._given = {_memory(tensor) for tensor in given}
        self._done: dict[int, set[nn.Module]] = {}  # modules that are done, by the memory of their inputs

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook: a module begins."""
        self.entered.add(module)
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or _memory(inputs[0]) in self._given:
            self.shared.add(module)

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Forward hook: a module ends."""
        if module not in self.shared:
            self._held.append(inputs[0])
            self._done.setdefault(_memory(inputs[0]), set()).add(module)
        self.read(tree_leaves(output))  # an output that is a view of the input is read later

    def read(self, values: Sequence[Any]) -> None:
        """Record that these values are read."""
        for value in values:
            if isinstance(value, Tensor):
                self.shared |= self._done.get(_memory(value), set())


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
