"""Emits LLVM IR: loops, vectors, memory access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from llvmlite import ir

Value: TypeAlias = Any
"""a value of LLVM IR; llvmlite has no type annotations"""
INT = ir.IntType(64)
INT32 = ir.IntType(32)
POINTER = ir.PointerType()
VOID = ir.VoidType()


@dataclass(frozen=True)
class Number:
    """A floating-point type: float32 or float64."""

    dtype: torch.dtype

    @property
    def type(self) -> ir.Type:
        """The type in LLVM IR."""
        return ir.FloatType() if self.dtype == torch.float32 else ir.DoubleType()

    @property
    def suffix(self) -> str:
        """The type in names of intrinsics: f32 or f64."""
        return f"f{8 * self.dtype.itemsize}"

    def vector(self, lanes: int) -> ir.VectorType:
        """The vector type of `lanes` lanes."""
        return ir.VectorType(self.type, lanes)


def integer(value: int) -> ir.Constant:
    """A 64-bit integer constant."""
    return ir.Constant(INT, value)


def function(module: ir.Module, name: str, parameters: int) -> ir.Function:
    """A new function, internal to the module, without a result; arguments are 64-bit integers, addresses included."""
    made = ir.Function(module, ir.FunctionType(VOID, [INT] * parameters), name)
    made.linkage = "internal"
    made.attributes.add("noinline")
    return made


class Functions:
    """The functions of a module, each written once per key."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self._made: dict[Any, ir.Function] = {}

    def once(self, key: Any, parameters: int, write: Callable[[ir.Function], None]) -> ir.Function:
        """The function of `key`, written when it is first asked for; the key's first part is the prefix of its name."""
        if key not in self._made:
            self._made[key] = made = function(self.module, f"{key[0]}{len(self._made)}", parameters)
            write(made)
        return self._made[key]


class Emitter(ir.IRBuilder):  # type: ignore[misc]  # untyped
    """An IR builder at the start of a function; addresses are pointers, counts are integers, indices count elements."""

    def __init__(self, made: ir.Function, number: Number) -> None:
        super().__init__(made.append_basic_block())
        self.made = made
        self.number = number

    def loop(self, first: Value, end: Value, body: Callable[[Value], None], step: int = 1) -> None:
        """Emit a loop: `body(i)` for i = first, first + step, ... below `end`."""
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

    def stack_slot(self, type_: ir.Type, count: int = 1) -> Value:
        """Stack memory for `count` values, allocated in the entry block, where LLVM can promote it to registers."""
        with self.goto_entry_block():
            place = self.alloca(type_, size=count)
            return place if count == 1 else self.pointer(self.ptrtoint(place, INT))  # opaque, as other pointers are

    def zeros(self, lanes: int) -> ir.Constant:
        """A vector of zeros."""
        return ir.Constant(self.number.vector(lanes), [0.0] * lanes)

    def sum_from_zero(self, lanes: int) -> Value:
        """Stack memory for a vector accumulator, set to 0 here."""
        place = self.stack_slot(self.number.vector(lanes))
        self.store(self.zeros(lanes), place)
        return place

    def total(self, *terms: Value | tuple[Value, int]) -> Value:
        """The integer sum of terms, each a value or a pair (value, constant factor)."""
        summands = [self.mul(term[0], integer(term[1])) if isinstance(term, tuple) else term for term in terms]
        result = summands[0]
        for summand in summands[1:]:
            result = self.add(result, summand)
        return result

    def pointer(self, address: Value) -> Value:
        """An integer address as a pointer."""
        return self.inttoptr(address, POINTER)

    def at(self, pointer: Value, *index: Value | tuple[Value, int]) -> Value:
        """The address of an element; see `total` for the index."""
        return self.gep(pointer, [self.total(*index)], source_etype=self.number.type)

    def load_int(self, pointer: Value, index: Value) -> Value:
        """Load a 64-bit integer from an array."""
        return self.load(self.int_address(pointer, index), typ=INT, align=8)

    def int_address(self, pointer: Value, index: Value) -> Value:
        """The address of a 64-bit integer in an array."""
        return self.gep(pointer, [index], source_etype=INT)

    def vector(self, pointer: Value, lanes: int) -> Value:
        """Load `lanes` consecutive elements."""
        return self.load(pointer, typ=self.number.vector(lanes), align=self.number.dtype.itemsize)

    def write(self, vector: Value, pointer: Value) -> None:
        """Store a vector, or a single element."""
        self.store(vector, pointer, align=self.number.dtype.itemsize)

    def prefetch(self, pointer: Value) -> None:
        """Prefetch the cache line at `pointer` into the L2 cache."""
        name = "llvm.prefetch.p0"
        known = self.module.globals.get(name)
        kind = ir.FunctionType(VOID, [POINTER, INT32, INT32, INT32])
        self.call(known or ir.Function(self.module, kind, name), [pointer, INT32(0), INT32(2), INT32(1)])

    def clear(self, pointer: Value, count: int) -> None:
        """Set `count` consecutive elements to 0."""
        name, bit = "llvm.memset.p0.i64", ir.IntType(1)
        known = self.module.globals.get(name)
        kind = ir.FunctionType(VOID, [POINTER, ir.IntType(8), INT, bit])
        size = integer(count * self.number.dtype.itemsize)
        self.call(known or ir.Function(self.module, kind, name), [pointer, ir.IntType(8)(0), size, bit(0)])

    def load_element(self, pointer: Value) -> Value:
        """Load an element."""
        return self.load(pointer, typ=self.number.type, align=self.number.dtype.itemsize)

    def broadcast(self, number: Value, lanes: int) -> Value:
        """Broadcast an element, or an integer, to every lane."""
        nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.insert_element(nothing, number, INT32(0))
        return self.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))

    def multiply_add(self, left: Value, right: Value, to: Value) -> Value:
        """FMA: left * right + to, rounded once."""
        return self._intrinsic("fma", left, right, to)

    def maths(self, name: str, number: Value) -> Value:
        """Call a function of the C math library on an element: exp or tanh."""
        whole = name if self.number.dtype == torch.float64 else f"{name}f"
        known = self.module.globals.get(whole)
        return self.call(
            known or ir.Function(self.module, ir.FunctionType(number.type, [number.type]), whole), [number]
        )

    def compress(self, vector: Value, mask: Value, behind: Value) -> Value:
        """Compact the lanes that the mask (of bits) selects to the front; the other lanes come from `behind`."""
        return self._intrinsic("experimental.vector.compress", vector, mask, behind)

    def _intrinsic(self, name: str, vector: Value, *rest: Value) -> Value:
        """Call an LLVM intrinsic whose result has the type of its first operand, a vector."""
        whole = f"llvm.{name}.v{vector.type.count}{self.number.suffix}"
        types = [vector.type, *(value.type for value in rest)]
        known = self.module.globals.get(whole)
        return self.call(known or ir.Function(self.module, ir.FunctionType(vector.type, types), whole), [vector, *rest])

    def absolute(self, vector: Value) -> Value:
        """Absolute values, lane by lane."""
        return self._intrinsic("fabs", vector)

    def maximum(self, one: Value, other: Value) -> Value:
        """Maximum, lane by lane; NaN propagates."""
        return self._intrinsic("maximum", one, other)

    def relu(self, vector: Value) -> Value:
        """ReLU of a vector or an element; NaN propagates."""
        zero = ir.Constant(vector.type, [0.0] * vector.type.count if isinstance(vector.type, ir.VectorType) else 0.0)
        return self.select(self.fcmp_ordered("<", vector, zero), zero, vector)

    def smaller(self, one: Value, other: Value) -> Value:
        """Minimum of two signed integers."""
        return self.select(self.icmp_signed("<", one, other), one, other)

    def larger(self, one: Value, other: Value) -> Value:
        """Maximum of two signed integers."""
        return self.select(self.icmp_signed(">", one, other), one, other)


def pieces(count: int, lanes: int) -> list[int]:
    """Widths of vectors that cover `count` elements: as many of `lanes` as fit, then descending powers of two."""
    widths = [lanes] * (count // lanes)
    rest, width = count % lanes, lanes // 2
    while rest:
        if width <= rest:
            widths.append(width)
            rest -= width
        width //= 2
    return widths


def starts(widths: Sequence[int]) -> list[int]:
    """Offset of each of adjacent pieces of these widths."""
    return [sum(widths[:index]) for index in range(len(widths))]
