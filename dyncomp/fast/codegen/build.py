"""Turns what was written in LLVM's language into machine code that can be called."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from llvmlite import binding, ir

from dyncomp.core.counter import GENERATED
from dyncomp.core.locks import making
from dyncomp.fast.codegen.emit import INT, INT32, POINTER, VOID, Emitter, Number, Value, integer
from dyncomp.fast.codegen.machine import this_machine, threads

_ENTRY = "entry"

Arguments = ctypes.Array[ctypes.c_int64]


@dataclass(frozen=True)
class Code:
    """Machine code, and what keeps it in memory."""

    address: int
    engine: Any
    parameters: int

    def run(self, count: int, *arguments: int) -> None:
        """Run it on `count` of torch's threads; arguments: numbers, and addresses of memory that outlives the call.

        Those at the end that are left out are 0.
        """
        self.call(count, self.packed(*arguments))

    def packed(self, *arguments: int) -> Arguments:
        """Arguments as the code reads them: what `call` is given, once or many times."""
        return (ctypes.c_int64 * self.parameters)(*arguments)

    def call(self, count: int, packed: Arguments) -> None:
        """`run` with arguments that are packed."""
        team = threads()
        assert team is not None  # else nothing was compiled
        if torch._C._autograd._profiler_enabled():
            with torch.profiler.record_function(GENERATED):
                team.run(self.address, packed, count)
        else:
            team.run(self.address, packed, count)


def new_module() -> ir.Module:
    """An empty one for this machine."""
    module = ir.Module()
    module.triple = binding.get_default_triple()
    return module


class Entry(Emitter):
    """The function that every thread runs: its arguments, and its share of the work."""

    def __init__(self, module: ir.Module, number: Number) -> None:
        super().__init__(ir.Function(module, ir.FunctionType(VOID, [POINTER]), _ENTRY), number)
        asked = (ir.Function(module, ir.FunctionType(INT32, []), f"omp_get_{what}") for what in _ASKED)
        self.thread, self.threads = (self.sext(self.call(function, []), INT) for function in asked)

    def barrier(self) -> None:
        """Wait for all threads."""
        name = "GOMP_barrier"
        known = self.module.globals.get(name)
        self.call(known or ir.Function(self.module, ir.FunctionType(VOID, []), name), [])

    def argument(self, index: int) -> Value:
        """One of those that `Code.run` was given."""
        return self.word(self.made.args[0], integer(index))

    def share(self, total: Value) -> tuple[Value, Value]:
        """This thread's part of 0, ..., total - 1: its first, and the one behind its last."""
        first = self.sdiv(self.mul(total, self.thread), self.threads)
        end = self.sdiv(self.mul(total, self.add(self.thread, integer(1))), self.threads)
        return first, end


_ASKED = ("thread_num", "num_threads")


def compiled(module: ir.Module, parameters: int) -> Code:
    """The module's entry, which reads so many arguments, as machine code."""
    with making:  # LLVM has a lock, too, for which a fork would not wait
        return _compiled(module, parameters)


def _compiled(module: ir.Module, parameters: int) -> Code:
    here = this_machine()
    assert here is not None  # asked before
    target = binding.Target.from_default_triple()
    aim = target.create_target_machine(cpu=here.name, features=here.features, opt=3)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    builder = binding.create_pass_builder(aim, binding.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(parsed, builder)
    # an engine that is given no more than the code: what it was made of takes a megabyte
    written = binding.ObjectFileRef.from_data(aim.emit_object(parsed))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target.create_target_machine())
    engine.add_object_file(written)
    engine.finalize_object()
    return Code(engine.get_function_address(_ENTRY), engine, parameters)
