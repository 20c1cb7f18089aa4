"""In-place ReLU of contiguous elements."""

from __future__ import annotations

from functools import cache

from dyncomp.fast.codegen.build import Code, Entry, compiled, new_module, no_macs
from dyncomp.fast.codegen.emit import Number, Value, integer
from dyncomp.fast.codegen.machine import Machine


@cache
def activation_for(number: Number, machine: Machine) -> Code:
    """The code of f(y, images, count): ReLU of y (images, count), in place."""
    module = new_module()
    _Activation(module, number).emit(machine.vector_bytes // number.dtype.itemsize)
    return compiled(module, parameters=3, macs=no_macs)


class _Activation(Entry):
    def emit(self, lanes: int) -> None:
        y, count = self.pointer(self.argument(0)), self.mul(self.argument(1), self.argument(2))
        whole = self.sdiv(count, integer(lanes))

        def at(index: Value, width: int) -> None:
            there = self.at(y, index)
            self.write(self.relu(self.vector(there, width)), there)

        self.loop(*self.share(whole), lambda index: at(self.mul(index, integer(lanes)), lanes))
        with self.if_then(self.icmp_signed("==", self.thread, integer(0))):
            self.loop(self.mul(whole, integer(lanes)), count, lambda index: at(index, 1))
        self.ret_void()
