"""Epilogue of a convolution whose filters are weighted for each image: outputs are scaled, shifted and activated."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from llvmlite import ir

from dyncomp.fast.codegen.build import Entry, Program
from dyncomp.fast.codegen.emit import Number, Value, integer, pieces, starts
from dyncomp.fast.codegen.machine import Machine


class EpilogueArgument(IntEnum):
    """Arguments of the code, in order: addresses, and a count."""

    Y = 0
    IMAGES = 1
    SCALES = 2
    """(images, outputs), in each image's compacted order, then 0; the shifts likewise"""
    SHIFTS = 3


@dataclass(frozen=True)
class Epilogue(Program):
    """Epilogue for compacted maps of `pixels` pixels, in place; `relu`: ReLU follows."""

    outputs: int
    pixels: int
    number: Number
    machine: Machine
    relu: bool = False

    arguments = EpilogueArgument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Finish(module, self).emit()


class _Finish(Entry):
    def __init__(self, module: ir.Module, plan: Epilogue) -> None:
        super().__init__(module, plan.number)
        self.plan = plan

    def emit(self) -> None:
        """Loop over the pixels of all images."""
        widths = pieces(self.plan.outputs, self.plan.machine.vector_bytes // self.number.dtype.itemsize)

        def pixel(p: Value) -> None:
            image = self.sdiv(p, integer(self.plan.pixels))
            places = (EpilogueArgument.Y, p), (EpilogueArgument.SCALES, image), (EpilogueArgument.SHIFTS, image)
            y, *rows = (self.at(self.pointer(self.argument(which)), (i, self.plan.outputs)) for which, i in places)
            for lanes, offset in zip(widths, starts(widths), strict=True):
                here = self.at(y, integer(offset))
                scale, shift = (self.vector(self.at(row, integer(offset)), lanes) for row in rows)
                value = self.fadd(self.fmul(self.vector(here, lanes), scale), shift)
                self.write(self.relu(value) if self.plan.relu else value, here)

        images = self.argument(EpilogueArgument.IMAGES)
        self.loop(*self.share(self.mul(images, integer(self.plan.pixels))), pixel)
        self.ret_void()
