"""A whole convolution of a batch: each image by one kernel for all, or by a kernel mixed for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from llvmlite import ir

from dyncomp.core.native.build import Code, Entry, compiled, new_module
from dyncomp.core.native.emit import Value, function, integer
from dyncomp.core.native.micro import Micro
from dyncomp.core.native.piece import PARAMETERS, Argument, Piece, Range
from dyncomp.core.native.plan import Plan, Segment


@cache
def code_for(plan: Plan) -> Code:
    """The code of a convolution; see `Argument`."""
    module = new_module()
    micro = Micro(module, plan)
    kind = _Depthwise if plan.shape.depthwise else _Dense
    pieces: dict[tuple[int, ...], ir.Function] = {}
    for panel in plan.panels:
        if panel.lanes not in pieces:
            pieces[panel.lanes] = made = function(module, f"piece{len(pieces)}", PARAMETERS)
            kind(made, plan, panel, micro).emit()
    _Division(module, plan, pieces).emit()
    return compiled(module)


def scratch_numbers(plan: Plan, threads: int) -> int:
    """How many numbers of scratch memory the code needs."""
    return threads * _own_scratch(plan)


def _own_scratch(plan: Plan) -> int:
    widest = max(panel.outputs for panel in plan.panels)
    return plan.mixed_at_once * plan.largest * widest if plan.experts else 0


class _Division(Entry):
    """Divides the work between threads: panels, images and, of a single image, bands of rows."""

    def __init__(self, module: ir.Module, plan: Plan, pieces: dict[tuple[int, ...], ir.Function]) -> None:
        super().__init__(module, plan.number)
        self.plan, self.pieces = plan, pieces
        self.given = [self.argument(index) for index in Argument]
        own = _own_scratch(plan) * plan.number.dtype.itemsize
        self.given[Argument.SCRATCH] = self.total(self.given[Argument.SCRATCH], (self.thread, own))

    def emit(self) -> None:
        images = self.given[Argument.IMAGES]
        with self.if_then(self.icmp_signed("==", images, integer(1))):
            self._panels(integer(self.plan.bands), self._bands)
        with self.if_then(self.icmp_signed(">", images, integer(1))):
            if self.plan.images_first and (self.plan.shape.depthwise or not self.plan.experts):
                self._images()
            else:
                self._panels(images, self._some_images)
        self.ret_void()

    def _images(self) -> None:
        """Image by image, all panels of each."""
        count = integer(len(self.plan.panels))
        first, end = self.share(self.mul(self.given[Argument.IMAGES], count))

        def task(index: Value) -> None:
            image = self.sdiv(index, count)
            self._some_images(self.srem(index, count), image, self.add(image, integer(1)))

        self.loop(first, end, task)

    def _panels(self, parts: Value, act: Callable[[Value, Value, Value], None]) -> None:
        """Panel by panel, of each the parts that are this thread's."""
        first, end = self.share(self.mul(parts, integer(len(self.plan.panels))))
        behind = self.sdiv(self.sub(self.add(end, parts), integer(1)), parts)

        def one(panel: Value) -> None:
            before = self.mul(panel, parts)
            act(panel, self.larger(integer(0), self.sub(first, before)), self.smaller(parts, self.sub(end, before)))

        self.loop(self.sdiv(first, parts), behind, one)

    def _some_images(self, panel: Value, first: Value, end: Value) -> None:
        self._call(panel, [first, end, integer(0), integer(self.plan.shape.rows[1][0])])

    def _bands(self, panel: Value, first: Value, end: Value) -> None:
        rows, bands = integer(self.plan.shape.rows[1][0]), integer(self.plan.bands)
        bounds = (self.sdiv(self.mul(rows, band), bands) for band in (first, end))
        self._call(panel, [integer(0), integer(1), *bounds])

    def _call(self, index: Value, bounds: list[Value]) -> None:
        """The piece of that panel; those that are alike lie next to one another."""
        size, panels = self.plan.number.dtype.itemsize, self.plan.panels
        for lanes, piece in self.pieces.items():
            alike = [i for i, panel in enumerate(panels) if panel.lanes == lanes]
            first = panels[alike[0]]
            among = self.icmp_signed(">=", index, integer(alike[0])), self.icmp_signed("<=", index, integer(alike[-1]))
            with self.if_then(self.and_(*among)):
                output = self.total(integer(first.first), (self.sub(index, integer(alike[0])), first.outputs))
                given, offset = list(self.given), self.mul(output, integer(size))
                weights = max(1, self.plan.experts) * self.plan.inputs * size
                given[Argument.WEIGHTS] = self.total(given[Argument.WEIGHTS], (output, weights))
                for what in (Argument.Y, Argument.BIAS, *self._also()):
                    given[what] = self.add(given[what], offset)
                self.call(piece, [*given, *bounds, offset])

    def _also(self) -> list[Argument]:
        """What a piece reads a panel's part of, besides."""
        return [Argument.X] if self.plan.shape.depthwise else []


class _Dense(Piece):
    """With one group: inputs are used segment by segment."""

    def emit(self) -> None:
        """Images outside and segments inside, or the other way round."""
        together = self.plan.mixed_at_once if self.plan.experts else 1
        if self.plan.images_first:
            self.images(together, lambda image, count: self._segments(lambda *at: self._part(image, count, *at)))
        else:
            self._segments(lambda *at: self.images(together, lambda image, count: self._part(image, count, *at)))
        self.ret_void()

    def _segments(self, act: Callable[[Segment, Value, Value, Value], None]) -> None:
        """Act on every segment: what it is, its row of the kernel, its first channel, its first weight."""
        done, steps = 0, self.shape.channels // self.plan.channels
        for segment in self.plan.segments:
            inputs = len(segment.taps) * segment.channels

            def part(index: Value, segment: Segment = segment, inputs: int = inputs, done: int = done) -> None:
                channel = self.mul(self.srem(index, integer(steps)), integer(segment.channels))
                act(segment, self.sdiv(index, integer(steps)), channel, self.total(integer(done), (index, inputs)))

            self.loop(integer(0), integer(self.shape.kernel[0] * steps), part)
            done += self.shape.kernel[0] * steps * inputs

    def _part(self, image: Value, count: int, segment: Segment, ky: Value, channel: Value, index: Value) -> None:
        """A segment for so many images from `image` on."""
        plan, wide = self.plan, self.panel.outputs
        weights = self.total(self.given[Argument.WEIGHTS], (index, max(1, plan.experts) * wide * self.size))
        mixed = self.mixed(image, count, weights, len(segment.taps) * segment.channels)
        for i in range(count):
            own = self.add(mixed, integer(i * plan.largest * wide * self.size))
            self._image(self.add(image, integer(i)), own, segment, ky, channel)

    def _image(self, image: Value, weights: Value, segment: Segment, ky: Value, channel: Value) -> None:
        x, y, bias, residual = self.places(image)
        x, rest = self.total(x, (channel, self.size)), (weights, y, bias, residual)
        final, segments = self.shape.channels - segment.channels, self.plan.segments
        at_start = self.and_(self.icmp_signed("==", channel, integer(0)), _bit(segment is segments[0]))
        at_end = self.and_(self.icmp_signed("==", channel, integer(final)), _bit(segment is segments[-1]))

        def row(r: Value) -> None:
            lowest, highest = self.taps(r)
            seen = self.and_(self.icmp_signed(">=", ky, lowest), self.icmp_signed("<=", ky, highest))
            with self.if_then(seen):
                first = self.zext(self.and_(at_start, self.icmp_signed("==", ky, lowest)), r.type)
                last = self.zext(self.and_(at_end, self.icmp_signed("==", ky, highest)), r.type)
                flags = first, self.and_(last, self.given[Argument.RELU])
                at = self.row_of_x(x, r, ky), self.row_of_y(r)
                self.row(segment.taps, partial(self.micro.multiply, self.panel, segment), at, [*rest, *flags])

        self.loop(self.given[Range.ROW], self.given[Range.END_ROW], row)


class _Depthwise(Piece):
    """Each channel by itself: all inputs of a few pixels at once."""

    def emit(self) -> None:
        """Image by image."""
        self.images(1, self._image)
        self.ret_void()

    def _image(self, image: Value, count: int) -> None:
        x, y, bias, residual = self.places(image)
        weights = self.mixed(image, count, self.given[Argument.WEIGHTS], self.plan.inputs)

        def row(r: Value) -> None:
            lowest, highest = self.taps(r)
            bounds = lowest, self.add(highest, integer(1)), self.given[Argument.RELU]
            at, taps = (self.row_of_x(x, r, lowest), self.row_of_y(r)), range(self.shape.kernel[1])
            self.row(taps, partial(self.micro.slide, self.panel), at, [weights, y, bias, residual, *bounds])

        self.loop(self.given[Range.ROW], self.given[Range.END_ROW], row)


def _bit(value: bool) -> Value:
    return ir.Constant(ir.IntType(1), int(value))
