"""Cuts packed kernels to the outputs and inputs that an image uses, one panel at a time."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from dyncomp.fast.codegen.emit import INT, Emitter, Value, integer
from dyncomp.fast.codegen.plan import Panel, Plan, Segment


class Cut(Emitter):
    """See `Micro.cut`: copies output by output, or vector by vector where the machine has vector compress."""

    def __init__(self, made: ir.Function, plan: Plan, panel: Panel) -> None:
        super().__init__(made, plan.number)
        self.plan, self.panel = plan, panel
        self.source, self.out, self.outputs = (self.pointer(address) for address in made.args[:3])
        self.kept, inputs, self.count = made.args[3:6]
        self.inputs = self.pointer(inputs)
        self.lanes, self.step = plan.lanes, plan.step(panel)

    def emit(self, segment: Segment) -> None:
        """Emit the whole function."""
        if self.plan.machine.has_compress:
            self._vectors(segment)
        else:
            self._numbers(segment)
        self.ret_void()

    def _numbers(self, segment: Segment) -> None:
        nothing = ir.Constant(self.number.type, 0.0)

        def copy(output: Value) -> None:
            which = self.load_int(self.outputs, output)
            vector = self._vector(self.sdiv(which, integer(self.lanes)))
            lane = self.add(vector, self.srem(which, integer(self.lanes)))
            self._each_input(
                segment, lambda here, there: self.write(self.load_element(self.at(here, lane)), self.at(there, output))
            )

        self.loop(integer(0), self.kept, copy)
        behind = integer(self.panel.outputs)
        self.loop(
            self.kept,
            behind,
            lambda o: self._each_input(segment, lambda _, to: self.write(nothing, self.at(to, o))),
        )

    def _vectors(self, segment: Segment) -> None:
        """Compact the used lanes of each vector; the store of the next vector overwrites the lanes after them."""
        lanes, wide = self.lanes, self.panel.outputs
        masks = self.stack_slot(INT, len(self.plan.vectors))
        first, behind = self._marked(masks)
        nothing = self.zeros(lanes)
        with self.if_then(self.icmp_signed("<", self.kept, integer(wide))):
            tail = integer(max(0, wide - lanes))
            self._each_input(segment, lambda _, there: self.write(nothing, self.at(there, tail)))
        filled = self.stack_slot(INT)
        self.store(integer(0), filled)

        def one(index: Value) -> None:
            bits, at = self.load_int(masks, index), self.load(filled, typ=INT)
            mask = self.bitcast(self.trunc(bits, ir.IntType(lanes)), ir.VectorType(ir.IntType(1), lanes))

            def move(here: Value, there: Value) -> None:
                loaded = self.vector(self.at(here, self._vector(index)), lanes)
                self.write(self.compress(loaded, mask, nothing), self.at(there, at))

            self._each_input(segment, move)
            self.store(self.add(at, self.ctpop(bits)), filled)

        self.loop(first, behind, one)

    def _marked(self, masks: Value) -> tuple[Value, Value]:
        """Write a mask of used lanes for each vector; return the range of vectors that have any, end exclusive."""
        lanes = integer(self.lanes)
        first = self.sdiv(self.load_int(self.outputs, integer(0)), lanes)
        last = self.sdiv(self.load_int(self.outputs, self.sub(self.kept, integer(1))), lanes)
        behind = self.add(last, integer(1))
        self.loop(first, behind, lambda v: self.store(integer(0), self.int_address(masks, v)))

        def mark(output: Value) -> None:
            which = self.load_int(self.outputs, output)
            there = self.int_address(masks, self.sdiv(which, lanes))
            bit = self.shl(integer(1), self.srem(which, lanes))
            self.store(self.or_(self.load(there, typ=INT), bit), there)

        self.loop(integer(0), self.kept, mark)
        return first, behind

    def _vector(self, index: Value) -> Value:
        """Offset of a vector of outputs from the first one, in elements; each vector has the weights of all inputs."""
        return self.mul(index, integer(self.plan.inputs * self.lanes))

    def _each_input(self, segment: Segment, act: Callable[[Value, Value], None]) -> None:
        """Call `act(source, target)` with the address of every input in the source and in the cut kernel."""
        for tap in range(len(segment.taps)):
            before, done = (
                integer(tap * segment.channels * self.lanes),
                integer(tap * self.plan.channels_per_call * self.step),
            )

            def channel(c: Value, before: Value = before, done: Value = done) -> None:
                row = self.load_int(self.inputs, c) if self.plan.picks_inputs else c
                act(self.at(self.source, (row, self.lanes), before), self.at(self.out, (c, self.step), done))

            self.loop(integer(0), self.count, channel)
