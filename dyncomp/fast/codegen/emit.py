"""Writes LLVM's language: loops, vectors, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from llvmlite import ir

Value: TypeAlias = Any
"""what LLVM computes with: its library tells no types"""
INT = ir.IntType(64)
INT32 = ir.IntType(32)
POINTER = ir.PointerType()
VOID = ir.VoidType()


@dataclass(frozen=True)
class Number:
    """A type of numbers, float or double."""

    dtype: torch.dtype

    @property
    def type(self) -> ir.Type:
        """LLVM's."""
        return ir.FloatType() if self.dtype == torch.float32 else ir.DoubleType()

    @property
    def suffix(self) -> str:
        """How intrinsics call it."""
        return f"f{8 * self.dtype.itemsize}"

    def vector(self, lanes: int) -> ir.VectorType:
        """So many side by side."""
        return ir.VectorType(self.type, lanes)


def integer(value: int) -> ir.Constant:
    """A constant."""
    return ir.Constant(INT, value)


def function(module: ir.Module, name: str, parameters: int) -> ir.Function:
    """A new function of pointers and integers alike (all 64 bits wide), without a result, seen in this module only."""
    made = ir.Function(module, ir.FunctionType(VOID, [INT] * parameters), name)
    made.linkage = "internal"
    made.attributes.add("noinline")
    return made


class Functions:
    """A module's functions, each written once for all that are alike."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self._made: dict[Any, ir.Function] = {}

    def once(self, key: Any, parameters: int, write: Callable[[ir.Function], None]) -> ir.Function:
        """The function of that key, its first part a word for what it does, written if it is not there yet."""
        if key not in self._made:
            self._made[key] = made = function(self.module, f"{key[0]}{len(self._made)}", parameters)
            write(made)
        return self._made[key]


class Emitter(ir.IRBuilder):  # type: ignore[misc]  # untyped
    """A builder at the start of a function; addresses are pointers, counts are integers, indices count numbers."""

    def __init__(self, made: ir.Function, number: Number) -> None:
        super().__init__(made.append_basic_block())
        self.made = made
        self.number = number

    def loop(self, first: Value, end: Value, body: Callable[[Value], None], step: int = 1) -> None:
        """`body(i)` for i = first, first + step, ... below `end`."""
        before, head = self.block, self.append_basic_block()
        inside, after = self.append_basic_block(), self.append_basic_block()
        self.branch(head)
        self.position_at_end(head)
        index = self.phi(INT)
        index.add_incoming(first, before)
        self.cbranch(self.icmp_signed("<", index, end), inside, after)
        self.position_at_end(inside)
        body(index)
        index.add_incoming(self.add(index, integer(step)), self.block)
        self.branch(head)
        self.position_at_end(after)

    def local(self, type_: ir.Type, count: int = 1) -> Value:
        """Memory of the function's own for so many values; at its head, where it becomes registers if it can."""
        with self.goto_entry_block():
            place = self.alloca(type_, size=count)
            return place if count == 1 else self.pointer(self.ptrtoint(place, INT))  # llvmlite: of no type, as others

    def zeros(self, lanes: int) -> ir.Constant:
        """A vector of them."""
        return ir.Constant(self.number.vector(lanes), [0.0] * lanes)

    def sum_from_zero(self, lanes: int) -> Value:
        """Memory of the function's own for a vector that sums up, 0 from here on."""
        place = self.local(self.number.vector(lanes))
        self.store(self.zeros(lanes), place)
        return place

    def total(self, *terms: Value | tuple[Value, int]) -> Value:
        """The sum of terms, each a value or a value times a constant."""
        summands = [self.mul(term[0], integer(term[1])) if isinstance(term, tuple) else term for term in terms]
        result = summands[0]
        for summand in summands[1:]:
            result = self.add(result, summand)
        return result

    def pointer(self, address: Value) -> Value:
        """An integer as what it points to."""
        return self.inttoptr(address, POINTER)

    def at(self, pointer: Value, *index: Value | tuple[Value, int]) -> Value:
        """The place of a number; see `total` for the index."""
        return self.gep(pointer, [self.total(*index)], source_etype=self.number.type)

    def word(self, pointer: Value, index: Value) -> Value:
        """A 64-bit integer out of a list."""
        return self.load(self.word_at(pointer, index), typ=INT, align=8)

    def word_at(self, pointer: Value, index: Value) -> Value:
        """The place of a 64-bit integer."""
        return self.gep(pointer, [index], source_etype=INT)

    def vector(self, pointer: Value, lanes: int) -> Value:
        """So many numbers from there on."""
        return self.load(pointer, typ=self.number.vector(lanes), align=self.number.dtype.itemsize)

    def write(self, vector: Value, pointer: Value) -> None:
        """Store a vector, or a number."""
        self.store(vector, pointer, align=self.number.dtype.itemsize)

    def bring(self, pointer: Value) -> None:
        """Have what lies there brought close, into the second cache, while other work goes on."""
        name = "llvm.prefetch.p0"
        known = self.module.globals.get(name)
        kind = ir.FunctionType(VOID, [POINTER, INT32, INT32, INT32])
        self.call(known or ir.Function(self.module, kind, name), [pointer, INT32(0), INT32(2), INT32(1)])

    def clear(self, pointer: Value, count: int) -> None:
        """0 in so many numbers from there on."""
        name, bit = "llvm.memset.p0.i64", ir.IntType(1)
        known = self.module.globals.get(name)
        kind = ir.FunctionType(VOID, [POINTER, ir.IntType(8), INT, bit])
        size = integer(count * self.number.dtype.itemsize)
        self.call(known or ir.Function(self.module, kind, name), [pointer, ir.IntType(8)(0), size, bit(0)])

    def one(self, pointer: Value) -> Value:
        """A number."""
        return self.load(pointer, typ=self.number.type, align=self.number.dtype.itemsize)

    def spread(self, number: Value, lanes: int) -> Value:
        """The same number, or integer, in every lane."""
        nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.insert_element(nothing, number, INT32(0))
        return self.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))

    def multiply_add(self, left: Value, right: Value, to: Value) -> Value:
        """left * right + to, rounded once."""
        return self._intrinsic("fma", left, right, to)

    def maths(self, name: str, number: Value) -> Value:
        """What the library of mathematics makes of a number: exp, tanh."""
        whole = name if self.number.dtype == torch.float64 else f"{name}f"
        known = self.module.globals.get(whole)
        return self.call(
            known or ir.Function(self.module, ir.FunctionType(number.type, [number.type]), whole), [number]
        )

    def close_gaps(self, vector: Value, mask: Value, behind: Value) -> Value:
        """The lanes that the mask (of bits) names side by side, then what `behind` has there."""
        return self._intrinsic("experimental.vector.compress", vector, mask, behind)

    def _intrinsic(self, name: str, vector: Value, *rest: Value) -> Value:
        """What LLVM has an instruction for, of vectors alike."""
        whole = f"llvm.{name}.v{vector.type.count}{self.number.suffix}"
        types = [vector.type, *(value.type for value in rest)]
        known = self.module.globals.get(whole)
        return self.call(known or ir.Function(self.module, ir.FunctionType(vector.type, types), whole), [vector, *rest])

    def magnitude(self, vector: Value) -> Value:
        """Without signs."""
        return self._intrinsic("fabs", vector)

    def larger_of(self, one: Value, other: Value) -> Value:
        """Lane by lane; what is not a number stays so."""
        return self._intrinsic("maximum", one, other)

    def at_least_zero(self, vector: Value) -> Value:
        """ReLU, of a vector or a number; what is not a number stays so."""
        zero = ir.Constant(vector.type, [0.0] * vector.type.count if isinstance(vector.type, ir.VectorType) else 0.0)
        return self.select(self.fcmp_ordered("<", vector, zero), zero, vector)

    def smaller(self, one: Value, other: Value) -> Value:
        """Of two integers."""
        return self.select(self.icmp_signed("<", one, other), one, other)

    def larger(self, one: Value, other: Value) -> Value:
        """Of two integers."""
        return self.select(self.icmp_signed(">", one, other), one, other)


def pieces(count: int, lanes: int) -> list[int]:
    """`count` numbers as vectors: of `lanes` each as long as they last, then of the powers of two that are left."""
    widths = [lanes] * (count // lanes)
    rest, width = count % lanes, lanes // 2
    while rest:
        if width <= rest:
            widths.append(width)
            rest -= width
        width //= 2
    return widths


def starts(widths: Sequence[int]) -> list[int]:
    """Where each of neighbouring pieces begins."""
    return [sum(widths[:index]) for index in range(len(widths))]
