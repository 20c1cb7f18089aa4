"""Pooling: the mean or maximum of each window of pixels, and channels of zeros after the map's own."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dyncomp.fast.codegen.build import Entry, Program
from dyncomp.fast.codegen.emit import Number, Value, integer, pieces, starts
from dyncomp.fast.codegen.machine import Machine
from dyncomp.fast.codegen.piece import Argument

_TOGETHER = 8
"""vectors of a pixel that are reduced together: each has an accumulator register"""


@dataclass(frozen=True)
class Pooling(Program):
    """Square windows of `window` pixels a side, clipped to the map, one every `stride` pixels.

    The first window begins `padding` pixels outside the map. `whole`: only windows that end within the map and its
    padding; else size / stride windows, rounded up. `greatest`: maximum instead of mean. Output channels after the
    first `channels` are 0. The code has the arguments of a convolution, of which it reads X, Y and IMAGES.
    """

    channels: int
    outputs: int
    size: tuple[int, int]
    window: int
    stride: int
    number: Number
    machine: Machine
    padding: int = 0
    greatest: bool = False
    whole: bool = False

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        around, step = 2 * self.padding - self.window, self.stride
        height, width = ((n + around) // step + 1 if self.whole else -(-n // step) for n in self.size)
        return height, width

    arguments = Argument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Pooling(module, self).emit()


class _Pooling(Entry):
    def __init__(self, module: ir.Module, plan: Pooling) -> None:
        super().__init__(module, plan.number)
        self.plan = plan
        self.x, self.y = (self.pointer(self.argument(index)) for index in (Argument.X, Argument.Y))
        widths = pieces(plan.channels, plan.machine.vector_bytes // plan.number.dtype.itemsize)
        self.vectors = list(zip(widths, starts(widths), strict=True))

    def emit(self) -> None:
        """Loop over the rows of the output."""
        self.loop(*self.share(self.mul(self.argument(Argument.IMAGES), integer(self.plan.output_size[0]))), self._row)
        self.ret_void()

    def _row(self, row: Value) -> None:
        rows, columns = self.plan.output_size
        image = self.sdiv(row, integer(rows))
        top, bottom = self._window(self.srem(row, integer(rows)), self.plan.size[0])
        before = self.mul(image, integer(self.plan.size[0]))  # rows of x
        lines = self.add(before, top), self.add(before, bottom)
        zeros, nothing = (integer(self.plan.channels), integer(self.plan.outputs)), ir.Constant(self.number.type, 0.0)

        def pixel(column: Value) -> None:
            seen = self._window(column, self.plan.size[1])
            there = self.at(self.y, (self.total((row, columns), column), self.plan.outputs))
            for index in range(0, len(self.vectors), _TOGETHER):
                self._some(self.vectors[index : index + _TOGETHER], lines, seen, there)
            self.loop(*zeros, lambda o: self.write(nothing, self.at(there, o)))

        self.loop(integer(0), integer(columns), pixel)

    def _window(self, place: Value, pixels: int) -> tuple[Value, Value]:
        """First pixel of a clipped window, and its end (exclusive)."""
        first = self.total((place, self.plan.stride), integer(-self.plan.padding))
        behind = self.smaller(integer(pixels), self.add(first, integer(self.plan.window)))
        return self.larger(integer(0), first), behind

    def _some(
        self, vectors: list[tuple[int, int]], lines: tuple[Value, Value], columns: tuple[Value, Value], out: Value
    ) -> None:
        start = float("-inf") if self.plan.greatest else 0.0
        places = [(self.stack_slot(self.number.vector(lanes)), lanes, offset) for lanes, offset in vectors]
        for held, lanes, _ in places:
            self.store(ir.Constant(self.number.vector(lanes), [start] * lanes), held)

        def look(line: Value, column: Value) -> None:
            pixel = self.total((line, self.plan.size[1]), column)
            for held, lanes, offset in places:
                there = self.vector(self.at(self.x, (pixel, self.plan.channels), integer(offset)), lanes)
                so_far = self.load(held, typ=self.number.vector(lanes))
                self.store(self.maximum(so_far, there) if self.plan.greatest else self.fadd(so_far, there), held)

        self.loop(*lines, lambda line: self.loop(*columns, lambda column: look(line, column)))
        height, width = (self.sub(behind, first) for first, behind in (lines, columns))
        count = self.sitofp(self.mul(height, width), self.number.type)
        for held, lanes, offset in places:
            found = self.load(held, typ=self.number.vector(lanes))
            found = found if self.plan.greatest else self.fdiv(found, self.broadcast(count, lanes))
            self.write(found, self.at(out, integer(offset)))
