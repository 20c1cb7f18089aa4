"""The parts of a run: each maps features to features, in some steps of the run's step table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.core.op import Op
from dyncomp.fast import codegen
from dyncomp.fast.codegen import Argument
from dyncomp.fast.fusion.step_table import Given, Table, TableBuilder
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.memory import empty, for_code
from dyncomp.fast.scratch import OWN_KERNELS, scratch


@dataclass(frozen=True)
class Need:
    """Scratch memory that code writes: `numbers` for each image or, if `by_thread`, for each thread."""

    slot: str
    numbers: int
    dtype: torch.dtype | None = None
    """None: the dtype of the features"""
    by_thread: bool = False

    def fill(self, table: Table, x: Tensor, threads: int) -> None:
        """Allocate it for features like x and code on `threads` threads, and write its address into the table."""
        times = threads if self.by_thread else len(x)
        table.fill(self.slot, scratch(self.slot, x, self.numbers * times, self.dtype).data_ptr())


@dataclass(frozen=True)
class Position:
    """A part's position in a run: its index, and the slots that it reads from and writes to."""

    index: int
    source: str
    target: str
    nonnegative: bool = False
    """whether no number that the part reads is below 0"""


Filling = tuple[Sequence[tuple[str, int]], Tensor | None]
"""Slots' values in a pass, and a tensor that has to live until the pass is over."""

Change = Callable[[Table, Tensor], Filling]
"""Computes slots' values in a pass, for features like x. It may call user code, which may run the network again, so the
table is filled only after all values are known."""


@dataclass(frozen=True)
class Forceable:
    """An op whose forced decision the code reads in place of its own, and the slots of that decision's addresses.

    The code uses a unit where the number (B, U) at the address in `slot` is above 0, with the weight (B, U) at the
    address in `weight_slot`, if there is one; it decides itself where the address in `slot` is 0.
    """

    op: Op
    slot: str
    weight_slot: str | None = None

    def fill(self, table: Table, x: Tensor) -> Sequence[Tensor]:
        """Fill the slots for features like x; the returned tensors have to live until the pass is over."""
        tape = self.op.tape
        if self.op.site not in tape.forced:
            table.fill(self.slot, 0)
            return ()
        decision = tape.given(self.op.site, x)
        read = {self.slot: decision.used - 0.5}  # (B, U)
        if self.weight_slot is not None:
            read[self.weight_slot] = decision.weight
        held = {slot: for_code(values.contiguous()) for slot, values in read.items()}
        for slot, values in held.items():
            table.fill(slot, values.data_ptr())
        return tuple(held.values())


class Part(ABC):
    """A map from features to features."""

    output: torch.Size
    """shape of an image's output, (C, H, W) or (C,)"""

    def makes_map(self, first: bool) -> bool:
        """Whether the part writes to new memory; else it overwrites its input. `first`: it is the first of the run."""
        return True

    def makes_nonnegative(self, nonnegative: bool) -> bool:
        """Whether no output is below 0; `nonnegative` says whether no input is."""
        return False

    def needs(self) -> Iterable[Need]:
        """Scratch memory of the steps."""
        return ()

    @abstractmethod
    def add(self, builder: TableBuilder, at: Position) -> None:
        """Add the part's steps to the table."""

    def changes(self, index: int) -> Iterable[Change]:
        """What computes slots' values anew in every pass; `index` is the part's index in the run."""
        return ()

    def forceable(self, index: int) -> Iterable[Forceable]:
        """The ops whose forced decisions the code follows; `index` is the part's index in the run."""
        return ()

    def new(self, x: Tensor) -> Tensor:
        """Uninitialised memory for the outputs of all images of x."""
        laid_out = torch.channels_last if len(self.output) == 3 else torch.contiguous_format
        return empty((len(x), *self.output), x, memory_format=laid_out)


class DoubleBuffer:
    """Two scratch buffers in turn, so that a step does not write to the buffer that it reads."""

    def __init__(self, source: str) -> None:
        self.here = source

    def next(self) -> str:
        """The slot that the next step writes to; it becomes `here`."""
        self.here = f"between {int(self.here == 'between 0')}"
        return self.here


def double_buffer(*sizes: int) -> Iterator[Need]:
    """Both scratch buffers; `sizes` are the numbers per image of what they hold."""
    for turn in range(2):
        yield Need(f"between {turn}", max(sizes, default=0))


def constant_arguments(compiled: CompiledConvolution) -> dict[int, int | str]:
    """Arguments of a convolution's code that are the same in every pass."""
    given: dict[int, int | str] = {
        Argument.WEIGHTS: compiled.weights.data_ptr(),
        Argument.BIAS: compiled.bias.data_ptr(),
    }
    given |= {Argument.SCRATCH: OWN_KERNELS} if compiled.plan.scratch else {}
    return given | {Argument.SHARES: "shares"} if compiled.plan.experts else given


def fits(compiled: CompiledConvolution, x: Tensor) -> bool:
    """Whether code can be a step on features like x: it has one group, and weights of the dtype of x."""
    return compiled.plan.shape.groups == 1 and compiled.plan.number.dtype == x.dtype


def mixing(compiled: CompiledConvolution) -> Need:
    """Scratch memory, for each thread, in which kernels are mixed or cut."""
    return Need(OWN_KERNELS, compiled.plan.scratch, by_thread=True)


def step(builder: TableBuilder, code: codegen.Code, given: Given) -> int:
    """Add a step that processes all images; see `TableBuilder.step`."""
    return builder.step(code, {Argument.IMAGES: "images", **given})
