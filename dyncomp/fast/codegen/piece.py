"""What is alike in all code that computes a panel of outputs: its arguments, and where things lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

from llvmlite import ir

from dyncomp.fast.codegen.emit import Emitter, Value, integer
from dyncomp.fast.codegen.microkernel import Blocks, Micro, Pixels
from dyncomp.fast.codegen.plan import Panel, Plan


class Argument(IntEnum):
    """What the code is given, in order: addresses, and counts."""

    X = 0
    Y = 1
    WEIGHTS = 2
    """packed: see `Plan.packed`"""
    SHARES = 3
    """(images, experts)"""
    BIAS = 4
    BIAS_STEP = 5
    """numbers from one image's to the next's: 0 where all have the same"""
    RESIDUAL = 6
    """added before ReLU; 0 for none"""
    SCRATCH = 7
    IMAGES = 8
    ROWS_X = 9
    """where each image lies in x, as integers; 0: one after the other"""
    ROWS_Y = 10
    ROWS_RESIDUAL = 11
    RELU = 12
    INPUTS = 13
    """(images, channels), where each image has some channels only: which of them lies where in x, as integers"""
    INPUT_COUNTS = 14
    """(images,): how many of those it has"""
    OUTPUTS = 15
    """(images, outputs), where each wants some only: which it wants, ascending, where they are to lie"""
    OUTPUT_COUNTS = 16


class Range(IntEnum):
    """What a piece is given besides: which images and rows of the output, and where its outputs begin, in bytes."""

    IMAGE = 17
    END_IMAGE = 18
    ROW = 19
    END_ROW = 20
    OFFSET = 21


PARAMETERS = len(Argument) + len(Range)


class Piece(Emitter):
    """A panel of outputs of some images."""

    def __init__(self, made: ir.Function, plan: Plan, panel: Panel, micro: Micro) -> None:
        super().__init__(made, plan.number)
        self.plan, self.shape, self.panel, self.micro = plan, plan.shape, panel, micro
        self.given = made.args
        self.size = plan.number.dtype.itemsize

    def images(self, together: int, act: Callable[[Value, int], None]) -> None:
        """Act on the images, so many at once, what is left one by one."""
        first, end = self.given[Range.IMAGE], self.given[Range.END_IMAGE]
        groups = self.sdiv(self.sub(end, first), integer(together))
        whole = self.total(first, (groups, together))
        self.loop(first, whole, lambda image: act(image, together), together)
        if together > 1:
            self.loop(whole, end, lambda image: act(image, 1))

    def mixed(self, image: Value, count: int, weights: Value, inputs: int) -> Value:
        """Where the weights of so many images lie: mixed in scratch memory, or as they are."""
        if not self.plan.experts:
            return weights
        scratch = self.given[Argument.SCRATCH]
        shares = self.total(self.given[Argument.SHARES], (image, self.plan.experts * self.size))
        self.call(self.micro.mix(self.panel, count), [weights, shares, scratch, integer(inputs)])
        return scratch

    def places(self, image: Value) -> tuple[Value, Value, Value, Value]:
        """Addresses of an image's input, output, bias and residual (0: none)."""
        (rows, columns), (out_rows, out_columns) = self.shape.rows
        reads, writes = rows * columns * self.shape.reads, out_rows * out_columns * self.shape.writes
        x = self._of_row(Argument.X, Argument.ROWS_X, image, reads)
        y = self._of_row(Argument.Y, Argument.ROWS_Y, image, writes)
        step = self.mul(image, self.given[Argument.BIAS_STEP])
        residual = self._of_row(Argument.RESIDUAL, Argument.ROWS_RESIDUAL, image, writes)
        there = self.add(residual, self.given[Range.OFFSET])
        return x, y, self.total(self.given[Argument.BIAS], (step, self.size)), self._unless_none(there)

    def _unless_none(self, residual: Value) -> Value:
        none = self.icmp_signed("==", self.given[Argument.RESIDUAL], integer(0))
        return self.select(none, integer(0), residual)

    def _of_row(self, base: Argument, rows: Argument, image: Value, numbers: int) -> Value:
        listed, before = self.given[rows], self.block
        with self.if_then(self.icmp_signed("!=", listed, integer(0))):
            index, inside = self.word(self.pointer(listed), image), self.block
        row = self.phi(image.type)
        row.add_incoming(image, before)
        row.add_incoming(index, inside)
        return self.total(self.given[base], (row, numbers * self.size))

    def taps(self, row: Value) -> tuple[Value, Value]:
        """The first and the last row of the kernel that falls on the map, for a row of the output."""
        shape = self.shape
        far, height, top = shape.dilation[0], shape.rows[0][0], (row, -shape.stride[0])
        lowest = self.sdiv(self.total(integer(shape.padding[0] + far - 1), top), integer(far))
        highest = self.sdiv(self.total(integer(height - 1 + shape.padding[0]), top), integer(far))
        return self.larger(integer(0), lowest), self.smaller(integer(shape.kernel[0] - 1), highest)

    def row_of_x(self, x: Value, row: Value, ky: Value) -> Value:
        """Where the first pixel's first tap sees x, for a row of the output and one of the kernel."""
        shape, columns = self.shape, self.shape.rows[0][1]
        into = (row, shape.stride[0] * columns), (ky, shape.dilation[0] * columns)
        pixel = self.total(*into, integer(-shape.padding[0] * columns - shape.padding[1]))
        return self.total(x, (pixel, shape.reads * self.size))

    def row_of_y(self, row: Value) -> Value:
        """How far a row of the output lies from the first, in bytes."""
        return self.mul(row, integer(self.shape.rows[1][1] * self.shape.writes * self.size))

    def row(
        self, blocks: Blocks, code: Callable[[Pixels], ir.Function], at: tuple[Value, Value], rest: Sequence[Value]
    ) -> None:
        """Call `code` on a row of the output, block by block.

        `at`: the row's address in x and its distance in y; `rest`: weights, y, bias, residual, and what `code` takes
        besides.
        """
        weights, y, bias, residual, *flags = rest
        start = 0
        for pixels, count in blocks:

            def block(index: Value, pixels: Pixels = pixels, start: int = start) -> None:
                column = self.total(integer(start), (index, pixels.count))
                x = self.total(at[0], (column, self.shape.stride[1] * self.shape.reads * self.size))
                far = self.total(at[1], (column, self.shape.writes * self.size))
                there = self._unless_none(self.add(residual, far))
                self.call(code(pixels), [x, weights, self.add(y, far), bias, there, *flags])

            self.loop(integer(0), integer(count), block)
            start += count * pixels.count
