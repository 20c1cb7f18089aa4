"""A panel of outputs of some images, of a dense or a depthwise convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from llvmlite import ir

from dyncomp.fast.codegen.emit import Value, integer
from dyncomp.fast.codegen.microkernel import blocks
from dyncomp.fast.codegen.piece import Argument, Piece, Range
from dyncomp.fast.codegen.plan import Panel, Segment


@dataclass(frozen=True)
class Part:
    """Inputs that one microkernel call reduces: the inputs of a segment at a kernel row, from a channel on.

    `index` counts the inputs packed before the part, or, where images pick, before the segment's kernel row.
    """

    segment: Segment
    row: Value
    channel: Value
    index: Value


class Dense(Piece):
    """A convolution with one group, which reduces its inputs segment by segment."""

    def emit(self) -> None:
        """Loop over images outside and segments inside, or the other way round; see `Plan.images_outside_segments`."""
        together = self.plan.images_per_mix
        if self.plan.images_outside_segments:
            self.images(together, lambda image, count: self._parts(lambda part: self.part(image, count, part)))
        else:
            self._parts(lambda part: self.images(together, lambda image, count: self.part(image, count, part)))
        self.ret_void()

    def _parts(self, act: Callable[[Part], None]) -> None:
        """Call `act` for every part of the kernel."""
        done, steps = 0, -(-self.shape.channels // self.plan.channels_per_call)
        for segment in self.plan.segments:
            inputs = len(segment.taps) * segment.channels

            def part(index: Value, segment: Segment = segment, inputs: int = inputs, done: int = done) -> None:
                row, step = self.sdiv(index, integer(steps)), self.srem(index, integer(steps))
                before = (row, inputs) if self.plan.picks else (index, inputs)
                channel = self.mul(step, integer(self.plan.channels_per_call))
                act(Part(segment, row, channel, self.total(integer(done), before)))

            self.loop(integer(0), integer(self.shape.kernel[0] * steps), part)
            done += self.shape.kernel[0] * inputs * (1 if self.plan.picks else steps)

    def part(self, image: Value, count: int, part: Part) -> None:
        """Multiply a part for `count` images, from `image` on."""
        plan, wide = self.plan, self.panel.outputs
        weights = self.total(self.given[Argument.WEIGHTS], (part.index, max(1, plan.experts) * wide * self.size))
        mixed = self.mixed(image, count, weights, len(part.segment.taps) * part.segment.channels)
        for i in range(count):
            own = self.add(mixed, integer(i * plan.largest_segment * wide * self.size))
            self.multiply(self.panel, self.add(image, integer(i)), own, part, integer(self.shape.channels))

    def multiply(
        self, panel: Panel, image: Value, weights: Value, part: Part, channels: Value, also: Sequence[Value] = ()
    ) -> None:
        """Multiply a part for one image of `channels` channels; `also`: further arguments of the microkernel."""
        x, *rest = self.places(image)
        x = self.total(x, (part.channel, self.size))
        segment, segments = part.segment, self.plan.segments
        behind = self.total(part.channel, integer(self.plan.channels_per_call))
        at_start = self.and_(self.icmp_signed("==", part.channel, integer(0)), _bit(segment is segments[0]))
        at_end = self.and_(self.icmp_signed(">=", behind, channels), _bit(segment is segments[-1]))

        def row(r: Value) -> None:
            lowest, highest = self.taps(r)
            seen = self.and_(self.icmp_signed(">=", part.row, lowest), self.icmp_signed("<=", part.row, highest))
            with self.if_then(seen):
                first = self.zext(self.and_(at_start, self.icmp_signed("==", part.row, lowest)), r.type)
                last = self.zext(self.and_(at_end, self.icmp_signed("==", part.row, highest)), r.type)
                flags = first, self.and_(last, self.given[Argument.RELU])
                at, code = (
                    (self.row_of_x(x, r, part.row), self.row_of_y(r)),
                    partial(self.micro.multiply, panel, segment),
                )
                self.row(blocks(self.plan, panel, segment.taps), code, at, [weights, *rest, *flags, *also])

        self.loop(self.given[Range.ROW], self.given[Range.END_ROW], row)


class Depthwise(Piece):
    """A depthwise convolution: each channel by itself, all taps of a block of pixels at once."""

    def emit(self) -> None:
        """Loop over images."""
        self.images(1, self._image)
        self.ret_void()

    def _image(self, image: Value, count: int) -> None:
        x, y, bias, residual = self.places(image)
        weights = self.mixed(image, count, self.given[Argument.WEIGHTS], self.plan.inputs)
        in_row = blocks(self.plan, self.panel, range(self.shape.kernel[1]))

        def row(r: Value) -> None:
            lowest, highest = self.taps(r)
            bounds = lowest, self.add(highest, integer(1)), self.given[Argument.RELU]
            at = self.row_of_x(x, r, lowest), self.row_of_y(r)
            self.row(in_row, partial(self.micro.slide, self.panel), at, [weights, y, bias, residual, *bounds])

        self.loop(self.given[Range.ROW], self.given[Range.END_ROW], row)


def _bit(value: bool) -> Value:
    return ir.Constant(ir.IntType(1), int(value))
