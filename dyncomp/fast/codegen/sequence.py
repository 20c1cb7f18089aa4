"""Code that runs other code step by step on the same threads, so that starting them is paid once."""

from __future__ import annotations

from enum import IntEnum
from functools import cache

import torch
from llvmlite import ir

from dyncomp.fast.codegen.build import Code, Entry, compiled, new_module
from dyncomp.fast.codegen.emit import POINTER, VOID, Number, Value, integer


class StepWord(IntEnum):
    """What a step is in the table: addresses of its code, and of what the code is given."""

    CODE = 0
    GIVEN = 1


@cache
def in_sequence() -> Code:
    """f(steps, table): so many steps, one after the other; each begins when every thread is done with the one before.

    What a step is given is read when it begins: steps may change what later ones are given.
    """
    module = new_module()
    _Sequence(module, Number(torch.float32)).emit()
    return compiled(module, parameters=2)


class _Sequence(Entry):
    def emit(self) -> None:
        table = self.pointer(self.argument(1))
        kind = ir.FunctionType(VOID, [POINTER])

        def step(index: Value) -> None:
            code, given = (self.word(table, self.total((index, len(StepWord)), integer(word))) for word in StepWord)
            self.call(self.inttoptr(code, kind.as_pointer()), [self.pointer(given)])
            self.barrier()

        self.loop(integer(0), self.argument(0), step)
        self.ret_void()
