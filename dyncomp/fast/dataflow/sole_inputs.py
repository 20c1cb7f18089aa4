"""Which memory a network may use again: shown by running it, not guessed from how it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dyncomp.fast.dataflow.watch import ReadWatch


def lone_inputs(modules: Sequence[nn.Module], run: Callable[[], Any], given: Sequence[Tensor]) -> set[nn.Module]:
    """Those of the modules whose input nothing reads any more, once they are done, while `run` runs.

    What reads is any operator on the same memory, whichever view of it; `run` gives back all that it keeps, and what
    is `given` to it stays its owner's. A module that does not run is not among them. Each takes one tensor.
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
    """While active, notes which modules' inputs are read after the modules are done."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entered: set[nn.Module] = set()
        self.shared: set[nn.Module] = set()
        self._held: list[Tensor] = []  # so that no memory comes twice
        self._given = {_memory(tensor) for tensor in given}
        self._done: dict[int, set[nn.Module]] = {}  # by their inputs' memory

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A module begins."""
        self.entered.add(module)
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or _memory(inputs[0]) in self._given:
            self.shared.add(module)

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """A module ends."""
        if module not in self.shared:
            self._held.append(inputs[0])
            self._done.setdefault(_memory(inputs[0]), set()).add(module)
        self.read(tree_leaves(output))  # an output that is a view of the input is read by whoever comes next

    def read(self, values: Sequence[Any]) -> None:
        """Somebody reads these."""
        for value in values:
            if isinstance(value, Tensor):
                self.shared |= self._done.get(_memory(value), set())


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
