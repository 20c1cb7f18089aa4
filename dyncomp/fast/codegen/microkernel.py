"""Microkernels: a block of pixels of a row by a panel of outputs, and the mixing of a panel's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from llvmlite import ir

from dyncomp.fast.codegen.cut import Cut
from dyncomp.fast.codegen.emit import Emitter, Functions, Value, integer, starts
from dyncomp.fast.codegen.plan import Panel, Plan, Segment


@dataclass(frozen=True)
class Pixels:
    """Adjacent pixels of an output row; `seen[tap][pixel]`: whether a tap of a segment reads inside the map."""

    count: int
    seen: tuple[tuple[bool, ...], ...]


Blocks = Sequence[tuple[Pixels, int]]
"""the blocks of a row in order, each with the number of equal blocks in succession"""


def blocks(plan: Plan, panel: Panel, taps: Sequence[int]) -> Blocks:
    """Blocks of nearly equal width, at most `panel.pixels`, that cover a row of the output."""
    width = plan.shape.rows[1][1]
    count = -(-width // panel.pixels)
    row, start = list[Pixels](), 0
    for index in range(count):
        wide = width // count + (index < width % count)
        columns = range(start, start + wide)
        row.append(Pixels(wide, tuple(tuple(plan.shape.reads_inside(c, tap, axis=1) for c in columns) for tap in taps)))
        start += wide
    return [(pixels, len(list(alike))) for pixels, alike in groupby(row)]


class Micro(Functions):
    """The microkernels of a plan: they multiply, cut and mix."""

    def __init__(self, module: ir.Module, plan: Plan) -> None:
        super().__init__(module)
        self.plan = plan

    def multiply(self, panel: Panel, segment: Segment, pixels: Pixels) -> ir.Function:
        """f(x, weights, y, bias, residual, first, last, ...): accumulate a segment of inputs into `pixels` of y.

        `first`: y starts at the bias plus the residual (0: none). `last`: apply ReLU. A plan that picks has two more
        arguments: the number of channels, and the address of their indices, which is read if only inputs are picked.
        """
        key, parameters = ("multiply", panel.lanes, segment, pixels), 9 if self.plan.picks else 7
        return self.once(
            key, parameters, lambda made: _Multiply(made, self.plan, panel, pixels.count).emit(segment, pixels)
        )

    def cut(self, panel: Panel, segment: Segment) -> ir.Function:
        """f(source, out, outputs, kept, inputs, count): gather the weights of outputs and inputs that an image uses.

        `outputs` and `inputs` list `kept` and `count` indices; `inputs` is not read where all inputs are used. `out`
        receives, for each tap of the segment and each input, the panel's outputs, with 0 after the `kept` ones.
        """
        return self.once(("cut", panel.lanes, segment), 6, lambda made: Cut(made, self.plan, panel).emit(segment))

    def slide(self, panel: Panel, pixels: Pixels) -> ir.Function:
        """f(x, weights, y, bias, residual, lowest, behind, relu): `pixels` of y of a depthwise convolution.

        `lowest` and `behind` (exclusive) bound the kernel rows that read inside the map; x is the address that kernel
        row `lowest` reads, `weights` the address of the weights of kernel row 0.
        """
        key = ("slide", panel.lanes, pixels)
        return self.once(key, 8, lambda made: _Slide(made, self.plan, panel, pixels.count).emit(pixels))

    def mix(self, panel: Panel, images: int) -> ir.Function:
        """f(experts, shares, out, inputs): mix the weights of `images` images, each `plan.largest_segment` inputs."""
        return self.once(("mix", panel.lanes, images), 4, lambda made: _Mix(made, self.plan, panel, images).emit())


class _Sums(Emitter):
    """The accumulators of a microkernel: one per pixel and vector of the panel; LLVM promotes them to registers."""

    def __init__(self, made: ir.Function, plan: Plan, panel: Panel, count: int) -> None:
        super().__init__(made, plan.number)
        self.plan, self.shape, self.panel, self.offsets = plan, plan.shape, panel, starts(panel.lanes)
        self.x, self.weights, self.y, self.bias = (self.pointer(address) for address in made.args[:4])
        self.residual = made.args[4]
        vectors = [self.number.vector(lanes) for lanes in panel.lanes]
        self.sums = [[self.stack_slot(vector) for vector in vectors] for _ in range(count)]

    def begin(self) -> None:
        """Initialise accumulators with the bias, plus the residual unless its address is 0."""
        for vector, (lanes, offset) in enumerate(zip(self.panel.lanes, self.offsets, strict=True)):
            bias = self.vector(self.at(self.bias, integer(offset)), lanes)
            for sums in self.sums:
                self.store(bias, sums[vector])
        with self.if_then(self.icmp_signed("!=", self.residual, integer(0))):
            self.each(self._add_residual)

    def end(self, relu: Value) -> None:
        """Write y, after ReLU unless `relu` is 0."""
        with self.if_then(self.icmp_signed("!=", relu, integer(0))):
            self.each(lambda total, index, lanes: self.store(self.relu(self.read(total, lanes)), total))
        self.each(lambda total, index, lanes: self.write(self.read(total, lanes), self.at(self.y, integer(index))))
        self.ret_void()

    def each(self, act: Callable[[Value, int, int], None]) -> None:
        """Call `act(accumulator, index in y, lanes)` for every accumulator."""
        for pixel, sums in enumerate(self.sums):
            for total, lanes, offset in zip(sums, self.panel.lanes, self.offsets, strict=True):
                act(total, pixel * self.shape.y_channels + offset, lanes)

    def read(self, total: Value, lanes: int) -> Value:
        """The present value of an accumulator."""
        return self.load(total, typ=self.number.vector(lanes))

    def weights_at(self, *input_: Value | tuple[Value, int]) -> list[Value]:
        """The panel's weight vectors of an input."""
        there = self.at(self.weights, *input_)
        places = zip(self.panel.lanes, self.offsets, strict=True)
        return [self.vector(self.at(there, integer(offset)), lanes) for lanes, offset in places]

    def column(self, pixel: int, kx: int) -> int:
        """Offset in x, in elements, that a tap reads for a pixel."""
        return (pixel * self.shape.stride[1] + kx * self.shape.dilation[1]) * self.shape.x_channels

    def _add_residual(self, total: Value, index: int, lanes: int) -> None:
        there = self.vector(self.at(self.pointer(self.residual), integer(index)), lanes)
        self.store(self.fadd(self.read(total, lanes), there), total)


class _Multiply(_Sums):
    def emit(self, segment: Segment, pixels: Pixels) -> None:
        first, last = self.made.args[5:7]
        with self.if_else(self.icmp_signed("!=", first, integer(0))) as (begin, go_on):
            with begin:
                self.begin()
            with go_on:
                self.each(lambda total, i, lanes: self.store(self.vector(self.at(self.y, integer(i)), lanes), total))
        for tap, (kx, seen) in enumerate(zip(segment.taps, pixels.seen, strict=True)):
            if any(seen):
                self._tap(
                    tap * (self.plan.channels_per_call if self.plan.picks_outputs else segment.channels), kx, seen
                )
        self.end(last)

    def _tap(self, input_: int, kx: int, seen: Sequence[bool]) -> None:
        wide = self.plan.step(self.panel)
        listed = self.plan.picks_inputs and not self.plan.picks_outputs

        def channel(c: Value) -> None:
            row = self.load_int(self.pointer(self.made.args[8]), c) if listed else c  # index among the tap's inputs
            weights, pixel = self.weights_at((row, wide), integer(input_ * wide)), self.at(self.x, c)
            for m, sums in enumerate(self.sums):
                if seen[m]:
                    value = self.load_element(self.at(pixel, integer(self.column(m, kx))))
                    for weight, total, lanes in zip(weights, sums, self.panel.lanes, strict=True):
                        self.store(
                            self.multiply_add(self.broadcast(value, lanes), weight, self.read(total, lanes)), total
                        )

        count = self.made.args[7] if self.plan.picks else integer(self.plan.channels_per_call)
        self.loop(integer(0), count, channel)


class _Slide(_Sums):
    def emit(self, pixels: Pixels) -> None:
        *_, lowest, behind, relu = self.made.args
        self.begin()
        width, line = self.shape.kernel[1], self.shape.rows[0][1] * self.shape.dilation[0] * self.shape.x_channels

        def kernel_row(ky: Value) -> None:
            row = self.at(self.x, (self.sub(ky, lowest), line))
            for kx, seen in enumerate(pixels.seen):
                index = self.total((ky, width), integer(kx))
                self._tap(row, kx, self.weights_at((index, self.panel.outputs)), seen)

        self.loop(lowest, behind, kernel_row)
        self.end(relu)

    def _tap(self, row: Value, kx: int, weights: Sequence[Value], seen: Sequence[bool]) -> None:
        for m, sums in enumerate(self.sums):
            if seen[m]:
                for weight, total, lanes, offset in zip(weights, sums, self.panel.lanes, self.offsets, strict=True):
                    there = self.vector(self.at(row, integer(self.column(m, kx) + offset)), lanes)
                    self.store(self.multiply_add(there, weight, self.read(total, lanes)), total)


class _Mix(Emitter):
    def __init__(self, made: ir.Function, plan: Plan, panel: Panel, images: int) -> None:
        super().__init__(made, plan.number)
        self.plan, self.panel = plan, panel
        self.experts, shares, self.out = (self.pointer(address) for address in made.args[:3])
        counts = range(plan.experts)
        at = [[self.at(shares, integer(i * plan.experts + k)) for k in counts] for i in range(images)]
        self.shares = [[self.load_element(place) for place in image] for image in at]

    def emit(self) -> None:
        count, wide = self.plan.experts, self.panel.outputs
        of_image = self.plan.largest_segment * wide

        def input_(index: Value) -> None:
            for lanes, offset in zip(self.panel.lanes, starts(self.panel.lanes), strict=True):
                source = self.at(self.experts, (index, count * wide), integer(count * offset))
                experts = [self.vector(self.at(source, integer(k * lanes)), lanes) for k in range(count)]
                for i, share in enumerate(self.shares):
                    total = self.fmul(experts[0], self.broadcast(share[0], lanes))
                    for expert, number in zip(experts[1:], share[1:], strict=True):
                        total = self.multiply_add(expert, self.broadcast(number, lanes), total)
                    self.write(total, self.at(self.out, (index, wide), integer(i * of_image + offset)))

        self.loop(integer(0), self.made.args[3], input_)
        self.ret_void()
