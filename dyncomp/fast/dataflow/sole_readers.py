"""Finds layers whose output only one other layer reads, by observing a run of the network instead of analysing code."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dyncomp.fast.dataflow.watch import ReadWatch


class MakerAndReader(NamedTuple):
    """A maker, the only reader of its output, and the ranks (numbers of dimensions) that the output had."""

    maker: nn.Module
    reader: nn.Module
    dimensions: frozenset[int]


def sole_readers(
    model: nn.Module, makers: Sequence[nn.Module], readers: Sequence[nn.Module], run: Callable[[], Any]
) -> list[MakerAndReader]:
    """Pairs of a maker and its reader: while `run` runs `model`, nothing but the reader reads the maker's output.

    Moreover, the reader reads nothing else, `run` does not return the maker's output, and nothing but the maker reads
    the maker's parameters. Makers and readers are modules without submodules, with one tensor in and one out. Each is
    in at most one pair; one that does not run is in none. `run` returns every tensor that it keeps, in nested tuples,
    lists and dicts.
    """
    watch = _Watch(makers)
    with ExitStack() as stack:
        for module in makers:
            stack.enter_context(module.register_forward_pre_hook(watch.enter))
            stack.enter_context(module.register_forward_hook(watch.made_by))
        for module in readers:
            stack.enter_context(module.register_forward_pre_hook(watch.read_by))
            stack.enter_context(module.register_forward_hook(watch.leave))
        stack.enter_context(watch)
        with torch.no_grad():
            kept = run()
    watch.read(tree_leaves(kept))
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    alone = [maker for maker in makers if all(owners[id(parameter)] == 1 for parameter in maker.parameters())]
    return watch.found(alone)


class _Watch(ReadWatch):
    """While active, records which modules read the outputs and the parameters of the makers."""

    def __init__(self, makers: Sequence[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inside: nn.Module | None = None
        self._maker: dict[int, nn.Module] = {}  # maker by the id of its output
        self._held: list[Tensor] = []  # keeps outputs alive, so that no id is reused
        self._owner = {id(parameter): maker for maker in makers for parameter in maker.parameters()}
        self._readers: dict[nn.Module, set[nn.Module | None]] = defaultdict(set)  # None: any other reader
        self._sources: dict[nn.Module, set[nn.Module | None]] = defaultdict(set)
        self._unread: set[int] = set()
        self._dimensions: dict[nn.Module, set[int]] = defaultdict(set)

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook: a maker begins."""
        self._inside = module

    def made_by(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook: a maker ends."""
        self._inside = None
        self._held.append(output)
        self._maker[id(output)] = module
        self._unread.add(id(output))
        self._dimensions[module].add(output.dim())

    def read_by(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook: a reader begins."""
        self._inside = module
        maker = self._maker.get(id(inputs[0])) if len(inputs) == 1 else None
        self._sources[module].add(maker)
        if maker is not None:
            self._readers[maker].add(module)
            self._unread.discard(id(inputs[0]))

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook: a reader ends."""
        self._inside = None

    def read(self, values: Sequence[Any]) -> None:
        """Record that these values are read, by the module that is running or outside of all."""
        for value in values:
            maker = self._maker.get(id(value))
            if maker is not None and self._inside not in self._readers[maker]:
                self._readers[maker].add(None)
            owner = self._owner.get(id(value))
            if owner is not None and owner is not self._inside:
                self._readers[owner].add(None)

    def found(self, makers: Sequence[nn.Module]) -> list[MakerAndReader]:
        """The pairs of those makers whose output a single reader reads."""
        wasteful = {self._maker[output] for output in self._unread}
        found = []
        for maker in makers:
            readers = self._readers[maker]
            reader = next(iter(readers), None) if len(readers) == 1 else None
            if reader is not None and maker not in wasteful and self._sources[reader] == {maker}:
                found.append(MakerAndReader(maker, reader, frozenset(self._dimensions[maker])))
        return found
