"""Gates on channel means: from features to the images for which they open, or to the shares of a router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from llvmlite import ir

from dyncomp.fast.codegen.build import Arguments, Program
from dyncomp.fast.codegen.emit import INT, Value, integer, pieces, starts
from dyncomp.fast.codegen.means import Means, MeansPlan


class GateArgument(IntEnum):
    """Arguments of the code, in order: addresses, and counts."""

    X = 0
    IMAGES = 1
    WEIGHTS = 2
    """layer by layer, the cell after the first layer: weights (inputs, outputs), then the bias (outputs,)"""
    SCRATCH = 3
    OPEN = 4
    """(images,) integers: 1 where the gate opens"""
    ROWS = 5
    """(images,) integers: compacted indices of the images for which the gate opens"""
    COUNT = 6
    """where to write the number of images in `ROWS`: the first of `COUNTS` words, `COUNT_STEP` words apart"""
    COUNTS = 7
    COUNT_STEP = 8
    FORCED = 9
    """(images,) numbers: the gate opens where they exceed 0, whatever its own decision; 0: none"""
    HIDDEN = 10
    """(images, state): hidden state of the cell; its memory likewise"""
    MEMORY = 11
    SHARES = 12
    """(images, outputs): where to write the result of a plan with `shares`"""


@dataclass(frozen=True)
class Layer:
    """A matrix product with a bias, and ReLU if `relu`."""

    inputs: int
    outputs: int
    relu: bool = False


Squash = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class GatePlan(MeansPlan, Program):
    """Layers applied to channel means, with an LSTM cell of `state` units after the first layer unless `state` is 0.

    The gate opens where the second of two outputs exceeds the first, or a single output exceeds 0. With `shares` the
    result is the outputs themselves, passed through `squash` if given: for a router or a classifier.
    """

    layers: tuple[Layer, ...]
    state: int = 0
    shares: bool = False
    squash: Squash | None = None
    arguments = GateArgument

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Gate(module, self).emit()

    @property
    def cell(self) -> Layer:
        """The products of the LSTM cell: from its input and hidden state to its four gates."""
        return Layer(2 * self.state, 4 * self.state)

    def macs(self, given: Arguments) -> int:
        """See `Program.macs`."""
        return given[GateArgument.IMAGES] * sum(layer.inputs * layer.outputs for layer in (*self.layers, self.cell))


class _Gate(Means):
    def __init__(self, module: ir.Module, plan: GatePlan) -> None:
        super().__init__(module, plan, GateArgument.X, GateArgument.IMAGES, GateArgument.SCRATCH)
        self.plan = plan
        self.given = [self.argument(index) for index in GateArgument]
        widest = max(plan.channels, 5 * plan.state, *(layer.outputs for layer in plan.layers))
        self.buffers = [self.stack_slot(self.number.type, widest) for _ in range(2)]

    def emit(self) -> None:
        """Channel sums, decisions, and the compacted list of images for which the gate opens."""
        self.sum_up()
        self.loop(*self.share(self.images), self._decide)
        if not self.plan.shares:
            self.barrier()
            with self.if_then(self.icmp_signed("==", self.thread, integer(0))):
                self._list()
        self.ret_void()

    def _decide(self, image: Value) -> None:
        """Decide whether the gate opens for an image, or write the image's shares."""
        weights, plan = self.pointer(self.given[GateArgument.WEIGHTS]), self.plan
        values, free = self.buffers
        self.mean_to(image, values)
        for index, layer in enumerate(plan.layers):
            self._product(layer, weights, values, free)
            weights = self.at(weights, integer((layer.inputs + 1) * layer.outputs))
            values, free = free, values
            if plan.state and index == 0:
                self._cell(image, plan.cell, weights, values, free)
                weights = self.at(weights, integer((plan.cell.inputs + 1) * plan.cell.outputs))
        last = [self.load_element(self.at(values, integer(o))) for o in range(plan.layers[-1].outputs)]
        if not plan.shares:
            self._open(image, last)
            return
        if plan.squash is not None:
            last = self._softmax(last) if plan.squash == "softmax" else list(map(self._sigmoid, last))
        there = self.at(self.pointer(self.given[GateArgument.SHARES]), (image, len(last)))
        for index, number in enumerate(last):
            self.write(number, self.at(there, integer(index)))

    def _softmax(self, logits: Sequence[Value]) -> list[Value]:
        most = logits[0]
        for logit in logits[1:]:
            most = self.select(self.fcmp_ordered(">", logit, most), logit, most)
        parts = [self.maths("exp", self.fsub(logit, most)) for logit in logits]
        whole = parts[0]
        for part in parts[1:]:
            whole = self.fadd(whole, part)
        return [self.fdiv(part, whole) for part in parts]

    def _open(self, image: Value, logits: list[Value]) -> None:
        zero = ir.Constant(self.number.type, 0.0)
        bar, logit = (zero, logits[0]) if len(logits) == 1 else (logits[0], logits[1])
        own, before = self.fcmp_ordered(">", logit, bar), self.block
        given = self.given[GateArgument.FORCED]
        with self.if_then(self.icmp_signed("!=", given, integer(0))):
            other, inside = (
                self.fcmp_ordered(">", self.load_element(self.at(self.pointer(given), image)), zero),
                self.block,
            )
        opens = self.phi(own.type)
        opens.add_incoming(own, before)
        opens.add_incoming(other, inside)
        self.store(self.zext(opens, INT), self._word_at(GateArgument.OPEN, image), align=8)

    def _product(self, layer: Layer, weights: Value, values: Value, out: Value) -> None:
        widths = pieces(layer.outputs, self.plan.lanes)
        for lanes, offset in zip(widths, starts(widths), strict=True):
            total = self.stack_slot(self.number.vector(lanes))
            bias = self.at(weights, integer(layer.inputs * layer.outputs + offset))
            self.store(self.vector(bias, lanes), total)

            def add(index: Value, lanes: int = lanes, offset: int = offset, total: Value = total) -> None:
                weight = self.vector(self.at(weights, (index, layer.outputs), integer(offset)), lanes)
                value = self.broadcast(self.load_element(self.at(values, index)), lanes)
                held = self.load(total, typ=self.number.vector(lanes))
                self.store(self.multiply_add(value, weight, held), total)

            self.loop(integer(0), integer(layer.inputs), add)
            done = self.load(total, typ=self.number.vector(lanes))
            self.write(self.relu(done) if layer.relu else done, self.at(out, integer(offset)))

    def _cell(self, image: Value, cell: Layer, weights: Value, values: Value, gates: Value) -> None:
        """An LSTM cell; its output replaces its input in `values`, and hidden state and memory are updated in place."""
        size = self.plan.state
        hidden, memory = (
            self.at(self.pointer(self.given[which]), (image, size))
            for which in (GateArgument.HIDDEN, GateArgument.MEMORY)
        )
        self.loop(
            integer(0),
            integer(size),
            lambda i: self.write(self.load_element(self.at(hidden, i)), self.at(values, i, integer(size))),
        )
        self._product(cell, weights, values, gates)

        def unit(i: Value) -> None:
            enter, forget, new, leave = (
                self.load_element(self.at(gates, i, integer(part * size))) for part in range(4)
            )
            kept = self.fmul(self._sigmoid(forget), self.load_element(self.at(memory, i)))
            kept = self.fadd(kept, self.fmul(self._sigmoid(enter), self.maths("tanh", new)))
            said = self.fmul(self._sigmoid(leave), self.maths("tanh", kept))
            self.write(kept, self.at(memory, i))
            self.write(said, self.at(hidden, i))
            self.write(said, self.at(values, i))

        self.loop(integer(0), integer(size), unit)

    def _sigmoid(self, value: Value) -> Value:
        one = ir.Constant(self.number.type, 1.0)
        return self.fdiv(one, self.fadd(one, self.maths("exp", self.fneg(value))))

    def _word_at(self, which: GateArgument, index: Value) -> Value:
        return self.int_address(self.pointer(self.given[which]), index)

    def _list(self) -> None:
        found = self.stack_slot(INT)
        self.store(integer(0), found)

        def look(image: Value) -> None:
            count = self.load(found, typ=INT)
            self.store(image, self._word_at(GateArgument.ROWS, count), align=8)
            open_ = self.load(self._word_at(GateArgument.OPEN, image), typ=INT, align=8)
            self.store(self.add(count, open_), found)

        self.loop(integer(0), self.images, look)
        count = self.load(found, typ=INT)

        def tell(index: Value) -> None:
            step = self.mul(index, self.given[GateArgument.COUNT_STEP])
            self.store(count, self._word_at(GateArgument.COUNT, step), align=8)

        self.loop(integer(0), self.given[GateArgument.COUNTS], tell)
