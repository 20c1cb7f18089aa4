"""Code that runs other code step by step on the same threads, so that the calling overhead is paid once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from llvmlite import ir

from dyncomp.fast.codegen.build import Entry, Program
from dyncomp.fast.codegen.emit import POINTER, VOID, Number, Value, integer


class StepWord(IntEnum):
    """Words of a step in the table: the addresses of its code and of its arguments."""

    CODE = 0
    GIVEN = 1


class SequenceArgument(IntEnum):
    """Arguments of the code, in order: a count, and an address."""

    STEPS = 0
    TABLE = 1
    """(steps, words) integers; see `StepWord`"""


@dataclass(frozen=True)
class Sequence(Program):
    """The steps of a table in order, with a barrier after each; the steps' codes report their MACs themselves.

    The arguments of a step are read when it begins: a step may change the arguments of later steps.
    """

    arguments = SequenceArgument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Sequence(module, Number(torch.float32)).emit()


class _Sequence(Entry):
    def emit(self) -> None:
        table = self.pointer(self.argument(SequenceArgument.TABLE))
        kind = ir.FunctionType(VOID, [POINTER])

        def step(index: Value) -> None:
            code, given = (self.load_int(table, self.total((index, len(StepWord)), integer(word))) for word in StepWord)
            self.call(self.inttoptr(code, kind.as_pointer()), [self.pointer(given)])
            self.barrier()

        self.loop(integer(0), self.argument(SequenceArgument.STEPS), step)
        self.ret_void()
