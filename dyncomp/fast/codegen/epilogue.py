"""Epilogue of a convolution whose filters are switched: outputs are compacted, scaled, shifted and activated."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from llvmlite import ir

from dyncomp.fast.codegen.build import Code, Entry, compiled, new_module
from dyncomp.fast.codegen.emit import INT, Number, Value, integer, pieces, starts
from dyncomp.fast.codegen.machine import Machine


@dataclass(frozen=True)
class Epilogue:
    """Epilogue for maps of `pixels` pixels: the outputs that an image uses are compacted to the front, the rest are 0.

    `ordered`: x is already compacted. `weighted`: outputs are scaled and shifted, by numbers in compacted order.
    `relu`: ReLU follows.
    """

    outputs: int
    pixels: int
    number: Number
    machine: Machine
    ordered: bool
    weighted: bool
    relu: bool = False


class EpilogueArgument(IntEnum):
    """Arguments of the code, in order: addresses, and counts."""

    X = 0
    Y = 1
    """may be x only if x is already compacted"""
    IMAGES = 2
    OUTPUTS = 3
    """(images, outputs) integers: index of the output at each compacted position"""
    COUNTS = 4
    """(images,): number of outputs that each image uses"""
    SCALES = 5
    """(images, outputs), in each image's compacted order, then 0; the shifts likewise"""
    SHIFTS = 6


@cache
def epilogue_for(plan: Epilogue) -> Code:
    """The code of an epilogue; see `EpilogueArgument`."""
    module = new_module()
    _Finish(module, plan).emit()
    return compiled(module, len(EpilogueArgument))


class _Finish(Entry):
    def __init__(self, module: ir.Module, plan: Epilogue) -> None:
        super().__init__(module, plan.number)
        self.plan = plan
        self.given = [self.argument(index) for index in EpilogueArgument]

    def emit(self) -> None:
        """Loop over the pixels of all images."""
        pixels = self.mul(self.given[EpilogueArgument.IMAGES], integer(self.plan.pixels))
        self.loop(*self.share(pixels), self._in_order if self.plan.ordered else self._out_of_order)
        self.ret_void()

    def _in_order(self, pixel: Value) -> None:
        image = self.sdiv(pixel, integer(self.plan.pixels))
        widths = pieces(self.plan.outputs, self.plan.machine.vector_bytes // self.number.dtype.itemsize)
        x, y = (self._of(which, pixel) for which in (EpilogueArgument.X, EpilogueArgument.Y))
        for lanes, offset in zip(widths, starts(widths), strict=True):
            value = self.vector(self.at(x, integer(offset)), lanes)
            self.write(self._weighted(value, image, integer(offset), lanes), self.at(y, integer(offset)))

    def _out_of_order(self, pixel: Value) -> None:
        image = self.sdiv(pixel, integer(self.plan.pixels))
        x, y = (self._of(which, pixel) for which in (EpilogueArgument.X, EpilogueArgument.Y))
        first = self.mul(image, integer(self.plan.outputs))
        order = self.gep(self.pointer(self.given[EpilogueArgument.OUTPUTS]), [first], source_etype=INT)
        count, nothing = self.load_int(self.pointer(self.given[EpilogueArgument.COUNTS]), image), self.number.type(0.0)

        def put(place: Value) -> None:
            value = self.load_element(self.at(x, self.load_int(order, place)))
            self.write(self._weighted(value, image, place), self.at(y, place))

        self.loop(integer(0), count, put)
        self.loop(count, integer(self.plan.outputs), lambda place: self.write(nothing, self.at(y, place)))

    def _weighted(self, value: Value, image: Value, place: Value, lanes: int | None = None) -> Value:
        if self.plan.weighted:
            scale, shift = (
                self.at(self._of(which, image), place) for which in (EpilogueArgument.SCALES, EpilogueArgument.SHIFTS)
            )
            scale, shift = (self.load_element(at) if lanes is None else self.vector(at, lanes) for at in (scale, shift))
            value = self.fadd(self.fmul(value, scale), shift)
        return self.relu(value) if self.plan.relu else value

    def _of(self, which: EpilogueArgument, index: Value) -> Value:
        return self.at(self.pointer(self.given[which]), (index, self.plan.outputs))
