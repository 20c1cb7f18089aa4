"""Kernels from where they lie into the order in which a convolution reads them, and back: for kernels that learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from llvmlite import ir

from dyncomp.fast.codegen.build import Code, Entry, compiled, new_module
from dyncomp.fast.codegen.emit import Value, integer, starts
from dyncomp.fast.codegen.plan import Panel, Plan

_LANES, _INPUTS = 8, 16
"""so many outputs at once, whose lines may all fall into one set of the first cache, for a line's worth of inputs"""


class OrderArgument(IntEnum):
    """What the code is given, in order: addresses."""

    KERNELS = 0
    """(experts, ...)"""
    PACKED = 1
    """see `Plan.packed`"""
    INPUTS = 2
    """(inputs,) integers: where each packed input lies in the kernel of an expert's first output"""


@dataclass(frozen=True)
class Order:
    """Kernels for a plan that lie with `apart` numbers from one output to the next; `back`: packed ones there."""

    plan: Plan
    apart: int
    back: bool = False


@cache
def order_for(order: Order) -> Code:
    """The code; see `OrderArgument`."""
    module = new_module()
    _Ordering(module, order).emit()
    return compiled(module, len(OrderArgument))


class _Ordering(Entry):
    """Divides vectors of outputs and experts between threads: each takes all inputs of its own."""

    def __init__(self, module: ir.Module, order: Order) -> None:
        super().__init__(module, order.plan.number)
        self.order, self.plan = order, order.plan
        self.kernels, self.packed, self.inputs = (self.pointer(self.argument(index)) for index in OrderArgument)

    def emit(self) -> None:
        for panel, alike in self.plan.alike:
            for lanes, offset in zip(panel.lanes, starts(panel.lanes), strict=True):
                self.loop(*self.share(integer(alike * self.plan.experts)), self._vectors(panel, lanes, offset))
        self.ret_void()

    def _vectors(self, panel: Panel, lanes: int, offset: int) -> Callable[[Value], None]:
        """What to do with an expert of a panel: move a vector of outputs for every input."""
        experts, inputs = self.plan.experts, self.plan.inputs

        def move(task: Value) -> None:
            expert, index = self.srem(task, integer(experts)), self.sdiv(task, integer(experts))
            output = self.total(integer(panel.first), (index, panel.outputs))
            here = (expert, self.plan.shape.outputs * inputs), (output, self.order.apart)
            kernel = self.at(self.kernels, *here, integer(offset * self.order.apart))
            packed = self.at(self.packed, (output, experts * inputs), (expert, lanes), integer(experts * offset))

            def some(first: Value, lanes: range) -> None:
                def input_(n: Value) -> None:
                    there = self.at(kernel, self.word(self.inputs, n))
                    self._move(there, self.at(packed, (n, experts * panel.outputs)), lanes)

                self.loop(first, self.smaller(self.add(first, integer(_INPUTS)), integer(inputs)), input_)

            def parts(first: Value) -> None:
                wide = lanes if self.order.apart == 1 else _LANES
                for lane in range(0, lanes, wide):
                    some(first, range(lane, min(lane + wide, lanes)))

            self.loop(integer(0), integer(inputs), parts, _INPUTS)

        return move

    def _move(self, kernel: Value, packed: Value, lanes: range) -> None:
        if self.order.apart == 1:
            source, target = (packed, kernel) if self.order.back else (kernel, packed)
            self.write(self.vector(source, len(lanes)), target)
            return
        for lane in lanes:
            one, other = self.at(kernel, integer(lane * self.order.apart)), self.at(packed, integer(lane))
            source, target = (other, one) if self.order.back else (one, other)
            self.write(self.one(source), target)
