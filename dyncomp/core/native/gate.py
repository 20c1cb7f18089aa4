"""Gates that see the mean of each channel: from features to the images for which they open, or to a router's shares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llvmlite import ir

from dyncomp.core.native.build import Code, Entry, compiled, new_module
from dyncomp.core.native.emit import INT, Value, integer, pieces, starts
from dyncomp.core.native.gate_plan import GateArgument, GatePlan, Layer

_SUMS = 8
"""vectors that are summed side by side: adding takes several cycles, and many can be under way"""


@cache
def gate_for(plan: GatePlan) -> Code:
    """The code of a gate; see `GateArgument`."""
    module = new_module()
    _Gate(module, plan).emit()
    return compiled(module, len(GateArgument))


class _Gate(Entry):
    def __init__(self, module: ir.Module, plan: GatePlan) -> None:
        super().__init__(module, plan.number)
        self.plan, self.size = plan, plan.number.dtype.itemsize
        self.given = [self.argument(index) for index in GateArgument]
        widest = max(plan.channels, 5 * plan.state, *(layer.outputs for layer in plan.layers))
        self.buffers = [self.local(self.number.type, widest) for _ in range(2)]

    def emit(self) -> None:
        """Sums, decisions, and the list of those that open."""
        images, parts = self.given[GateArgument.IMAGES], integer(self.plan.parts)
        self.loop(*self.share(self.mul(images, parts)), self._sum)
        self.barrier()
        self.loop(*self.share(images), self._decide)
        if self.plan.squash is None:
            self.barrier()
            with self.if_then(self.icmp_signed("==", self.thread, integer(0))):
                self._list()
        self.ret_void()

    def _sum(self, task: Value) -> None:
        """A part of an image's pixels, channel by channel."""
        plan, parts = self.plan, integer(self.plan.parts)
        image, part = self.sdiv(task, parts), self.srem(task, parts)
        first = self.sdiv(self.mul(part, integer(plan.pixels)), parts)
        end = self.sdiv(self.mul(self.add(part, integer(1)), integer(plan.pixels)), parts)
        widths = pieces(plan.channels, plan.lanes)
        x = self.at(self.pointer(self.given[GateArgument.X]), (image, plan.pixels * plan.channels))
        out = self.at(self.pointer(self.given[GateArgument.SCRATCH]), (task, plan.channels))
        for index in range(0, len(widths), _SUMS):
            some = widths[index : index + _SUMS]
            offset = sum(widths[:index])
            self._sum_some(self.at(x, integer(offset)), self.at(out, integer(offset)), some, first, end)

    def _sum_some(self, x: Value, out: Value, widths: Sequence[int], first: Value, end: Value) -> None:
        together = max(1, _SUMS // len(widths))
        sums = [[self._zero(lanes) for lanes in widths] for _ in range(together)]
        whole = self.total(first, (self.sdiv(self.sub(end, first), integer(together)), together))

        def add(pixel: Value, count: int) -> None:
            for i in range(count):
                for total, lanes, offset in zip(sums[i], widths, starts(widths), strict=True):
                    there = self.at(x, (pixel, self.plan.channels), integer(i * self.plan.channels + offset))
                    held = self.load(total, typ=self.number.vector(lanes))
                    self.store(self.fadd(held, self.vector(there, lanes)), total)

        self.loop(first, whole, lambda pixel: add(pixel, together), together)
        self.loop(whole, end, lambda pixel: add(pixel, 1))
        for v, (lanes, offset) in enumerate(zip(widths, starts(widths), strict=True)):
            parts = [self.load(side[v], typ=self.number.vector(lanes)) for side in sums]
            total = parts[0]
            for part in parts[1:]:
                total = self.fadd(total, part)
            self.write(total, self.at(out, integer(offset)))

    def _zero(self, lanes: int) -> Value:
        place = self.local(self.number.vector(lanes))
        self.store(ir.Constant(self.number.vector(lanes), [0.0] * lanes), place)
        return place

    def _decide(self, image: Value) -> None:
        """Whether the gate opens for an image."""
        weights, plan = self.pointer(self.given[GateArgument.WEIGHTS]), self.plan
        values, free = self.buffers
        self._mean(image, values)
        for index, layer in enumerate(plan.layers):
            self._product(layer, weights, values, free)
            weights = self.at(weights, integer((layer.inputs + 1) * layer.outputs))
            values, free = free, values
            if plan.state and index == 0:
                cell = Layer(2 * plan.state, 4 * plan.state)
                self._cell(image, cell, weights, values, free)
                weights = self.at(weights, integer((cell.inputs + 1) * cell.outputs))
        last = [self.one(self.at(values, integer(o))) for o in range(plan.layers[-1].outputs)]
        if plan.squash is None:
            self._open(image, last)
        else:
            self._share_out(image, self._softmax(last) if plan.squash == "softmax" else list(map(self._sigmoid, last)))

    def _share_out(self, image: Value, shares: Sequence[Value]) -> None:
        there = self.at(self.pointer(self.given[GateArgument.SHARES]), (image, len(shares)))
        for index, number in enumerate(shares):
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
        given = self.given[GateArgument.OVERRULED]
        with self.if_then(self.icmp_signed("!=", given, integer(0))):
            other, inside = self.fcmp_ordered(">", self.one(self.at(self.pointer(given), image)), zero), self.block
        opens = self.phi(own.type)
        opens.add_incoming(own, before)
        opens.add_incoming(other, inside)
        self.store(self.zext(opens, INT), self._word_at(GateArgument.OPEN, image), align=8)

    def _mean(self, image: Value, out: Value) -> None:
        plan = self.plan
        sums = self.at(self.pointer(self.given[GateArgument.SCRATCH]), (image, plan.scratch))
        share = ir.Constant(self.number.type, 1 / plan.pixels)
        widths = pieces(plan.channels, plan.lanes)
        for lanes, offset in zip(widths, starts(widths), strict=True):
            total = self.vector(self.at(sums, integer(offset)), lanes)
            for part in range(1, plan.parts):
                total = self.fadd(total, self.vector(self.at(sums, integer(part * plan.channels + offset)), lanes))
            self.write(self.fmul(total, self.spread(share, lanes)), self.at(out, integer(offset)))

    def _product(self, layer: Layer, weights: Value, values: Value, out: Value) -> None:
        widths = pieces(layer.outputs, self.plan.lanes)
        for lanes, offset in zip(widths, starts(widths), strict=True):
            total = self.local(self.number.vector(lanes))
            bias = self.at(weights, integer(layer.inputs * layer.outputs + offset))
            self.store(self.vector(bias, lanes), total)

            def add(index: Value, lanes: int = lanes, offset: int = offset, total: Value = total) -> None:
                weight = self.vector(self.at(weights, (index, layer.outputs), integer(offset)), lanes)
                value = self.spread(self.one(self.at(values, index)), lanes)
                held = self.load(total, typ=self.number.vector(lanes))
                self.store(self.multiply_add(value, weight, held), total)

            self.loop(integer(0), integer(layer.inputs), add)
            done = self.load(total, typ=self.number.vector(lanes))
            self.write(self.at_least_zero(done) if layer.relu else done, self.at(out, integer(offset)))

    def _cell(self, image: Value, cell: Layer, weights: Value, values: Value, gates: Value) -> None:
        """An LSTM cell; what it makes takes the place of what it was given."""
        size = self.plan.state
        hidden, memory = (
            self.at(self.pointer(self.given[which]), (image, size))
            for which in (GateArgument.HIDDEN, GateArgument.MEMORY)
        )
        self.loop(
            integer(0),
            integer(size),
            lambda i: self.write(self.one(self.at(hidden, i)), self.at(values, i, integer(size))),
        )
        self._product(cell, weights, values, gates)

        def unit(i: Value) -> None:
            enter, forget, new, leave = (self.one(self.at(gates, i, integer(part * size))) for part in range(4))
            kept = self.fmul(self._sigmoid(forget), self.one(self.at(memory, i)))
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
        return self.word_at(self.pointer(self.given[which]), index)

    def _list(self) -> None:
        found = self.local(INT)
        self.store(integer(0), found)

        def look(image: Value) -> None:
            count = self.load(found, typ=INT)
            self.store(image, self._word_at(GateArgument.ROWS, count), align=8)
            open_ = self.load(self._word_at(GateArgument.OPEN, image), typ=INT, align=8)
            self.store(self.add(count, open_), found)

        self.loop(integer(0), self.given[GateArgument.IMAGES], look)
        count = self.load(found, typ=INT)

        def tell(index: Value) -> None:
            step = self.mul(index, self.given[GateArgument.COUNT_STEP])
            self.store(count, self._word_at(GateArgument.COUNT, step), align=8)

        self.loop(integer(0), self.given[GateArgument.COUNTS], tell)
