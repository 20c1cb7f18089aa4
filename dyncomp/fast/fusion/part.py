"""What a run is made of: parts that each make features of features, in some steps of the run's table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.core.op import Op
from dyncomp.fast import codegen as native
from dyncomp.fast.codegen import Argument
from dyncomp.fast.fusion.step_table import Given, Table, Words
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.memory import empty, kept
from dyncomp.fast.scratch import scratch


@dataclass(frozen=True)
class Need:
    """Memory that code writes on the way: so many numbers for each image or, `by_thread`, for each thread."""

    slot: str
    numbers: int
    dtype: torch.dtype | None = None
    """None: as the features have"""
    by_thread: bool = False

    def fill(self, table: Table, x: Tensor, threads: int) -> None:
        """Give it out, for features like x and code that runs on so many threads."""
        times = threads if self.by_thread else len(x)
        table.fill(self.slot, scratch(self.slot, x, self.numbers * times, self.dtype).data_ptr())


@dataclass(frozen=True)
class At:
    """Where in a run a part stands: its number, and the slots of what it reads and of what it writes."""

    index: int
    source: str
    target: str
    positive: bool = False
    """whether nothing that it reads is below 0"""


Filling = tuple[Sequence[tuple[str, int]], Tensor | None]
"""What slots are in a pass, and a tensor that has to live until the pass is over."""

Change = Callable[[Table, Tensor], Filling]
"""What holds in a pass, for features like x. It may ask code that is not ours, which may run the network again: the
table is filled in when all is known."""


@dataclass(frozen=True)
class Forceable:
    """An op whose forced decision code reads in place of the decision that it makes, and the slot of its address.

    The code uses a unit where the number (B, U) of the slot is above 0, and its own decision where the address is 0.
    """

    op: Op
    slot: str

    def fill(self, table: Table, x: Tensor) -> Tensor | None:
        """Fill the slot for features like x; the tensor has to live until the pass is over."""
        tape = self.op.tape
        if self.op.site not in tape.forced:
            table.fill(self.slot, 0)
            return None
        numbers = kept((tape.given(self.op.site, x).used - 0.5).contiguous())  # (B, U)
        table.fill(self.slot, numbers.data_ptr())
        return numbers


class Part(ABC):
    """Makes features of features."""

    output: torch.Size
    """what becomes of an image, (C, H, W) or (C,)"""

    def makes_map(self, first: bool) -> bool:
        """Whether it writes into new memory; else it writes over what it reads."""
        return True

    def makes_positive(self, positive: bool) -> bool:
        """Whether nothing that comes out is below 0, if nothing that it reads is, or though something may be."""
        return False

    def needs(self) -> Iterable[Need]:
        """Memory that its steps use."""
        return ()

    @abstractmethod
    def add(self, words: Words, at: At) -> None:
        """Its steps."""

    def changes(self, index: int) -> Iterable[Change]:
        """What is filled in anew in every pass; the part stands at that index."""
        return ()

    def forceable(self, index: int) -> Iterable[Forceable]:
        """Its ops, where code follows their forced decisions; the part stands at that index."""
        return ()

    def new(self, x: Tensor) -> Tensor:
        """Memory for what becomes of all images of x."""
        laid_out = torch.channels_last if len(self.output) == 3 else torch.contiguous_format
        return empty((len(x), *self.output), x, memory_format=laid_out)


class Turns:
    """Two places that take turns: what a step makes goes where what it reads does not lie."""

    def __init__(self, source: str) -> None:
        self.here = source

    def next(self) -> str:
        """Where the next step writes; it is then `here`."""
        self.here = f"between {int(self.here == 'between 0')}"
        return self.here


def between(*sizes: int) -> Iterator[Need]:
    """Both places, for so many numbers of each image at most."""
    for turn in range(2):
        yield Need(f"between {turn}", max(sizes, default=0))


def given_always(loaded: CompiledConvolution) -> dict[int, int | str]:
    """What a convolution's code is given in every pass."""
    given: dict[int, int | str] = {Argument.WEIGHTS: loaded.weights.data_ptr(), Argument.BIAS: loaded.bias.data_ptr()}
    given |= {Argument.SCRATCH: "direct"} if loaded.plan.scratch else {}
    return given | {Argument.SHARES: "shares"} if loaded.plan.experts else given


def fits(loaded: CompiledConvolution, x: Tensor) -> bool:
    """Whether code can be a step on features in the type of x: with one group, and weights of that type."""
    return loaded.plan.shape.groups == 1 and loaded.plan.number.dtype == x.dtype


def mixing(loaded: CompiledConvolution) -> Need:
    """Memory in which kernels are mixed or cut."""
    return Need("direct", loaded.plan.scratch, by_thread=True)


def step(words: Words, code: native.Code, given: Given) -> int:
    """A step that is about all images; see `Words.step`."""
    return words.step(code, {Argument.IMAGES: "images", **given})
