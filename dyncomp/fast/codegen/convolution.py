"""The convolution of a batch, by one kernel for all images or by kernels mixed or cut for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from llvmlite import ir

from dyncomp.fast.codegen.build import Arguments, Entry, Program, integers
from dyncomp.fast.codegen.compacted import Compaction
from dyncomp.fast.codegen.dense import Dense, Depthwise
from dyncomp.fast.codegen.emit import INT, Value, function, integer
from dyncomp.fast.codegen.microkernel import Micro
from dyncomp.fast.codegen.piece import PARAMETERS, Argument
from dyncomp.fast.codegen.plan import Plan


@dataclass(frozen=True)
class Convolution(Program):
    """The convolution of a plan."""

    plan: Plan
    arguments = Argument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        plan, micro = self.plan, Micro(module, self.plan)
        kind = Depthwise if plan.shape.depthwise else Compaction if plan.picks else Dense
        pieces: dict[tuple[int, ...], ir.Function] = {}
        for panel, _ in plan.equal_panels:
            pieces[panel.lanes] = made = function(module, f"piece{len(pieces)}", PARAMETERS)
            kind(made, plan, panel, micro).emit()
        _Division(module, plan, pieces).emit()

    def macs(self, given: Arguments) -> int:
        """See `Program.macs`: of the inputs that images have and the outputs that they use."""
        plan, shape, images = self.plan, self.plan.shape, given[Argument.IMAGES]
        pixels = shape.output_size[0] * shape.output_size[1]
        if not plan.picks:
            return images * plan.inputs * shape.outputs * pixels
        inputs: Sequence[int] = [shape.channels] * images
        outputs: Sequence[int] = [shape.outputs] * images
        if plan.picks_inputs:
            inputs = integers(given[Argument.INPUT_COUNTS], images)
        if plan.picks_outputs:
            outputs = integers(given[Argument.OUTPUT_COUNTS], images)
        pairs = sum(some * others for some, others in zip(inputs, outputs, strict=True))
        return shape.kernel[0] * shape.kernel[1] * pixels * pairs

    def mixing_macs(self, given: Arguments) -> int:
        """See `Program.mixing_macs`."""
        return given[Argument.IMAGES] * self.plan.inputs * self.plan.shape.outputs * self.plan.experts


class _Division(Entry):
    """Divides the work between threads by panels and images; that of a single image by panels and rows."""

    def __init__(self, module: ir.Module, plan: Plan, pieces: dict[tuple[int, ...], ir.Function]) -> None:
        super().__init__(module, plan.number)
        self.plan, self.pieces = plan, pieces
        self.given = [self.argument(index) for index in Argument]
        own = plan.scratch * plan.number.dtype.itemsize
        self.given[Argument.SCRATCH] = self.total(self.given[Argument.SCRATCH], (self.thread, own))
        self.panels = self._wanted_panels() if plan.picks_outputs else integer(len(plan.panels))

    def emit(self) -> None:
        images = self.given[Argument.IMAGES]
        with self.if_then(self.icmp_signed("==", images, integer(1))):
            self._image()
        with self.if_then(self.icmp_signed(">", images, integer(1))):
            if self.plan.images_outside_panels:
                self._images()
            else:
                self._panels()
        if self.plan.picks_outputs:
            self._nothing_behind()
        self.ret_void()

    def _wanted_panels(self) -> Value:
        """Number of panels that cover the most outputs used by any image."""
        most, wide = self.stack_slot(INT), self.plan.panels[0].outputs
        self.store(integer(0), most)
        counts = self.pointer(self.given[Argument.OUTPUT_COUNTS])
        images = self.given[Argument.IMAGES]
        self.loop(
            integer(0),
            images,
            lambda i: self.store(self.larger(self.load(most, typ=INT), self.load_int(counts, i)), most),
        )
        return self.sdiv(self.add(self.load(most, typ=INT), integer(wide - 1)), integer(wide))

    def _nothing_behind(self) -> None:
        """Write 0 to each image's unused outputs, except those in the same vector as its last used output."""
        counts, outputs = self.pointer(self.given[Argument.OUTPUT_COUNTS]), self.plan.shape.outputs
        y, pixels = (
            self.pointer(self.given[Argument.Y]),
            self.plan.shape.output_size[0] * self.plan.shape.output_size[1],
        )
        nothing = ir.Constant(self.number.type, 0.0)

        def image(index: Value) -> None:
            first = self._computed(self.load_int(counts, index))

            def pixel(p: Value) -> None:
                there = self.at(y, (index, pixels * outputs), (p, outputs))
                self.loop(first, integer(outputs), lambda o: self.write(nothing, self.at(there, o)))

            with self.if_then(self.icmp_signed("<", first, integer(outputs))):
                self.loop(integer(0), integer(pixels), pixel)

        self.loop(*self.share(self.given[Argument.IMAGES]), image)

    def _computed(self, wanted: Value) -> Value:
        """Number of outputs computed for an image that uses `wanted` outputs: rounded up to whole vectors."""
        ends = list(accumulate(lanes for panel in self.plan.panels for lanes in panel.lanes))
        computed = integer(ends[-1])
        for end in reversed(ends[:-1]):
            computed = self.select(self.icmp_signed("<=", wanted, integer(end)), integer(end), computed)
        return self.select(self.icmp_signed("<=", wanted, integer(0)), integer(0), computed)

    def _images(self) -> None:
        """Images outside, panels inside: this thread's range of (image, panel) pairs."""
        first, end = self.share(self.mul(self.given[Argument.IMAGES], self.panels))

        def task(index: Value) -> None:
            image = self.sdiv(index, self.panels)
            self._some_images(self.srem(index, self.panels), image, self.add(image, integer(1)))

        self.loop(first, end, task)

    def _panels(self) -> None:
        """Panels outside, images inside: this thread's range of (panel, image) pairs."""
        images = self.given[Argument.IMAGES]
        first, end = self.share(self.mul(images, self.panels))
        behind = self.sdiv(self.sub(self.add(end, images), integer(1)), images)

        def one(panel: Value) -> None:
            before = self.mul(panel, images)
            own = self.larger(integer(0), self.sub(first, before)), self.smaller(images, self.sub(end, before))
            self._some_images(panel, *own)

        self.loop(self.sdiv(first, images), behind, one)

    def _some_images(self, panel: Value, first: Value, end: Value) -> None:
        self._call(panel, [first, end, integer(0), integer(self.plan.shape.rows[1][0])])

    def _image(self) -> None:
        """A single image: divide the rows of all panels so that threads compute nearly equal numbers of vectors."""
        rows, together = self.plan.shape.rows[1][0], len(self.plan.panels[0].lanes)
        all_ = self.mul(self._vectors(), integer(rows))
        first, end = self.share(all_)

        def one(panel: Value) -> None:
            before = self.mul(panel, integer(together * rows))
            size = self.smaller(integer(together * rows), self.sub(all_, before))
            own = (self.smaller(size, self.larger(integer(0), self.sub(at, before))) for at in (first, end))
            lowest, behind = (self.sdiv(self.mul(at, integer(rows)), size) for at in own)
            with self.if_then(self.icmp_signed("<", lowest, behind)):
                self._call(panel, [integer(0), integer(1), lowest, behind])

        self.loop(integer(0), self.panels, one)

    def _vectors(self) -> Value:
        """Number of vectors computed for each pixel of a single image."""
        widths = [lanes for panel in self.plan.panels for lanes in panel.lanes]
        if not self.plan.picks_outputs:
            return integer(len(widths))
        wanted, whole = self.load_int(self.pointer(self.given[Argument.OUTPUT_COUNTS]), integer(0)), self.plan.lanes
        some = self.sdiv(self.add(wanted, integer(whole - 1)), integer(whole))
        among = self.icmp_signed("<=", wanted, integer(widths.count(whole) * whole))
        return self.select(among, some, integer(len(widths)))

    def _call(self, index: Value, bounds: list[Value]) -> None:
        """Call the piece of panel `index`; adjacent panels that differ only in position share a piece."""
        size, before = self.plan.number.dtype.itemsize, 0
        for first, count in self.plan.equal_panels:
            behind = before + count
            among = self.icmp_signed(">=", index, integer(before)), self.icmp_signed("<", index, integer(behind))
            with self.if_then(self.and_(*among)):
                output = self.total(integer(first.first), (self.sub(index, integer(before)), first.outputs))
                given, offset = list(self.given), self.mul(output, integer(size))
                if not self.plan.picks_outputs:
                    weights = max(1, self.plan.experts) * self.plan.inputs * size
                    given[Argument.WEIGHTS] = self.total(given[Argument.WEIGHTS], (output, weights))
                for what in (Argument.Y, Argument.BIAS, *([Argument.X] if self.plan.shape.depthwise else [])):
                    given[what] = self.add(given[what], offset)
                self.call(self.pieces[first.lanes], [*given, *bounds, offset])
            before = behind
