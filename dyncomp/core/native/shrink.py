"""Maps made smaller without weights: the mean of each window of pixels, and outputs of zeros behind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from llvmlite import ir

from dyncomp.core.native.build import Code, Entry, compiled, new_module
from dyncomp.core.native.emit import Number, Value, integer, pieces, starts
from dyncomp.core.native.machine import Machine
from dyncomp.core.native.piece import Argument


@dataclass(frozen=True)
class Shrinking:
    """Windows of so many pixels on a side, as far as they lie on the map, one every `stride` pixels; none is wider."""

    channels: int
    outputs: int
    size: tuple[int, int]
    window: int
    stride: int
    number: Number
    machine: Machine

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the output."""
        return -(-self.size[0] // self.stride), -(-self.size[1] // self.stride)


@cache
def shrinking_for(plan: Shrinking) -> Code:
    """The code, which is given what a convolution's is; it looks at X, Y and IMAGES."""
    module = new_module()
    _Shrinking(module, plan).emit()
    return compiled(module, len(Argument))


class _Shrinking(Entry):
    def __init__(self, module: ir.Module, plan: Shrinking) -> None:
        super().__init__(module, plan.number)
        self.plan = plan
        self.x, self.y = (self.pointer(self.argument(index)) for index in (Argument.X, Argument.Y))
        self.widths = pieces(plan.channels, plan.machine.vector_bytes // plan.number.dtype.itemsize)
        self.sums = [self.local(self.number.vector(lanes)) for lanes in self.widths]

    def emit(self) -> None:
        """Row by row of the output."""
        self.loop(*self.share(self.mul(self.argument(Argument.IMAGES), integer(self.plan.places[0]))), self._row)
        self.ret_void()

    def _row(self, row: Value) -> None:
        rows, columns = self.plan.places
        image, top = self.sdiv(row, integer(rows)), self.mul(self.srem(row, integer(rows)), integer(self.plan.stride))
        height = self.smaller(integer(self.plan.window), self.sub(integer(self.plan.size[0]), top))
        first = self.total((image, self.plan.size[0]), top)  # row of x
        self.loop(integer(0), integer(columns), lambda column: self._pixel(row, column, first, height))

    def _pixel(self, row: Value, column: Value, first: Value, height: Value) -> None:
        plan = self.plan
        left = self.mul(column, integer(plan.stride))
        width = self.smaller(integer(plan.window), self.sub(integer(plan.size[1]), left))
        for total, lanes in zip(self.sums, self.widths, strict=True):
            self.store(ir.Constant(self.number.vector(lanes), [0.0] * lanes), total)

        def add(line: Value, step: Value) -> None:
            pixel = self.total((self.add(first, line), plan.size[1]), left, step)
            for total, lanes, offset in zip(self.sums, self.widths, starts(self.widths), strict=True):
                there = self.vector(self.at(self.x, (pixel, plan.channels), integer(offset)), lanes)
                self.store(self.fadd(self.load(total, typ=self.number.vector(lanes)), there), total)

        self.loop(integer(0), height, lambda line: self.loop(integer(0), width, lambda step: add(line, step)))
        count = self.sitofp(self.mul(height, width), self.number.type)
        there = self.at(self.y, (self.total((row, plan.places[1]), column), plan.outputs))
        for total, lanes, offset in zip(self.sums, self.widths, starts(self.widths), strict=True):
            mean = self.fdiv(self.load(total, typ=self.number.vector(lanes)), self.spread(count, lanes))
            self.write(mean, self.at(there, integer(offset)))
        nothing = ir.Constant(self.number.type, 0.0)
        zeros = integer(plan.channels), integer(plan.outputs)
        self.loop(*zeros, lambda o: self.write(nothing, self.at(there, o)))
