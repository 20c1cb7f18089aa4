"""Gradients of experts and shares; the gradient of an image's mixed kernel is never written to memory as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from llvmlite import ir

from dyncomp.fast.codegen.build import Arguments, Entry, Program
from dyncomp.fast.codegen.emit import Emitter, Functions, Value, integer, starts
from dyncomp.fast.codegen.gradient_micro import IMAGES, GradientMicro
from dyncomp.fast.codegen.gradient_plan import TOGETHER, Block, GradientArgument, GradientPlan

_LINE = 64
"""bytes of a cache line"""


@dataclass(frozen=True)
class Gradient(Program):
    """A kernel's gradient for each image, reduced at once into the gradients of the shares and of the experts."""

    plan: GradientPlan
    arguments = GradientArgument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Division(module, self.plan).emit()

    def macs(self, given: Arguments) -> int:
        """See `Program.macs`: the gradient of each image's kernel, and its products with shares and with experts."""
        plan = self.plan.plan
        height, width = plan.shape.output_size
        weights = plan.inputs * plan.shape.outputs
        return given[GradientArgument.IMAGES] * weights * (height * width + 2 * plan.experts)


class _Division(Entry):
    """Divides blocks of weights between threads; each reads all images, so that no two write the same weights."""

    def __init__(self, module: ir.Module, plan: GradientPlan) -> None:
        super().__init__(module, plan.plan.number)
        self.plan, self.shape, self.size = plan, plan.plan.shape, plan.plan.number.dtype.itemsize
        self.micro = GradientMicro(module, plan)
        self.functions = Functions(module)
        self.given = [self.argument(index) for index in GradientArgument]
        of_shares, scratch = GradientArgument.OF_SHARES, GradientArgument.SCRATCH
        images = self.mul(self.given[GradientArgument.IMAGES], self.thread)
        of_image = plan.plan.experts * plan.plan.lanes * self.size
        self.given[of_shares] = self.total(self.given[of_shares], (images, of_image))
        self.given[scratch] = self.total(self.given[scratch], (self.thread, plan.scratch * self.size))

    def emit(self) -> None:
        places = self.shape.kernel[0] * self.plan.steps
        counts = [panels * places for _, panels in self.plan.blocks]
        first, end = self.share(integer(sum(counts)))
        for (block, _), before, count in zip(self.plan.blocks, starts(counts), counts, strict=True):
            here = (self.sub(at, integer(before)) for at in (first, end))
            own = self.larger(integer(0), next(here)), self.smaller(next(here), integer(count))
            self.loop(*own, partial(self._call, block))
        self.ret_void()

    def _call(self, block: Block, task: Value) -> None:
        """Call the function of blocks of this size for one task: a panel, a kernel row and a step of the channels."""
        size = block.panel.lanes, block.segment, block.channels
        made = self.functions.once(
            ("block", *size), len(GradientArgument) + 1, lambda own: _Block(own, self.plan, block, self.micro).emit()
        )
        plan, steps, wide = self.plan.plan, self.plan.steps, block.panel.outputs
        place, step = self.sdiv(task, integer(steps)), self.srem(task, integer(steps))
        rows = integer(self.shape.kernel[0])
        panel, row = self.sdiv(place, rows), self.srem(place, rows)
        output = self.total(integer(block.panel.first), (panel, wide))
        channel = output if self.shape.depthwise else self.total(integer(block.first), (step, block.segment.channels))
        part, inputs = self.total((row, steps), step), len(block.segment.taps) * block.segment.channels
        input_ = self.total(integer(block.before + block.first), (part, inputs))
        weight = self.total((output, plan.experts * plan.inputs), (input_, plan.experts * wide))
        given = list(self.given)
        offsets = {
            GradientArgument.X: channel,
            GradientArgument.GRADIENT: output,
            GradientArgument.EXPERTS: weight,
            GradientArgument.OF_EXPERTS: weight,
        }
        for what, offset in offsets.items():
            given[what] = self.total(given[what], (offset, self.size))
        self.call(made, [*given, row])


class _Block(Emitter):
    """f(..., row): gradients of a block at a kernel row; operands start at the block's first channel or weight."""

    def __init__(self, made: ir.Function, plan: GradientPlan, block: Block, micro: GradientMicro) -> None:
        super().__init__(made, plan.plan.number)
        self.plan, self.weights, self.micro = plan, block, micro
        self.shape, self.size = plan.plan.shape, plan.plan.number.dtype.itemsize
        *self.given, self.row = made.args

    def emit(self) -> None:
        """Groups of images: first the kernel gradient of each image, then their reduction into experts and shares."""
        images, taps = self.given[GradientArgument.IMAGES], range(len(self.weights.segment.taps))
        for tap in taps:
            there = self._kernels(GradientArgument.OF_EXPERTS, tap, integer(0))
            self.clear(self.pointer(there), self.weights.channels * self.plan.plan.experts * self.weights.panel.outputs)

        def group(first: Value) -> None:
            end = self.smaller(self.add(first, integer(TOGETHER)), images)
            self.loop(first, end, lambda image: self._image(image, self.sub(image, first)))
            for tap in taps:
                self._take_up(first, end, tap)

        self.loop(integer(0), images, group, TOGETHER)
        self.ret_void()

    def _own(self, index: Value, tap: int, channel: Value | None = None) -> Value:
        """Address of the kernel gradient of image `index` of a group, for a tap, from a channel on."""
        wide = self.weights.panel.outputs
        before = integer(self.plan.copied + tap * self.weights.channels * wide)
        numbers = self.total(before, (index, self.plan.of_image(self.weights)), (channel or integer(0), wide))
        return self.total(self.given[GradientArgument.SCRATCH], (numbers, self.size))

    def _image(self, image: Value, index: Value) -> None:
        """Accumulate the kernel gradient of an image over all output pixels, a few rows of the output at a time."""
        (rows, columns), (out_rows, out_columns) = self.shape.rows
        top = self.total((self.row, self.shape.dilation[0]), integer(-self.shape.padding[0]))
        pixel = self.total((image, rows * columns), (top, columns))
        x = self.total(self.given[GradientArgument.X], (pixel, self.shape.x_channels * self.size))
        map_ = out_rows * out_columns * self.shape.y_channels
        gradient = self.total(self.given[GradientArgument.GRADIENT], (image, map_ * self.size))
        lowest, behind = self._rows(top)
        panel, together = self.weights.panel, self.plan.rows(self.weights.panel)
        copy = self.given[GradientArgument.SCRATCH]

        def some(first: Value) -> None:
            end = self.smaller(self.add(first, integer(together)), integer(out_rows))
            self.call(self.micro.side_by_side(panel), [gradient, copy, first, end])
            before = self.mul(first, integer(-out_columns * panel.outputs * self.size))
            bounds = self.larger(first, lowest), self.smaller(end, behind)
            goes_on = self.zext(self.icmp_signed(">", first, integer(0)), first.type)
            for tap in range(len(self.weights.segment.taps)):
                self._sum((x, gradient, self.add(copy, before)), self._own(index, tap), tap, [*bounds, goes_on])

        self.loop(integer(0), integer(out_rows), some, together)

    def _sum(self, given: tuple[Value, Value, Value], out: Value, tap: int, bounds: list[Value]) -> None:
        """Accumulate over the output pixels for which a tap reads inside the map, tile by tile of the channels."""
        x, gradient, copy = given
        block, tile = self.weights, self.plan.tile(self.weights.panel)
        calls = -(-block.channels // tile)

        def some(index: Value, channels: int) -> None:
            code = self.micro.sums(block.panel, channels, block.segment.taps[tap])
            first = self.mul(index, integer(tile))
            there = self.total(x, (first, self.size)), copy, self.total(out, (first, block.panel.outputs * self.size))
            self.call(code, [*there, *bounds, *self._soon(x, gradient, self.add(index, integer(tap * calls)))])

        whole = block.channels // tile
        self.loop(integer(0), integer(whole), lambda index: some(index, tile))
        if block.channels % tile:
            some(integer(whole), block.channels % tile)

    def _soon(self, x: Value, gradient: Value, call: Value) -> list[Value]:
        """A call's prefetch for the next image, a line per pixel of x or gradient: address, row and pixel stride."""
        (rows, columns), (out_rows, out_columns) = self.shape.rows
        reads, writes = self.shape.x_channels * self.size, self.shape.y_channels * self.size
        right, out_right = self.shape.stride[1] * reads, writes
        down, out_down = self.shape.stride[0] * columns * reads, out_columns * writes
        block = self.weights
        lines = -(-(block.panel.outputs if self.shape.depthwise else block.channels) * self.size // _LINE)
        of_x, last = self.icmp_signed("<", call, integer(lines)), -(-block.panel.outputs * self.size // _LINE) - 1
        line = self.smaller(self.sub(call, integer(lines)), integer(last))
        there = self.total(x, integer(rows * columns * reads), (call, _LINE))
        other = self.total(gradient, integer(out_rows * out_columns * writes), (line, _LINE))
        pairs = (there, other), (integer(down), integer(out_down)), (integer(right), integer(out_right))
        return [self.select(of_x, *pair) for pair in pairs]

    def _rows(self, top: Value) -> tuple[Value, Value]:
        """Range of output rows that read a row of x, end exclusive; the first output row reads row `top` of x."""
        (height, _), (out_height, _) = self.shape.rows
        stride = self.shape.stride[0]
        lowest = self.sdiv(self.sub(integer(stride - 1), top), integer(stride))
        behind = self.sdiv(self.sub(integer(height - 1 + stride), top), integer(stride))
        return self.larger(integer(0), lowest), self.smaller(behind, integer(out_height))

    def _take_up(self, first: Value, end: Value, tap: int) -> None:
        """Reduce the images' kernel gradients of a tap into experts and shares, a few channels at a time."""
        block, together, channels = self.weights, IMAGES, self.plan.channels_close(self.weights.panel)
        numbers = self.plan.plan.experts * self.size  # bytes of an image's shares
        whole = self.total(first, (self.sdiv(self.sub(end, first), integer(together)), together))

        def some(channel: Value) -> None:
            count = self.smaller(integer(channels), self.sub(integer(block.channels), channel))
            kernels = [
                self._kernels(what, tap, channel) for what in (GradientArgument.EXPERTS, GradientArgument.OF_EXPERTS)
            ]

            def images(image: Value, together: int) -> None:
                own = self._own(self.sub(image, first), tap, channel)
                shares = self.total(self.given[GradientArgument.SHARES], (image, numbers))
                of_shares = self.total(self.given[GradientArgument.OF_SHARES], (image, numbers * self.plan.plan.lanes))
                self.call(self.micro.take_up(block, together), [own, *kernels, shares, of_shares, count])

            self.loop(first, whole, lambda image: images(image, together), together)
            self.loop(whole, end, lambda image: images(image, 1))

        self.loop(integer(0), integer(block.channels), some, channels)

    def _kernels(self, what: GradientArgument, tap: int, channel: Value) -> Value:
        """Address of the experts' weights, or of their gradients, for a tap, from a channel on."""
        of_input = self.plan.plan.experts * self.weights.panel.outputs * self.size
        return self.total(
            self.given[what], integer(tap * self.weights.segment.channels * of_input), (channel, of_input)
        )
