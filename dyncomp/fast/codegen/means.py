"""Channel means of features, which gates, switches and classifiers read (global average pooling)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from dyncomp.fast.codegen.build import Entry
from dyncomp.fast.codegen.emit import Number, Value, integer, pieces, starts
from dyncomp.fast.codegen.machine import Machine

_PART = 65_536
"""bytes of features that one task of a thread sums"""

_SUMS = 8
"""independent vector accumulators: an addition takes several cycles, and many can be in flight"""


@dataclass(frozen=True)
class MeansPlan:
    """The mean of each channel over `pixels` pixels."""

    channels: int
    pixels: int
    number: Number
    machine: Machine

    @property
    def lanes(self) -> int:
        """Lanes of a vector register."""
        return self.machine.vector_bytes // self.number.dtype.itemsize

    @property
    def parts(self) -> int:
        """Parts in which an image's pixels are summed; independent of the threads, so that rounding never changes."""
        return max(1, min(16, self.pixels * self.channels * self.number.dtype.itemsize // _PART))

    @property
    def scratch(self) -> int:
        """Elements of scratch memory that each image needs."""
        return self.parts * self.channels


class Means(Entry):
    """Code that begins by summing each channel of x (images, pixels, channels)."""

    def __init__(self, module: ir.Module, plan: MeansPlan, x: int, images: int, sums: int) -> None:
        super().__init__(module, plan.number)
        self.means, self.x, self.sums = plan, *(self.pointer(self.argument(index)) for index in (x, sums))
        self.images = self.argument(images)

    def sum_up(self, magnitudes: bool = False) -> None:
        """Write partial sums (images, parts, channels), of absolute values with `magnitudes`; a barrier follows."""
        parts = integer(self.means.parts)
        self.loop(*self.share(self.mul(self.images, parts)), lambda task: self._sum(task, magnitudes))
        self.barrier()

    def mean_to(self, image: Value, out: Value) -> None:
        """Reduce an image's partial sums to means, (channels,); `out` may be the address of the partial sums."""
        plan = self.means
        sums, share = self.sums_of(image), ir.Constant(self.number.type, 1 / plan.pixels)
        widths = pieces(plan.channels, plan.lanes)
        for lanes, offset in zip(widths, starts(widths), strict=True):
            total = self.vector(self.at(sums, integer(offset)), lanes)
            for part in range(1, plan.parts):
                total = self.fadd(total, self.vector(self.at(sums, integer(part * plan.channels + offset)), lanes))
            self.write(self.fmul(total, self.broadcast(share, lanes)), self.at(out, integer(offset)))

    def sums_of(self, image: Value) -> Value:
        """Address of an image's partial sums."""
        return self.at(self.sums, (image, self.means.scratch))

    def _sum(self, task: Value, magnitudes: bool) -> None:
        plan, parts = self.means, integer(self.means.parts)
        image, part = self.sdiv(task, parts), self.srem(task, parts)
        first = self.sdiv(self.mul(part, integer(plan.pixels)), parts)
        end = self.sdiv(self.mul(self.add(part, integer(1)), integer(plan.pixels)), parts)
        widths = pieces(plan.channels, plan.lanes)
        x = self.at(self.x, (image, plan.pixels * plan.channels))
        out = self.at(self.sums, (task, plan.channels))
        for index in range(0, len(widths), _SUMS):
            some = widths[index : index + _SUMS]
            offset = integer(sum(widths[:index]))
            self._sum_some(self.at(x, offset), self.at(out, offset), some, (first, end), magnitudes)

    def _sum_some(
        self, x: Value, out: Value, widths: Sequence[int], bounds: tuple[Value, Value], magnitudes: bool
    ) -> None:
        together = max(1, _SUMS // len(widths))
        sums = [[self.sum_from_zero(lanes) for lanes in widths] for _ in range(together)]
        first, end = bounds
        whole = self.total(first, (self.sdiv(self.sub(end, first), integer(together)), together))

        def add(pixel: Value, count: int) -> None:
            for i in range(count):
                for total, lanes, offset in zip(sums[i], widths, starts(widths), strict=True):
                    there = self.at(x, (pixel, self.means.channels), integer(i * self.means.channels + offset))
                    vector = self.vector(there, lanes)
                    vector = self.absolute(vector) if magnitudes else vector
                    self.store(self.fadd(self.load(total, typ=vector.type), vector), total)

        self.loop(first, whole, lambda pixel: add(pixel, together), together)
        self.loop(whole, end, lambda pixel: add(pixel, 1))
        for v, (lanes, offset) in enumerate(zip(widths, starts(widths), strict=True)):
            parts = [self.load(side[v], typ=self.number.vector(lanes)) for side in sums]
            total = parts[0]
            for part in parts[1:]:
                total = self.fadd(total, part)
            self.write(total, self.at(out, integer(offset)))
