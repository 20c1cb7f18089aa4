"""In-place ReLU of contiguous elements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from llvmlite import ir

from dyncomp.fast.codegen.build import Entry, Program
from dyncomp.fast.codegen.emit import Number, Value, integer
from dyncomp.fast.codegen.machine import Machine


class ActivationArgument(IntEnum):
    """Arguments of the code, in order: an address, and counts."""

    Y = 0
    """(images, numbers)"""
    IMAGES = 1
    NUMBERS = 2


@dataclass(frozen=True)
class Activation(Program):
    """ReLU in place."""

    number: Number
    machine: Machine
    arguments = ActivationArgument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Activation(module, self.number).emit(self.machine.vector_bytes // self.number.dtype.itemsize)


class _Activation(Entry):
    def emit(self, lanes: int) -> None:
        y = self.pointer(self.argument(ActivationArgument.Y))
        count = self.mul(self.argument(ActivationArgument.IMAGES), self.argument(ActivationArgument.NUMBERS))
        whole = self.sdiv(count, integer(lanes))

        def at(index: Value, width: int) -> None:
            there = self.at(y, index)
            self.write(self.relu(self.vector(there, width)), there)

        self.loop(*self.share(whole), lambda index: at(self.mul(index, integer(lanes)), lanes))
        with self.if_then(self.icmp_signed("==", self.thread, integer(0))):
            self.loop(self.mul(whole, integer(lanes)), count, lambda index: at(index, 1))
        self.ret_void()
