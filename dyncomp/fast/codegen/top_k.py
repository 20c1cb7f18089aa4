"""Top-k of a list of numbers, without sorting it."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from dyncomp.fast.codegen.emit import INT, Emitter, Value, integer, pieces, starts


class TopK:
    """Emits code for the top-k, k = `keep`, of `units` scores at an address; of equal scores the first are taken."""

    def __init__(self, emit: Emitter, scores: Value, units: int, keep: int, lanes: int) -> None:
        self.emit, self.scores, self.units, self.keep, self.lanes = emit, scores, units, keep, lanes
        self.bits = 8 * emit.number.dtype.itemsize
        self.kind = ir.IntType(self.bits)
        self.bar = self._bar()
        above = self._count(lambda key, bar: emit.icmp_unsigned(">", key, bar), self.bar)
        self.left = emit.stack_slot(INT)
        emit.store(emit.sub(integer(keep), above), self.left)

    def has(self, unit: Value) -> Value:
        """Whether a unit is among the top-k; the emitted code must run once for each unit, in ascending order."""
        emit = self.emit
        key, room = self._key(emit.load_element(emit.at(self.scores, unit))), emit.load(self.left, typ=INT)
        level = emit.and_(emit.icmp_unsigned("==", key, self.bar), emit.icmp_signed(">", room, integer(0)))
        emit.store(emit.sub(room, emit.zext(level, INT)), self.left)
        return emit.or_(emit.icmp_unsigned(">", key, self.bar), level)

    def _bar(self) -> Value:
        """The key of the k-th greatest score, determined bit by bit from the highest bit."""
        emit, bar = self.emit, self.emit.stack_slot(self.kind)
        emit.store(self.kind(0), bar)

        def settle(step: Value) -> None:
            place = emit.sub(integer(self.bits - 1), step)
            bit = emit.shl(self.kind(1), place if self.bits == INT.width else emit.trunc(place, self.kind))
            higher = emit.or_(emit.load(bar, typ=self.kind), bit)
            found = self._count(lambda key, bar: emit.icmp_unsigned(">=", key, bar), higher)
            enough = emit.icmp_signed(">=", found, integer(self.keep))
            emit.store(emit.select(enough, higher, emit.load(bar, typ=self.kind)), bar)

        emit.loop(integer(0), integer(self.bits), settle)
        return emit.load(bar, typ=self.kind)

    def _count(self, compare: Callable[[Value, Value], Value], bar: Value) -> Value:
        """Number of scores whose key satisfies `compare(key, bar)`."""
        emit, lanes = self.emit, self.lanes
        widths = pieces(self.units, lanes)
        whole = widths.count(lanes)
        found = emit.stack_slot(INT)
        emit.store(integer(0), found)

        def some(index: Value, width: int, first: int) -> None:
            key = self._key(emit.vector(emit.at(self.scores, (index, width), integer(first)), width))
            mask = emit.bitcast(compare(key, emit.broadcast(bar, width)), ir.IntType(width))
            emit.store(emit.add(emit.load(found, typ=INT), emit.ctpop(emit.zext(mask, INT))), found)

        emit.loop(integer(0), integer(whole), lambda index: some(index, lanes, 0))
        for width, first in list(zip(widths, starts(widths), strict=True))[whole:]:
            some(integer(0), width, first)
        return emit.load(found, typ=INT)

    def _key(self, value: Value) -> Value:
        """An unsigned integer that orders as the floating-point number does; of a vector, lane by lane."""
        lanes = value.type.count if isinstance(value.type, ir.VectorType) else None
        kind = self.kind if lanes is None else ir.VectorType(self.kind, lanes)

        def constant(number: int) -> ir.Constant:
            return kind(number if lanes is None else [number] * lanes)

        held = self.emit.bitcast(value, kind)
        sign = self.emit.ashr(held, constant(self.bits - 1))
        return self.emit.xor(held, self.emit.or_(sign, constant(1 << (self.bits - 1))))
