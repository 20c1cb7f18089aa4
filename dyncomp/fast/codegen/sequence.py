"""Code that runs other code step by step on the same threads, so that the calling overhead is paid once."""

from __future__ import annotations

from enum import IntEnum
from functools import cache

import torch
from llvmlite import ir

from dyncomp.fast.codegen.build import Code, Entry, compiled, new_module, no_macs
from dyncomp.fast.codegen.emit import POINTER, VOID, Number, Value, integer


class StepWord(IntEnum):
    """Words of a step in the table: the addresses of its code and of its arguments."""

    CODE = 0
    GIVEN = 1


@cache
def in_sequence() -> Code:
    """The code of f(steps, table): run `steps` steps of the table in order, with a barrier after each.

    The arguments of a step are read when it begins: a step may change the arguments of later steps.
    """
    module = new_module()
    _Sequence(module, Number(torch.float32)).emit()
    return compiled(module, parameters=2, macs=no_macs)


class _Sequence(Entry):
    def emit(self) -> None:
        table = self.pointer(self.argument(1))
        kind = ir.FunctionType(VOID, [POINTER])

        def step(index: Value) -> None:
            code, given = (self.load_int(table, self.total((index, len(StepWord)), integer(word))) for word in StepWord)
            self.call(self.inttoptr(code, kind.as_pointer()), [self.pointer(given)])
            self.barrier()

        self.loop(integer(0), self.argument(0), step)
        self.ret_void()
