"""Packs kernels into the operand layout of a convolution, and unpacks them: for kernels that are trained."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from llvmlite import ir

from dyncomp.fast.codegen.build import Entry, Program
from dyncomp.fast.codegen.emit import Value, integer, starts
from dyncomp.fast.codegen.plan import Panel, Plan

_LANES, _INPUTS = 8, 16
"""tile of the transposition: outputs, whose cache lines may all map to one set of the L1 cache, by a line of inputs"""


class OrderArgument(IntEnum):
    """Arguments of the code, in order: addresses."""

    KERNELS = 0
    """(experts, ...), not packed"""
    PACKED = 1
    """see `Plan.packed`"""
    INPUTS = 2
    """(inputs,) integers: offset of each packed input in the kernel of an expert's first output, in elements"""


@dataclass(frozen=True)
class Order(Program):
    """Kernels of a plan with `apart` elements from one output to the next; `back`: unpack them, else pack them."""

    plan: Plan
    apart: int
    back: bool = False

    arguments = OrderArgument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Ordering(module, self).emit()


class _Ordering(Entry):
    """Divides vectors of outputs and experts between threads; a thread moves all inputs of its vectors."""

    def __init__(self, module: ir.Module, order: Order) -> None:
        super().__init__(module, order.plan.number)
        self.order, self.plan = order, order.plan
        self.kernels, self.packed, self.inputs = (self.pointer(self.argument(index)) for index in OrderArgument)

    def emit(self) -> None:
        for panel, alike in self.plan.equal_panels:
            for lanes, offset in zip(panel.lanes, starts(panel.lanes), strict=True):
                self.loop(*self.share(integer(alike * self.plan.experts)), partial(self._vector, panel, lanes, offset))
        self.ret_void()

    def _vector(self, panel: Panel, lanes: int, offset: int, task: Value) -> None:
        """Move a vector of outputs, of one expert of one panel, for every input."""
        experts, inputs = self.plan.experts, self.plan.inputs
        expert, index = self.srem(task, integer(experts)), self.sdiv(task, integer(experts))
        output = self.total(integer(panel.first), (index, panel.outputs))
        here = (expert, self.plan.shape.outputs * inputs), (output, self.order.apart)
        kernel = self.at(self.kernels, *here, integer(offset * self.order.apart))
        packed = self.at(self.packed, (output, experts * inputs), (expert, lanes), integer(experts * offset))

        def some(first: Value, lanes: range) -> None:
            def input_(n: Value) -> None:
                there = self.at(kernel, self.load_int(self.inputs, n))
                self._move(there, self.at(packed, (n, experts * panel.outputs)), lanes)

            self.loop(first, self.smaller(self.add(first, integer(_INPUTS)), integer(inputs)), input_)

        def parts(first: Value) -> None:
            wide = lanes if self.order.apart == 1 else _LANES
            for lane in range(0, lanes, wide):
                some(first, range(lane, min(lane + wide, lanes)))

        self.loop(integer(0), integer(inputs), parts, _INPUTS)

    def _move(self, kernel: Value, packed: Value, lanes: range) -> None:
        if self.order.apart == 1:
            source, target = (packed, kernel) if self.order.back else (kernel, packed)
            self.write(self.vector(source, len(lanes)), target)
            return
        for lane in lanes:
            one, other = self.at(kernel, integer(lane * self.order.apart)), self.at(packed, integer(lane))
            source, target = (other, one) if self.order.back else (one, other)
            self.write(self.load_element(source), target)
