"""Gates on channel means: from features to the images for which they open, or to the shares of a router."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llvmlite import ir

from dyncomp.fast.codegen.build import Code, Macs, compiled, new_module
from dyncomp.fast.codegen.emit import INT, Value, integer, pieces, starts
from dyncomp.fast.codegen.gate_plan import GateArgument, GatePlan, Layer
from dyncomp.fast.codegen.means import Means


@cache
def gate_for(plan: GatePlan) -> Code:
    """The code of a gate; see `GateArgument`."""
    module = new_module()
    _Gate(module, plan).emit()
    return compiled(module, len(GateArgument), _macs(plan))


def _macs(plan: GatePlan) -> Macs:
    cell = Layer(2 * plan.state, 4 * plan.state)
    of_image = sum(layer.inputs * layer.outputs for layer in (*plan.layers, cell))
    return lambda given: given[GateArgument.IMAGES] * of_image


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
                cell = Layer(2 * plan.state, 4 * plan.state)
                self._cell(image, cell, weights, values, free)
                weights = self.at(weights, integer((cell.inputs + 1) * cell.outputs))
        last = [self.load_element(self.at(values, integer(o))) for o in range(plan.layers[-1].outputs)]
        if plan.shares:
            self._share_out(image, last)
        else:
            self._open(image, last)

    def _share_out(self, image: Value, numbers: Sequence[Value]) -> None:
        shares = list(numbers)
        if self.plan.squash is not None:
            shares = self._softmax(shares) if self.plan.squash == "softmax" else list(map(self._sigmoid, shares))
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
