"""Compiles LLVM IR into machine code, and calls it."""

from __future__ import annotations

import ctypes
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import llvmlite
import torch
from llvmlite import binding, ir
from torch import Tensor

from dyncomp.core.counter import active_counters, report
from dyncomp.core.locks import making
from dyncomp.core.operators import GENERATED, GENERATED_NAME
from dyncomp.fast.codegen.emit import INT, INT32, POINTER, VOID, Emitter, Number, Value, integer
from dyncomp.fast.codegen.machine import Machine, this_machine, threads
from dyncomp.fast.codegen.object_cache import object_code

_ENTRY = "entry"
_CODE_LEVEL = 2
"""LLVM's level of optimisation in code generation"""
_PASSES = ("sroa", "loop_rotate", "instruction_combine", "simplify_cfg")
"""LLVM's passes over the IR, in order.

Loops are unrolled and vectorised when they are emitted. LLVM's own pipeline (level 2) unrolls them again: it takes ten
times as long, and the code, a quarter larger, is up to a tenth slower.
"""

Arguments = ctypes.Array[ctypes.c_int64]
"""Counts and addresses, as code reads them."""

Overhead = Callable[..., Any]
"""runs a function with its arguments, in the scope in which a counter adds up a site's overhead"""

Key = TypeVar("Key", bound=int)
"""a member of a program's `arguments`"""


@dataclass(frozen=True)
class Code:
    """Machine code, and the engine that keeps it in memory."""

    address: int
    engine: Any
    parameters: int
    program: Program

    def run(self, count: int, given: Mapping[Key, int], overhead: Overhead | None = None) -> None:
        """Run the code on `count` of torch's threads; see `call` for the MACs.

        `given` are arguments by name: counts, and addresses of memory that outlives the call; all others are 0.
        """
        self.call(count, self.packed(given), overhead)

    def packed(self, given: Mapping[Key, int]) -> Arguments:
        """Arguments as the array that the code reads; `call` may be given it many times."""
        packed = (ctypes.c_int64 * self.parameters)()
        for index, value in given.items():
            packed[index] = value
        return packed

    def call(self, count: int, packed: Arguments, overhead: Overhead | None = None, calls: int = 1) -> None:
        """Run the code on `count` of torch's threads, with packed arguments, and report its MACs to counters.

        `overhead` runs the report of the MACs that mix kernels, which are a site's overhead. `calls` is what counters
        add to the number of calls: 0 for a later part of what is one call otherwise.
        """
        if active_counters():
            report(GENERATED_NAME, self.program.macs(packed), calls)
            mixing = self.program.mixing_macs(packed)
            if mixing and overhead is not None:
                overhead(report, GENERATED_NAME, mixing, 0)
            elif mixing:
                report(GENERATED_NAME, mixing, 0)
        team = threads()
        assert team is not None  # without threads, no code is compiled
        if torch._C._autograd._profiler_enabled():
            with torch.profiler.record_function(GENERATED):
                team.run(self.address, packed, count)
        else:
            team.run(self.address, packed, count)


class Entry(Emitter):
    """Emits the function that every thread runs, with access to its arguments and its share of the work."""

    def __init__(self, module: ir.Module, number: Number) -> None:
        super().__init__(ir.Function(module, ir.FunctionType(VOID, [POINTER]), _ENTRY), number)
        asked = (
            ir.Function(module, ir.FunctionType(INT32, []), f"omp_get_{what}") for what in ("thread_num", "num_threads")
        )
        self.thread, self.threads = (self.sext(self.call(function, []), INT) for function in asked)

    def barrier(self) -> None:
        """Emit a barrier, at which each thread waits for all others."""
        name = "GOMP_barrier"
        known = self.module.globals.get(name)
        self.call(known or ir.Function(self.module, ir.FunctionType(VOID, []), name), [])

    def argument(self, index: int) -> Value:
        """An argument that `Code.run` was given, by its position."""
        return self.load_int(self.made.args[0], integer(index))

    def share(self, total: Value) -> tuple[Value, Value]:
        """This thread's range of the tasks 0, ..., total - 1: first task, and end (exclusive)."""
        first = self.sdiv(self.mul(total, self.thread), self.threads)
        end = self.sdiv(self.mul(total, self.add(self.thread, integer(1))), self.threads)
        return first, end


class Program(ABC):
    """What code can be compiled for: equal programs, which have equal hashes and texts (`repr`), share their code.

    The text has to tell everything that `emit` depends on: object code on disk is found by it.
    """

    arguments: ClassVar[type[IntEnum]]
    """the arguments of the code, by index"""

    @abstractmethod
    def emit(self, module: ir.Module) -> None:
        """Emit the entry function, which is a subclass of `Entry`, into an empty module."""

    def macs(self, given: Arguments) -> int:
        """Multiply-adds of a call with these arguments, by the convention of `dyncomp.core.counter`: none here."""
        return 0

    def mixing_macs(self, given: Arguments) -> int:
        """Multiply-adds that mix kernels, which `macs` does not include."""
        return 0


@cache
def compiled(program: Program) -> Code:
    """The machine code of a program: from the user's cache (see `object_cache.py`), or made now."""
    here = this_machine()
    assert here is not None  # callers have checked
    with making:  # a fork waits for this lock, but not for LLVM's own
        # All that object code depends on: the program, the text of what emits its IR, the compiler and the processor.
        # The IR says the same, yet to emit it takes longer than everything else does where the object code is stored.
        version = ".".join(str(part) for part in binding.llvm_version_info)
        compiler = f"llvmlite {llvmlite.__version__}, LLVM {version} -O{_CODE_LEVEL}, {_PASSES}"
        source = f"{program}\n{_emitters()}\n{compiler}, {here.name} {here.features}"
        # the engine is given the object code only: the IR that it was compiled from takes a megabyte
        written = object_code(source, lambda: _translated(_emitted(program), here))
        engine = binding.create_mcjit_compiler(
            binding.parse_assembly(""), binding.Target.from_default_triple().create_target_machine()
        )
        engine.add_object_file(binding.ObjectFileRef.from_data(written))
        engine.finalize_object()
    return Code(engine.get_function_address(_ENTRY), engine, len(program.arguments), program)


@cache
def _emitters() -> str:
    """The digest of this package's text: another text may emit other IR for the same program."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _emitted(program: Program) -> str:
    """The IR of a program."""
    module = ir.Module()
    module.triple = binding.get_default_triple()
    program.emit(module)
    return str(module)


def _translated(ir_text: str, here: Machine) -> bytes:
    """IR as object code for a processor."""
    aim = binding.Target.from_default_triple().create_target_machine(
        cpu=here.name, features=here.features, opt=_CODE_LEVEL
    )
    parsed = binding.parse_assembly(ir_text)
    parsed.verify()
    passes = binding.create_new_module_pass_manager()
    for name in _PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(parsed, binding.create_pass_builder(aim, binding.create_pipeline_tuning_options()))
    made: bytes = aim.emit_object(parsed)
    return made


def addresses(memory: Mapping[Key, Tensor]) -> dict[Key, int]:
    """Arguments of code: the addresses of tensors, which have to outlive the call."""
    return {argument: tensor.data_ptr() for argument, tensor in memory.items()}


def integers(address: int, count: int) -> Sequence[int]:
    """The 64-bit integers at an address, such as an argument of code that is a list of counts."""
    return (ctypes.c_int64 * count).from_address(address)[:]
