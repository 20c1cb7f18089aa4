"""Microkernels of kernel gradients: sums over the pixels of a map, and their reduction into experts and shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llvmlite import ir

from dyncomp.fast.codegen.emit import Emitter, Functions, Value, integer, starts
from dyncomp.fast.codegen.gradient_plan import Block, GradientPlan
from dyncomp.fast.codegen.plan import Panel

IMAGES, _EXPERTS = 4, 4
"""images and experts that are reduced together: each pair has an accumulator register"""

_Place = tuple[tuple[Value, int], Value]


class GradientMicro(Functions):
    """The microkernels of a plan: they sum over pixels, pack gradients and reduce them."""

    def __init__(self, module: ir.Module, plan: GradientPlan) -> None:
        super().__init__(module)
        self.plan = plan

    def sums(self, panel: Panel, channels: int, kx: int) -> ir.Function:
        """f(x, gradient, out, first, behind, goes_on, soon, row, column): kernel gradient (channels, outputs) of a tap.

        The sum over the output rows from `first` up to `behind` (exclusive): the packed gradient of a panel at each
        pixel times the elements of x that tap `kx` reads for it; added to `out` if `goes_on`. Meanwhile one cache line
        per pixel is prefetched: `soon` is the address for the first pixel, `column` and `row` are strides in bytes.
        """
        key = ("sums", panel.lanes, channels, kx)
        return self.once(key, 9, lambda made: _Sums(made, self.plan, panel, channels).emit(kx))

    def side_by_side(self, panel: Panel) -> ir.Function:
        """f(gradient, out, first, behind): pack a panel of the gradient of output rows `first` to `behind` - 1."""
        return self.once(("lay", panel.lanes), 4, lambda made: _SideBySide(made, self.plan, panel).emit())

    def take_up(self, block: Block, images: int) -> ir.Function:
        """f(own, experts, of_experts, shares, of_shares, inputs): reduce kernel gradients of some inputs of a block.

        For each of `images` images, add the kernel gradient times the share to `of_experts`, and the inner product of
        kernel gradient and expert to `of_shares`, as one partial sum per lane.
        """
        key = ("take", block.panel.lanes, self.plan.of_image(block), images)
        return self.once(key, 6, lambda made: _TakeUp(made, self.plan, block, images).emit())


class _Sums(Emitter):
    def __init__(self, made: ir.Function, plan: GradientPlan, panel: Panel, channels: int) -> None:
        super().__init__(made, plan.plan.number)
        self.shape, self.panel, self.offsets = plan.plan.shape, panel, starts(panel.lanes)
        self.x, self.gradient, self.out = (self.pointer(address) for address in made.args[:3])
        self.bounds, self.goes_on, self.soon = made.args[3:5], made.args[5], made.args[6:]
        vectors = [self.number.vector(lanes) for lanes in panel.lanes]
        self.sums = [[self.stack_slot(vector) for vector in vectors] for _ in range(channels)]

    def emit(self, kx: int) -> None:
        (_, columns), (_, out_columns) = self.shape.rows
        seen = [column for column in range(out_columns) if self.shape.reads_inside(column, kx, axis=1)]
        goes_on = self.icmp_signed("!=", self.goes_on, integer(0))
        for place, there, kind in self._outputs():
            self.store(self.select(goes_on, self.vector(there, kind.count), self.zeros(kind.count)), place)

        soon, down, right = self.soon

        def row(r: Value) -> None:
            line = self.at(self.x, (r, self.shape.stride[0] * columns * self.shape.x_channels))
            out_line = self.at(self.gradient, (r, out_columns * self.panel.outputs))
            soon_line = self.add(soon, self.mul(r, down))

            def place(column: Value) -> None:
                self.prefetch(self.pointer(self.add(soon_line, self.mul(column, right))))
                self._place(line, out_line, column, kx)

            self.loop(integer(seen[0]), integer(seen[-1] + 1), place)

        if seen:
            first, behind = self.bounds
            self.loop(first, behind, row)
        for place, there, kind in self._outputs():
            self.write(self.load(place, typ=kind), there)
        self.ret_void()

    def _outputs(self) -> Iterator[tuple[Value, Value, ir.VectorType]]:
        """Each accumulator, the address that it is written to, and its type."""
        for index, channel in enumerate(self.sums):
            for place, lanes, offset in zip(channel, self.panel.lanes, self.offsets, strict=True):
                there = self.at(self.out, integer(index * self.panel.outputs + offset))
                yield place, there, self.number.vector(lanes)

    def _place(self, line: Value, out_line: Value, column: Value, kx: int) -> None:
        """Accumulate an output pixel's gradient times the elements of x that a tap reads for it."""
        shape = self.shape
        left = integer((kx * shape.dilation[1] - shape.padding[1]) * shape.x_channels)
        x = self.at(line, (column, shape.stride[1] * shape.x_channels), left)
        y = self.at(out_line, (column, self.panel.outputs))
        places = list(zip(self.panel.lanes, self.offsets, strict=True))
        gradients = [self.vector(self.at(y, integer(offset)), lanes) for lanes, offset in places]
        for index, sums in enumerate(self.sums):
            one = None if shape.depthwise else self.load_element(self.at(x, integer(index)))
            for total, gradient, (lanes, offset) in zip(sums, gradients, places, strict=True):
                value = self.vector(self.at(x, integer(offset)), lanes) if one is None else self.broadcast(one, lanes)
                before = self.load(total, typ=gradient.type)
                self.store(self.multiply_add(gradient, value, before), total)


class _SideBySide(Emitter):
    def __init__(self, made: ir.Function, plan: GradientPlan, panel: Panel) -> None:
        super().__init__(made, plan.plan.number)
        self.panel, self.writes, self.columns = panel, plan.plan.shape.y_channels, plan.plan.shape.rows[1][1]

    def emit(self) -> None:
        (source, out), (first, behind) = map(self.pointer, self.made.args[:2]), self.made.args[2:]
        before = self.mul(first, integer(self.columns))

        def pixel(index: Value) -> None:
            from_ = self.at(source, (index, self.writes))
            to = self.at(out, (self.sub(index, before), self.panel.outputs))
            for lanes, offset in zip(self.panel.lanes, starts(self.panel.lanes), strict=True):
                self.write(self.vector(self.at(from_, integer(offset)), lanes), self.at(to, integer(offset)))

        self.loop(before, self.mul(behind, integer(self.columns)), pixel)
        self.ret_void()


class _TakeUp(Emitter):
    def __init__(self, made: ir.Function, plan: GradientPlan, block: Block, images: int) -> None:
        super().__init__(made, plan.plan.number)
        self.experts, self.inputs, self.lanes = plan.plan.experts, made.args[5], block.panel.lanes
        self.apart_shares = plan.plan.lanes
        self.wide, self.apart, self.count = block.panel.outputs, plan.of_image(block), images
        self.own, self.kernels, self.of_kernels, self.shares, self.of_shares = map(self.pointer, made.args[:5])

    def emit(self) -> None:
        """Loop over groups of a few experts."""
        for first in range(0, self.experts, _EXPERTS):
            self._some(range(first, min(first + _EXPERTS, self.experts)))
        self.ret_void()

    def _some(self, experts: Sequence[int]) -> None:
        places = [integer(i * self.experts + k) for i in range(self.count) for k in experts]
        shares = [self.load_element(self.at(self.shares, place)) for place in places]
        products = {lanes: [self.sum_from_zero(lanes) for _ in places] for lanes in set(self.lanes)}

        def input_(index: Value) -> None:
            for lanes, offset in zip(self.lanes, starts(self.lanes), strict=True):
                own = [
                    self.vector(self.at(self.own, (index, self.wide), integer(i * self.apart + offset)), lanes)
                    for i in range(self.count)
                ]
                for number, k in enumerate(experts):
                    at = (index, self.wide * self.experts), integer(offset * self.experts + k * lanes)
                    some = slice(number, None, len(experts))
                    self._expert(own, at, shares[some], products[lanes][some])

        self.loop(integer(0), self.inputs, input_)
        for index, place in enumerate(places):
            there = self.at(self.of_shares, (place, self.apart_shares))
            for lanes, sums in products.items():
                total = self.fadd(self.vector(there, lanes), self.load(sums[index], typ=self.number.vector(lanes)))
                self.write(total, there)

    def _expert(self, own: Sequence[Value], at: _Place, shares: Sequence[Value], products: Sequence[Value]) -> None:
        """One vector of one expert: accumulate its gradient, and its products with the images' kernel gradients."""
        lanes = own[0].type.count
        kernel, there = self.vector(self.at(self.kernels, *at), lanes), self.at(self.of_kernels, *at)
        total = self.vector(there, lanes)
        for gradient, share, product in zip(own, shares, products, strict=True):
            total = self.multiply_add(gradient, self.broadcast(share, lanes), total)
            self.store(self.multiply_add(gradient, kernel, self.load(product, typ=gradient.type)), product)
        self.write(total, there)
