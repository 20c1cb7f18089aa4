"""What all code for a panel of outputs shares: its arguments, and the addresses of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

from llvmlite import ir

from dyncomp.fast.codegen.emit import Emitter, Value, integer
from dyncomp.fast.codegen.microkernel import Blocks, Micro, Pixels
from dyncomp.fast.codegen.plan import Panel, Plan


class Argument(IntEnum):
    """Arguments of a convolution's code, in order: addresses, and counts."""

    X = 0
    Y = 1
    WEIGHTS = 2
    """packed: see `Plan.packed`"""
    SHARES = 3
    """(images, experts): mixing weights"""
    BIAS = 4
    BIAS_STEP = 5
    """elements from one image's bias to the next one's; 0: one bias for all images"""
    RESIDUAL = 6
    """maps like y, added before ReLU; 0: none"""
    SCRATCH = 7
    IMAGES = 8
    ROWS_X = 9
    """(images,) integers: row of x from which each image is gathered, likewise below; 0: rows are consecutive"""
    ROWS_Y = 10
    ROWS_RESIDUAL = 11
    RELU = 12
    INPUTS = 13
    """(images, channels) integers, if images have some channels only: index of the channel at each position of x"""
    INPUT_COUNTS = 14
    """(images,): number of channels that each image has"""
    OUTPUTS = 15
    """(images, outputs), if images use some outputs only: indices of these, ascending, for each position of y"""
    OUTPUT_COUNTS = 16


class Range(IntEnum):
    """Further arguments of a piece: bounds of images and output rows (ends exclusive), offset of outputs in bytes."""

    IMAGE = 17
    END_IMAGE = 18
    ROW = 19
    END_ROW = 20
    OFFSET = 21


PARAMETERS = len(Argument) + len(Range)


class Piece(Emitter):
    """Code for a panel of outputs of some images."""

    def __init__(self, made: ir.Function, plan: Plan, panel: Panel, micro: Micro) -> None:
        super().__init__(made, plan.number)
        self.plan, self.shape, self.panel, self.micro = plan, plan.shape, panel, micro
        self.given = made.args
        self.size = plan.number.dtype.itemsize

    def images(self, together: int, act: Callable[[Value, int], None]) -> None:
        """Call `act(image, count)` for `together` images at a time, and for each remaining image alone."""
        first, end = self.given[Range.IMAGE], self.given[Range.END_IMAGE]
        groups = self.sdiv(self.sub(end, first), integer(together))
        whole = self.total(first, (groups, together))
        self.loop(first, whole, lambda image: act(image, together), together)
        if together > 1:
            self.loop(whole, end, lambda image: act(image, 1))

    def mixed(self, image: Value, count: int, weights: Value, inputs: int) -> Value:
        """Address of the weights of `count` images: mixed into scratch memory, or `weights` itself without experts."""
        if not self.plan.experts:
            return weights
        scratch = self.given[Argument.SCRATCH]
        shares = self.total(self.given[Argument.SHARES], (image, self.plan.experts * self.size))
        self.call(self.micro.mix(self.panel, count), [weights, shares, scratch, integer(inputs)])
        return scratch

    def places(self, image: Value) -> tuple[Value, Value, Value, Value]:
        """Addresses of an image's input, output, bias and residual (0: none)."""
        (rows, columns), (out_rows, out_columns) = self.shape.rows
        reads, writes = rows * columns * self.shape.x_channels, out_rows * out_columns * self.shape.y_channels
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
            index, inside = self.load_int(self.pointer(listed), image), self.block
        row = self.phi(image.type)
        row.add_incoming(image, before)
        row.add_incoming(index, inside)
        return self.total(self.given[base], (row, numbers * self.size))

    def taps(self, row: Value) -> tuple[Value, Value]:
        """First and last kernel row that reads inside the map, for a row of the output."""
        shape = self.shape
        far, height, top = shape.dilation[0], shape.rows[0][0], (row, -shape.stride[0])
        lowest = self.sdiv(self.total(integer(shape.padding[0] + far - 1), top), integer(far))
        highest = self.sdiv(self.total(integer(height - 1 + shape.padding[0]), top), integer(far))
        return self.larger(integer(0), lowest), self.smaller(integer(shape.kernel[0] - 1), highest)

    def row_of_x(self, x: Value, row: Value, ky: Value) -> Value:
        """Address in x that the first pixel's first tap reads, for a row of the output and a kernel row."""
        shape, columns = self.shape, self.shape.rows[0][1]
        into = (row, shape.stride[0] * columns), (ky, shape.dilation[0] * columns)
        pixel = self.total(*into, integer(-shape.padding[0] * columns - shape.padding[1]))
        return self.total(x, (pixel, shape.x_channels * self.size))

    def row_of_y(self, row: Value) -> Value:
        """Offset of a row of the output from the first row, in bytes."""
        return self.mul(row, integer(self.shape.rows[1][1] * self.shape.y_channels * self.size))

    def row(
        self, blocks: Blocks, code: Callable[[Pixels], ir.Function], at: tuple[Value, Value], rest: Sequence[Value]
    ) -> None:
        """Call `code` on a row of the output, block by block.

        `at`: the row's address in x and its offset in y, in bytes; `rest`: weights, y, bias, residual, and the further
        arguments of `code`.
        """
        weights, y, bias, residual, *flags = rest
        start = 0
        for pixels, count in blocks:

            def block(index: Value, pixels: Pixels = pixels, start: int = start) -> None:
                column = self.total(integer(start), (index, pixels.count))
                x = self.total(at[0], (column, self.shape.stride[1] * self.shape.x_channels * self.size))
                far = self.total(at[1], (column, self.shape.y_channels * self.size))
                there = self._unless_none(self.add(residual, far))
                self.call(code(pixels), [x, weights, self.add(y, far), bias, there, *flags])

            self.loop(integer(0), integer(count), block)
            start += count * pixels.count
